package rtc

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/media"
)

// way is a simulated way to a viewer: a bottleneck with a queue, delay, jitter,
// loss, and a viewer that reports every 50 ms. Time is virtual.
type way struct {
	kbps   func(time.Duration) float64 // of the bottleneck
	offer  func(target float64, at time.Duration) float64
	delay  time.Duration // one way, both ways alike
	jitter time.Duration // of arrivals, at most
	loss   float64
	queue  time.Duration // longest; beyond it packets are lost
	skew   float64       // of the viewer's clock, parts

	rnd    *rand.Rand
	c      *congestion
	free   time.Duration // when the bottleneck is idle again
	wire   []arrival     // on their way, with the time they are there as ours
	there  []time.Duration
	lowest int
	worst  time.Duration // queue seen
	lost   int
	all    int
}

const packet = 1200

func newWay(limits media.Limits) *way {
	return &way{
		kbps: func(time.Duration) float64 { return 50_000 }, offer: func(t float64, _ time.Duration) float64 { return t },
		delay: 10 * time.Millisecond, queue: 300 * time.Millisecond, rnd: rand.New(rand.NewPCG(1, 2)),
		c: newCongestion(limits, 0), lowest: 1 << 30,
	}
}

// run lets time pass in steps of a frame (60 a second).
func (w *way) run(from, to time.Duration) {
	const frame = time.Second / 60
	report, tick := from, from
	for now := from; now < to; now += frame {
		target := float64(w.c.tick(now))
		if now-tick >= 100*time.Millisecond {
			tick = now
			w.lowest = min(w.lowest, int(target))
		}
		for bytes := w.offer(target, now) * 1000 / 8 * frame.Seconds(); bytes > 0; bytes -= packet {
			w.send(now, int(min(bytes, packet)))
		}
		if now-report >= 50*time.Millisecond {
			report = now
			w.report(now)
		}
	}
}

func (w *way) send(now time.Duration, size int) {
	w.all++
	w.c.onSent(now, size)
	a := arrival{sent: now, size: size, received: true}
	w.free = max(w.free, now)
	if w.free-now > w.queue || w.rnd.Float64() < w.loss {
		a.received = false
		w.lost++
		w.wire, w.there = append(w.wire, a), append(w.there, w.free+w.delay)
		return
	}
	w.worst = max(w.worst, w.free-now)
	w.free += time.Duration(float64(size) * 8 / 1000 / w.kbps(now) * float64(time.Second))
	at := w.free + w.delay
	if w.jitter > 0 {
		at += time.Duration(w.rnd.Int64N(int64(w.jitter)))
	}
	a.at = time.Duration(float64(at)*(1+w.skew)) + 1000*time.Hour // another clock
	w.wire, w.there = append(w.wire, a), append(w.there, at)
}

// report gives the sender what had arrived one delay ago.
func (w *way) report(now time.Duration) {
	n := 0
	for n < len(w.wire) && w.there[n] <= now-w.delay {
		n++
	}
	if n > 0 {
		w.c.feedback(now, w.wire[:n])
	}
	w.wire, w.there = w.wire[n:], w.there[n:]
}

var hd60 = media.Limits{MinKbps: 1500, MaxKbps: 5000}

func constant(kbps float64) func(time.Duration) float64 {
	return func(time.Duration) float64 { return kbps }
}

func TestCleanWayReachesTheMost(t *testing.T) {
	w := newWay(hd60)
	w.run(0, 5*time.Second)
	if w.c.target != 5000 || w.lowest < 3500 {
		t.Errorf("target %.0f, lowest %d", w.c.target, w.lowest)
	}
}

func TestStillPictureNeverLowers(t *testing.T) {
	w := newWay(hd60)
	w.jitter = 8 * time.Millisecond
	w.offer = func(target float64, at time.Duration) float64 {
		if at > 2*time.Second && at < 60*time.Second {
			return 40 // a blinking cursor
		}
		return target
	}
	w.run(0, 60*time.Second)
	if w.c.target != 5000 {
		t.Errorf("a still picture brought the target to %.0f", w.c.target)
	}
	w.run(60*time.Second, 62*time.Second)
	if w.c.target < 4500 || w.lowest < 3500 {
		t.Errorf("motion again: target %.0f, lowest %d", w.c.target, w.lowest)
	}
}

// A busy browser delays packets by tens of milliseconds now and then.
func TestJitterAndLittleLossDoNotLower(t *testing.T) {
	w := newWay(hd60)
	w.jitter, w.loss, w.skew = 30*time.Millisecond, 0.01, 100e-6
	w.run(0, 60*time.Second)
	if w.lowest < 3500 || w.c.target < 4500 {
		t.Errorf("target %.0f, lowest %d", w.c.target, w.lowest)
	}
}

