package rtc

import (
	"math"
	"time"

	"github.com/perigee-cloud/perigee/media"
)

// arrival is what a viewer's feedback says of one packet.
type arrival struct {
	sent     time.Duration // our clock
	size     int           // bytes
	received bool
	at       time.Duration // the viewer's clock; only differences mean something
}

// congestion finds the bitrate that the way to a viewer carries, from when
// packets left and when they arrived. It reads no clock: times are since an
// arbitrary start. One goroutine at a time.
//
// What counts is the standing queue: the least delay of a whole feedback over
// the least of the last seconds. Jitter of a busy receiver delays some packets
// of a feedback, a queue delays all. While there is a queue of ours, what
// arrives is what the way carries. A still picture never lowers the rate.
type congestion struct {
	limits media.Limits
	target float64 // kb/s

	base      [baseBuckets]time.Duration // least delay by second
	baseAt    int64                      // second of the newest bucket
	queued    int                        // feedbacks in a row with a queue
	before    [3]time.Duration           // queues of the last feedbacks, oldest first
	changed   time.Duration              // of the last decrease
	ceiling   float64                    // kb/s that last proved too much; 0 = none
	increased time.Duration              // of the last increase considered

	arrivals rateWindow
	sent     rateWindow
	lost     lossWindow
	heard    time.Duration // last feedback
	hears    bool
	capKbps  float64 // the viewer's own estimate (REMB); 0 = none
}

const (
	baseBuckets   = 10
	queueLimit    = 40 * time.Millisecond
	queueBad      = 150 * time.Millisecond // one feedback is enough
	rateSpan      = 500 * time.Millisecond
	arrivalSpan   = 250 * time.Millisecond
	lossSpan      = 500 * time.Millisecond
	holdAfter     = 300 * time.Millisecond // between two decreases
	calmAfter     = time.Second            // before increases
	silence       = time.Second            // without feedback while sending
	backOff       = 0.85
	mostDrain     = 0.35
	startFraction = 0.7
	lossBad       = 0.10
	lossFine      = 0.02
	probeFast     = 0.50 // growth a second where no ceiling is known
	probeSlow     = 0.08 // near the ceiling
	nearCeiling   = 0.9
	pastCeiling   = 1.1
	oursFraction  = 0.4
	usedFraction  = 1 / 1.5
)

func newCongestion(limits media.Limits, now time.Duration) *congestion {
	c := &congestion{
		target: max(float64(limits.MaxKbps)*startFraction, float64(limits.MinKbps)), heard: now, increased: now, changed: now - time.Hour,
		arrivals: rateWindow{span: arrivalSpan}, sent: rateWindow{span: rateSpan}, lost: lossWindow{span: lossSpan},
	}
	c.setLimits(limits)
	for i := range c.base {
		c.base[i] = math.MaxInt64
	}
	return c
}

// setLimits changes the bounds, for example with the size of the picture.
func (c *congestion) setLimits(l media.Limits) {
	c.limits = l
	c.clamp()
}

func (c *congestion) clamp() {
	hi := float64(c.limits.MaxKbps)
	if c.capKbps > 0 {
		hi = min(hi, c.capKbps)
	}
	c.target = max(min(c.target, hi), float64(c.limits.MinKbps))
}

// onSent counts a packet that leaves.
func (c *congestion) onSent(now time.Duration, size int) { c.sent.add(now, size) }

// remb takes the estimate of a viewer that makes its own.
func (c *congestion) remb(kbps float64) {
	c.capKbps = kbps
	c.clamp()
}

// feedback takes one report of the viewer, oldest packet first.
func (c *congestion) feedback(now time.Duration, list []arrival) {
	least := time.Duration(math.MaxInt64)
	for _, a := range list {
		c.lost.add(now, a.received)
		if !a.received {
			continue
		}
		c.arrivals.add(a.at, a.size)
		least = min(least, a.at-a.sent)
	}
	c.heard, c.hears = now, true
	if least == math.MaxInt64 {
		return
	}
	queue := c.queue(now, least)
	switch {
	case queue > queueLimit:
		c.queued++
	default:
		c.queued = 0
	}
	// A queue that shrinks needs no second decrease, only time.
	shrinks := queue < c.before[0]
	c.before = [3]time.Duration{c.before[1], c.before[2], queue}
	full := c.queued >= 2 || queue > queueBad
	// Who sends little did not fill the way; others did.
	ours := c.sent.rate(now) >= c.target*oursFraction
	if full && ours && !shrinks && now-c.changed >= holdAfter {
		// What arrives is what the way carries. Stay below that, to be rid of the
		// queue in half a second or so.
		carries := c.arrivals.kbps()
		c.lower(now, carries, carries*(backOff-min(queue.Seconds(), mostDrain)))
	}
}

