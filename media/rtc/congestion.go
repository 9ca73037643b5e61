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
// of a feedback, a queue delays all, or each more than the one before. While
// there is a queue of ours, what arrives is what the way carries. A still picture
// never lowers the rate.
//
// Room is found by trains: packets of a picture leave at once and arrive as far
// apart as the way needs, so that a way that is wide again shows in the very
// pictures that are sent. Trains that promised what a queue then denied are not
// believed for a while (some ways deliver in bursts).
type congestion struct {
	limits media.Limits
	target float64 // kb/s

	base    [baseBuckets]time.Duration // least delay by second
	baseAt  int64                      // second of the newest bucket
	queued  int                        // feedbacks in a row with a queue
	before  time.Duration              // queue of the last feedback
	changed time.Duration              // of the last decrease
	ceiling float64                    // kb/s that last proved too much; 0 = none
	raised  time.Duration              // of the last increase considered
	leapt   time.Duration              // when trains last made it grow
	promise float64                    // kb/s that they said then
	from    float64                    // kb/s that it grew from
	doubt   time.Duration              // until then trains are not believed
	doubted time.Duration              // for how long they were last not

	arrivals rateWindow
	sent     rateWindow
	lost     lossWindow
	losses   lossWindow    // over a longer time, that no queue of ours explains
	blamed   time.Duration // until then losses are the queue's
	trains   trains
	pictures rateWindow    // payload
	told     float64       // kb/s that pictures may have; 0 = nobody was told
	heard    time.Duration // last feedback
	hears    bool
	hushed   float64 // kb/s before nothing was heard any more; 0 = something is
	capKbps  float64 // the viewer's own estimate (REMB); 0 = none
}

const (
	baseBuckets   = 10
	queueCalm     = 8 * time.Millisecond
	queueLimit    = 40 * time.Millisecond
	cutGrown      = 30 * time.Millisecond
	cutShare      = 0.6
	drainBlur     = 2 * time.Millisecond
	queueBad      = 150 * time.Millisecond // one feedback is enough
	rateSpan      = 500 * time.Millisecond
	arrivalSpan   = 250 * time.Millisecond
	queueLoss     = 600 * time.Millisecond
	lossesSpan    = 3 * time.Second
	lossSpan      = 500 * time.Millisecond
	holdAfter     = 300 * time.Millisecond  // between two decreases
	calmAfter     = time.Second             // before increases, where trains say nothing
	leapAfter     = 400 * time.Millisecond  // and where they say that there is room
	silence       = time.Second             // without feedback while sending
	awayLeast     = 2500 * time.Millisecond // of silence: the way was away, not full
	backOff       = 0.85
	mostDrain     = 0.35
	startFraction = 0.7
	lossBad       = 0.10
	lossFine      = 0.07
	probeFast     = 0.50 // growth a second where no ceiling is known
	probeSlow     = 0.08 // near the ceiling
	probeLeap     = 2.5  // where trains say that there is room
	leapRoom      = 1.25 // so much of it
	leapShare     = 0.92 // of what trains say is the most that they make it grow to
	brim          = 0.96
	trimEvery     = 250 * time.Millisecond
	trimmed       = 0.97
	nearCeiling   = 0.9
	pastCeiling   = 1.1
	oursFraction  = 0.4
	usedFraction  = 1 / 1.5
	doubtFirst    = 10 * time.Second
	doubtMost     = 2 * time.Minute
	doubtAfter    = 2 * time.Second // a queue so soon after a leap may be the leap's
	lie           = 1.5             // and is when trains promised so much more than what arrives,
	neverMore     = 0.7             // which is about what was sent before; less is a way that was cut
)

