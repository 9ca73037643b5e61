package rtc

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/link"
)

// way is a simulated way to a viewer: a link, jitter, and a viewer that reports
// every 50 ms. Time is virtual.
type way struct {
	kbps   func(time.Duration) float64 // of the bottleneck
	offer  func(target float64, at time.Duration) float64
	delay  time.Duration // one way, both ways alike
	jitter time.Duration // of arrivals, at most
	batch  time.Duration // the way delivers at multiples of it only, as radio does
	loss   float64
	queue  time.Duration // longest; beyond it packets are lost
	skew   float64       // of the viewer's clock, parts

	rnd    *rand.Rand
	c      *congestion
	link   *link.Link[int]
	wire   []arrival // not reported yet, in the order of sending
	lowest int
	worst  time.Duration // queue seen
	lost   int
	all    int
	count  int // packets ever
	newest time.Duration
	// Of the estimate: the longest time above the link, and when it was at 90 %.
	above, aboveNow time.Duration
	reached         time.Duration
}

const packet = 1200

func newWay(limits media.Limits) *way {
	return &way{
		kbps: func(time.Duration) float64 { return 50_000 }, offer: func(t float64, _ time.Duration) float64 { return t },
		delay: 10 * time.Millisecond, queue: 300 * time.Millisecond, rnd: rand.New(rand.NewPCG(1, 2)),
		c: newCongestion(limits, 0), lowest: 1 << 30, link: link.New[int](link.Shape{}, 3),
	}
}

// run lets time pass in steps of a frame (60 a second).
func (w *way) run(from, to time.Duration) {
	const frame = time.Second / 60
	report, tick := from, from
	w.reached = 0
	for now := from; now < to; now += frame {
		w.link.Set(now, link.Shape{Kbps: w.kbps(now), Queue: w.queue, Delay: w.delay})
		target := float64(w.c.tick(now))
		if now-tick >= 100*time.Millisecond {
			tick = now
			w.lowest = min(w.lowest, int(target))
		}
		if w.aboveNow += frame; target <= w.kbps(now)*1.02 { // what is told leaves headers out
			w.aboveNow = 0
		}
		w.above = max(w.above, w.aboveNow)
		if w.reached == 0 && target >= w.kbps(now)*0.9 {
			w.reached = now
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
	w.count++
	w.c.onSent(now, size)
	w.wire = append(w.wire, arrival{sent: now, size: size})
	if w.rnd.Float64() < w.loss {
		w.lost++
		return
	}
	dropped := w.link.Dropped
	w.link.Send(now, size, w.count)
	w.lost += w.link.Dropped - dropped
}

// report gives the sender what had arrived one delay ago. A packet is missing
// once a later one is there.
func (w *way) report(now time.Duration) {
	first := w.count - len(w.wire) + 1
	newest := -1
	for {
		n, at, ok := w.link.Receive(now - w.delay)
		if !ok {
			break
		}
		a := &w.wire[n-first]
		w.worst = max(w.worst, at-a.sent-w.delay)
		if w.jitter > 0 {
			at += time.Duration(w.rnd.Int64N(int64(w.jitter)))
		}
		if w.batch > 0 {
			at = (at/w.batch + 1) * w.batch
		}
		at = max(at, w.newest) // nothing overtakes
		w.newest = at
		a.received, a.at = true, time.Duration(float64(at)*(1+w.skew))+1000*time.Hour // another clock
		newest = n - first
	}
	if newest >= 0 {
		w.c.feedback(now, w.wire[:newest+1])
		w.wire = w.wire[newest+1:]
	}
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

// The bench's link, in virtual time: 6 Mb/s cut to 1 for 10 s, 40 ms of round
// trip, 150 ms of queue.
func TestCutLink(t *testing.T) {
	for _, jitter := range []time.Duration{0, 5 * time.Millisecond} {
		w := newWay(media.Limits{MinKbps: 150, MaxKbps: 8000})
		w.delay, w.queue, w.jitter = 20*time.Millisecond, 150*time.Millisecond, jitter
		const cut, open = 20 * time.Second, 30 * time.Second
		w.kbps = func(at time.Duration) float64 {
			if at >= cut && at < open {
				return 1000
			}
			return 6000
		}
		w.run(0, cut)
		if w.c.target < 5000 || w.above > time.Second {
			t.Errorf("jitter %s: before the cut %.0f, above the link for %s", jitter, w.c.target, w.above)
		}
		w.above, w.aboveNow, w.lowest = 0, 0, 1<<30
		w.run(cut, open)
		if w.above > time.Second || w.lowest < 500 || w.c.target < 700 {
			t.Errorf("jitter %s: above the cut link for %s, lowest %d, in the end %.0f", jitter, w.above, w.lowest, w.c.target)
		}
		w.above = 0
		w.run(open, open+10*time.Second)
		if w.reached == 0 || w.reached-open > 3*time.Second || w.above > time.Second {
			t.Errorf("jitter %s: 90 %% of the open link after %s, above it for %s", jitter, w.reached-open, w.above)
		}
	}
}

// Radio delivers in bursts, which look like a way without end: believed once.
func TestBurstsAreNotRoom(t *testing.T) {
	w := newWay(media.Limits{MinKbps: 150, MaxKbps: 8000})
	w.batch, w.kbps = 8*time.Millisecond, constant(2000)
	w.run(0, 10*time.Second)
	lost := w.lost
	w.run(10*time.Second, 60*time.Second)
	if w.c.target < 1200 || w.lost-lost > 100 {
		t.Errorf("target %.0f on a way of 2,000, %d lost", w.c.target, w.lost-lost)
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
		{3000, 2900, 6 * time.Second, true}, {3000, 3050, 2 * time.Second, false}, {3000, 3400, 100 * time.Millisecond, false},
		{3000, 3400, 200 * time.Millisecond, true}, {3000, 3100, 500 * time.Millisecond, false}, {3000, 3100, 2 * time.Second, true}, {3000, 3010, 6 * time.Second, true},
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

// A way that was away for seconds comes back at a good part of what it carried,
// though a quiet picture does not ask for it; a short silence is taken for a full way.
func TestComesBackAfterSilence(t *testing.T) {
	for _, c := range []struct {
		away        time.Duration
		least, most int
	}{{5 * time.Second, 2000, 3000}, {1500 * time.Millisecond, 300, 2000}} {
		cc := newCongestion(media.Limits{MinKbps: 150, MaxKbps: 5000}, 0)
		now := time.Duration(0)
		step := func(heard bool) {
			now += 50 * time.Millisecond
			cc.onSent(now, 1000)
			if heard {
				cc.feedback(now, []arrival{{sent: now - 20*time.Millisecond, size: 1000, received: true, at: now}})
			}
			cc.tick(now)
		}
		for range 40 {
			step(true)
		}
		for end := now + c.away; now < end; {
			step(false)
		}
		step(true)
		step(true)
		if got := cc.tick(now); got < c.least || got > c.most {
			t.Errorf("%s of silence: %d kb/s, want %d to %d", c.away, got, c.least, c.most)
		}
	}
}