// queue gives the standing queue and remembers the delay.
func (c *congestion) queue(now, delay time.Duration) time.Duration {
	second := int64(now / time.Second)
	for s := max(c.baseAt+1, second-baseBuckets+1); s <= second; s++ {
		c.base[s%baseBuckets] = math.MaxInt64
	}
	c.baseAt = max(c.baseAt, second)
	b := &c.base[second%baseBuckets]
	*b = min(*b, delay)
	least := delay
	for _, v := range c.base {
		least = min(least, v)
	}
	return delay - least
}

func (c *congestion) lower(now time.Duration, ceiling, to float64) {
	c.ceiling = ceiling
	c.target = min(c.target, to)
	c.changed, c.increased = now, now
	c.lost = lossWindow{span: lossSpan} // what was lost before tells nothing of the new rate
	c.clamp()
}

// tick is called some times a second; it gives the target in kb/s.
func (c *congestion) tick(now time.Duration) int {
	loss, enough := c.lost.share(now)
	switch {
	case enough && loss > lossBad && c.queued == 0 && now-c.changed >= holdAfter:
		c.lower(now, c.target, c.target*(1-loss/2))
	case c.hears && now-c.heard > silence && c.sent.total(now) > 0 && now-c.changed >= silence:
		c.lower(now, c.target, c.target/2)
	case now-c.changed >= calmAfter && c.queued == 0 && (!enough || loss < lossFine):
		c.raise(now)
	default:
		c.increased = now
	}
	return int(c.target)
}

// raise grows the target while what is sent comes near it: what was never
// tried proves nothing.
func (c *congestion) raise(now time.Duration) {
	dt := (now - c.increased).Seconds()
	c.increased = now
	if c.sent.rate(now) < c.target*usedFraction || !c.hears {
		return
	}
	growth := probeFast
	if c.ceiling > 0 && c.target > c.ceiling*nearCeiling {
		growth = probeSlow
		if c.target > c.ceiling*pastCeiling {
			c.ceiling = 0 // it does not hold any more
		}
	}
	c.target *= 1 + growth*min(dt, 1)
	c.clamp()
}

// rateWindow counts bytes over the last span.
type rateWindow struct {
	span  time.Duration
	items []sized
	bytes int
}

type sized struct {
	at   time.Duration
	size int
}

const windowItems = 8192 // bounds the memory of a window

func (w *rateWindow) add(at time.Duration, size int) {
	w.items = append(w.items, sized{at, size})
	w.bytes += size
	w.trim(at)
}

func (w *rateWindow) trim(now time.Duration) {
	n := 0
	for n < len(w.items) && (now-w.items[n].at > w.span || len(w.items)-n > windowItems) {
		w.bytes -= w.items[n].size
		n++
	}
	if n > 0 {
		w.items = append(w.items[:0], w.items[n:]...)
	}
}

func (w *rateWindow) total(now time.Duration) int {
	w.trim(now)
	return w.bytes
}

// rate gives kb/s over the whole span.
func (w *rateWindow) rate(now time.Duration) float64 {
	return float64(w.total(now)) * 8 / 1000 / w.span.Seconds()
}

// kbps gives the rate between the first and the last item.
func (w *rateWindow) kbps() float64 {
	if len(w.items) < 2 {
		return 0
	}
	d := w.items[len(w.items)-1].at - w.items[0].at
	if d < 50*time.Millisecond {
		d = 50 * time.Millisecond
	}
	return float64(w.bytes-w.items[0].size) * 8 / 1000 / d.Seconds()
}

// lossWindow counts what got lost over the last span.
type lossWindow struct {
	span  time.Duration
	items []outcome
	lost  int
}

type outcome struct {
	at   time.Duration
	lost bool
}

const lossEnough = 20 // packets before a share means something

func (w *lossWindow) add(now time.Duration, received bool) {
	w.items = append(w.items, outcome{now, !received})
	if !received {
		w.lost++
	}
	w.trim(now)
}

func (w *lossWindow) trim(now time.Duration) {
	n := 0
	for n < len(w.items) && (now-w.items[n].at > w.span || len(w.items)-n > windowItems) {
		if w.items[n].lost {
			w.lost--
		}
		n++
	}
	if n > 0 {
		w.items = append(w.items[:0], w.items[n:]...)
	}
}

func (w *lossWindow) share(now time.Duration) (float64, bool) {
	w.trim(now)
	if len(w.items) < lossEnough {
		return 0, false
	}
	return float64(w.lost) / float64(len(w.items)), true
}