func newCongestion(limits media.Limits, now time.Duration) *congestion {
	c := &congestion{
		target: max(float64(limits.MaxKbps)*startFraction, float64(limits.MinKbps)), heard: now, raised: now, changed: now - time.Hour,
		leapt: now - time.Hour, doubt: now, doubted: doubtFirst / 2,
		arrivals: rateWindow{span: arrivalSpan}, sent: rateWindow{span: rateSpan}, lost: lossWindow{span: lossSpan}, losses: lossWindow{span: lossesSpan},
		pictures: rateWindow{span: rateSpan},
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

// summary is what one feedback says of the way.
type summary struct {
	least, last time.Duration // delay of the fastest packet, and least of the last few
	kbps        float64       // arrival rate within it; 0: too short to say
}

const (
	lastFew     = 4
	reportLeast = 25 * time.Millisecond // that a rate must span
)

// feedback takes one report of the viewer, oldest packet first. It tells whether
// the target was lowered.
func (c *congestion) feedback(now time.Duration, list []arrival) bool {
	if c.hushed > 0 && c.resume(now) {
		return false
	}
	r, ok := c.read(now, list)
	c.heard, c.hears = now, true
	if !ok {
		return false
	}
	least := c.floor(now, r.least)
	queue := r.least - least
	grown := r.last - least
	if queue > queueLimit {
		c.queued++
	} else {
		c.queued = 0
	}
	// A queue that shrinks needs no second decrease, only time.
	shrinks := queue < c.before || queue <= c.before+drainBlur && now-c.changed < calmAfter
	c.before = queue
	// A cut shows within one feedback: each packet is later than the one before,
	// and fewer arrive than are sent.
	cut := grown > cutGrown && grown-queue > cutGrown/2 && r.kbps > 0 && r.kbps < c.sent.rate(now)*cutShare
	full := c.queued >= 2 || queue > queueBad || cut
	// Who sends little did not fill the way; others did.
	ours := c.uses(now, oursFraction)
	if !full || !ours || shrinks || now-c.changed < holdAfter {
		return false
	}
	// What arrives is what the way carries. Stay below that, to be rid of the
	// queue in half a second or so.
	carries := c.arrivals.kbps()
	if r.kbps > 0 {
		carries = min(carries, r.kbps)
	}
	if now-c.leapt < doubtAfter && c.promise > carries*lie && carries > c.from*neverMore {
		c.doubted = min(2*c.doubted, doubtMost)
		c.doubt = now + c.doubted
	}
	was := c.target
	c.losses, c.blamed = lossWindow{span: lossesSpan}, now+queueLoss
	c.lower(now, carries, carries*(backOff-min(max(queue, grown).Seconds(), mostDrain)))
	return c.target < was
}

// resume begins anew on a way that was away for some seconds, and may be another
// one: what was lost meanwhile tells nothing of what it carries. Without this the
// picture came back at the least bitrate, from which a quiet one hardly grows.
func (c *congestion) resume(now time.Duration) bool {
	was := c.hushed
	c.hushed = 0
	if now-c.heard < awayLeast {
		return false
	}
	c.heard, c.changed, c.raised = now, now, now
	c.target, c.ceiling = max(c.target, was*startFraction), 0
	for i := range c.base {
		c.base[i] = math.MaxInt64
	}
	c.queued, c.before, c.blamed = 0, 0, now+queueLoss
	c.arrivals = rateWindow{span: arrivalSpan}
	c.lost, c.losses = lossWindow{span: lossSpan}, lossWindow{span: lossesSpan}
	c.trains.forget()
	c.clamp()
	return true
}

// read takes a feedback's packets into the windows.
func (c *congestion) read(now time.Duration, list []arrival) (r summary, ok bool) {
	r.least, r.last = math.MaxInt64, math.MaxInt64
	var first, last time.Duration
	var got, bytes int
	for i, a := range list {
		c.lost.add(now, a.received)
		if now >= c.blamed {
			c.losses.add(now, a.received)
		}
		if !a.received {
			c.trains.drop()
			continue
		}
		c.arrivals.add(a.at, a.size)
		c.trains.add(now, a)
		r.least = min(r.least, a.at-a.sent)
		if i >= len(list)-lastFew {
			r.last = min(r.last, a.at-a.sent)
		}
		if got == 0 {
			first = a.at
		} else {
			bytes += a.size
		}
		got, last = got+1, a.at
	}
	if got == 0 {
		return r, false
	}
	if r.last == math.MaxInt64 {
		r.last = r.least
	}
	if got > lastFew && last-first >= reportLeast {
		r.kbps = float64(bytes) * 8 / 1000 / (last - first).Seconds()
	}
	return r, true
}

// floor remembers a delay and gives the least of the last seconds.
func (c *congestion) floor(now, delay time.Duration) time.Duration {
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
	return least
}

func (c *congestion) lower(now time.Duration, ceiling, to float64) {
	c.ceiling = ceiling
	c.target = min(c.target, to)
	c.changed, c.raised = now, now
	c.lost = lossWindow{span: lossSpan} // what was lost before tells nothing of the new rate
	c.trains.forget()
	c.clamp()
}

// tick is called some times a second; it gives the target in kb/s.
func (c *congestion) tick(now time.Duration) int {
	loss, enough := c.lost.share(now)
	room, known := c.trains.kbps(now)
	leap := known && now >= c.doubt && room > c.target*leapRoom
	switch {
	case enough && loss > lossBad && c.queued == 0 && now-c.changed >= holdAfter:
		c.lower(now, c.target, c.target*(1-loss/2))
	case c.hears && now-c.heard > silence && c.sent.total(now) > 0 && now-c.changed >= silence:
		if c.hushed == 0 {
			c.hushed = c.target
		}
		c.lower(now, c.target, c.target/2)
	case c.before > c.brimming():
		c.trim(now)
	case enough && loss >= lossFine:
		c.raised = now
	case leap && now-c.changed >= leapAfter:
		if now-c.leapt > leapAfter {
			c.from = c.target
		}
		c.promise = room
		c.raise(now, probeLeap, room*leapShare)
	case now-c.changed >= calmAfter:
		if growth := c.pace(now, room, known); growth >= 0 {
			c.raise(now, growth, math.Inf(1))
		} else {
			c.raised = now
		}
	default:
		c.raised = now
	}
	return int(c.target)
}

// trim takes a little off while a small queue stands: a cut would take too much.
func (c *congestion) trim(now time.Duration) {
	if now-c.raised < trimEvery || c.queued > 0 {
		return
	}
	c.raised = now
	if c.uses(now, usedFraction) {
		c.target *= trimmed
		c.clamp()
	}
}

// brimming is the queue from which on the way is taken for full: a little more
// than what one packet takes.
func (c *congestion) brimming() time.Duration {
	const packet = 1200 * 8 / 1000 // kb
	return min(queueCalm+time.Duration(packet/c.target*float64(time.Second)), queueLimit)
}

// pace is the growth a second that trains leave; 0: they say nothing; -1: none.
func (c *congestion) pace(now time.Duration, room float64, known bool) float64 {
	switch {
	case !known || now < c.doubt || c.target < room*leapShare*nearCeiling:
		return 0
	case c.target >= room*brim && (c.trains.steady || room > c.arrivals.kbps()):
		return -1
	}
	return probeSlow
}

// uses says whether so much of the target is sent, or of what pictures may have
// of it: at low rates much of it is kept for sound and mending that may not come.
func (c *congestion) uses(now time.Duration, fraction float64) bool {
	return c.sent.rate(now) >= c.target*fraction || c.told > 0 && c.pictures.rate(now) >= c.told*fraction
}

// raise grows the target while what is sent comes near it: what was never
// tried proves nothing. growth 0 is what the ceiling allows.
func (c *congestion) raise(now time.Duration, growth, most float64) {
	dt := (now - c.raised).Seconds()
	c.raised = now
	if !c.uses(now, usedFraction) || !c.hears {
		return
	}
	if growth == probeLeap {
		c.leapt, c.ceiling = now, 0
	} else if growth == 0 {
		growth = probeFast
		if c.ceiling > 0 && c.target > c.ceiling*nearCeiling {
			growth = probeSlow
			if c.target > c.ceiling*pastCeiling {
				c.ceiling = 0 // it does not hold any more
			}
		}
	}
	c.target = max(min(c.target*(1+growth*min(dt, 1)), most), c.target)
	c.clamp()
}