func TestNarrowWayIsFollowed(t *testing.T) {
	limits := media.Limits{MinKbps: 300, MaxKbps: 6000}
	w := newWay(limits)
	w.kbps = func(at time.Duration) float64 {
		if at > 10*time.Second && at < 21*time.Second {
			return 1000
		}
		return 6000
	}
	w.run(0, 10*time.Second)
	if w.c.target < 4000 {
		t.Fatalf("target %.0f before the cut", w.c.target)
	}
	w.run(10*time.Second, 12*time.Second)
	if w.c.target > 1100 {
		t.Errorf("two seconds after the cut the target is %.0f", w.c.target)
	}
	w.run(12*time.Second, 13*time.Second)
	w.lowest, w.worst, w.lost, w.all = 1<<30, 0, 0, 0
	w.run(13*time.Second, 21*time.Second)
	if w.lowest < 500 {
		t.Errorf("fell to %d on a way of 1,000", w.lowest)
	}
	if w.worst > 250*time.Millisecond || w.lost*50 > w.all {
		t.Errorf("while it is narrow: queue up to %s, %d of %d lost", w.worst, w.lost, w.all)
	}
	w.run(21*time.Second, 27*time.Second)
	if w.c.target < 3000 {
		t.Errorf("six seconds after it is wide again the target is %.0f", w.c.target)
	}
}

// Somebody else's download fills the way while the picture stands still.
func TestOthersQueueDoesNotLower(t *testing.T) {
	w := newWay(hd60)
	w.run(0, 3*time.Second)
	w.offer = func(float64, time.Duration) float64 { return 100 }
	w.kbps = constant(120)
	w.delay += 100 * time.Millisecond
	w.lowest = 1 << 30
	w.run(3*time.Second, 10*time.Second)
	if w.lowest < 3500 {
		t.Errorf("fell to %d", w.lowest)
	}
}

func TestHeavyLossLowersAtOnce(t *testing.T) {
	limits := media.Limits{MinKbps: 300, MaxKbps: 5000}
	w := newWay(limits)
	w.run(0, 5*time.Second)
	w.loss = 0.3
	w.run(5*time.Second, 6*time.Second)
	if w.c.target > 3700 {
		t.Errorf("a second of 30 %% loss: target %.0f", w.c.target)
	}
	w.loss = 0.9
	w.run(6*time.Second, 15*time.Second)
	if w.c.target != 300 {
		t.Errorf("the floor is 300, the target %.0f", w.c.target)
	}
}

func TestSilentViewer(t *testing.T) {
	limits := media.Limits{MinKbps: 300, MaxKbps: 5000}
	w := newWay(limits)
	w.run(0, 3*time.Second)
	for now := 3 * time.Second; now < 8*time.Second; now += 10 * time.Millisecond {
		w.c.onSent(now, packet)
		w.c.tick(now)
	}
	if w.c.target > 700 {
		t.Errorf("five seconds without feedback: target %.0f", w.c.target)
	}
	never := newCongestion(limits, 0) // a client without transport-cc
	for now := time.Duration(0); now < 8*time.Second; now += 10 * time.Millisecond {
		never.onSent(now, packet)
		never.tick(now)
	}
	if never.target != 3500 {
		t.Errorf("without any feedback the start must hold, the target is %.0f", never.target)
	}
	never.remb(900)
	if never.target != 900 {
		t.Errorf("the viewer's own estimate of 900 gives %.0f", never.target)
	}
	never.remb(9000)
	never.setLimits(media.Limits{MinKbps: 1000, MaxKbps: 2000})
	if got := never.tick(9 * time.Second); got != 1000 {
		t.Errorf("new limits give %d", got)
	}
}

func TestWorthTelling(t *testing.T) {
	for _, c := range []struct {
		told, kbps int
		since      time.Duration
		want       bool
	}{
		{0, 3000, 0, true}, {3000, 3000, time.Hour, false}, {3000, 2900, 0, false}, {3000, 2800, 0, true},
		{3000, 2900, 6 * time.Second, true}, {3000, 3200, 2 * time.Second, false}, {3000, 3400, 500 * time.Millisecond, false},
		{3000, 3400, time.Second, true}, {3000, 3010, 6 * time.Second, true},
	} {
		if got := worthTelling(c.told, c.kbps, c.since); got != c.want {
			t.Errorf("%d after %d for %s: %v", c.kbps, c.told, c.since, got)
		}
	}
}

func TestClockOnlyGrows(t *testing.T) {
	c := clock{rate: 90_000, base: 100}
	at := time.Unix(0, 0)
	step := func(pts time.Duration, wall time.Duration) uint32 {
		at = at.Add(wall)
		return c.stamp(pts, at) - 100
	}
	if v := step(time.Second, 0); v != 90_000 {
		t.Errorf("one second is %d", v)
	}
	if v := step(1020*time.Millisecond, 20*time.Millisecond); v != 91_800 {
		t.Errorf("20 ms later is %d", v)
	}
	// Another process begins at 0; 300 ms passed meanwhile.
	if v := step(5*time.Millisecond, 300*time.Millisecond); v != 91_800+27_000 {
		t.Errorf("the next process's first picture is %d", v)
	}
	if v := step(15*time.Millisecond, 10*time.Millisecond); v != 91_800+27_900 {
		t.Errorf("its second is %d", v)
	}
	c.jumped = true // told, though its times happen to be later
	if v := step(10*time.Hour, 100*time.Millisecond); v != 91_800+27_900+9_000 {
		t.Errorf("a third process's first picture is %d", v)
	}
}
