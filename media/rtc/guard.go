package rtc

import "time"

// care is how pictures are protected against loss.
type care int

const (
	careNone   care = iota
	careLight       // one parity packet for five
	careStrong      // each packet in two parity packets
)

// guard decides what losses cost: whether pictures are protected before they are
// lost, and when there is so much to mend that a new keyframe is cheaper.
type guard struct {
	care    care
	better  time.Duration // since when less would do
	packets float64       // of a picture, a running mean
	loss    float64       // share of late

	missing []sized       // lost of late
	fell    time.Duration // when a keyframe was last asked for
}

const (
	// Above these shares of loss that no queue explains, pictures are protected;
	// well below them for some time, no longer.
	lightLoss   = 0.01
	strongLoss  = 0.025
	enoughLess  = 0.5
	careKept    = 8 * time.Second
	lossByQueue = time.Second // after a decrease

	// What is missing is not sent again but replaced by a keyframe when it is more
	// than the way carries in this time.
	collapseAt    = 150 * time.Millisecond
	collapseSpan  = 400 * time.Millisecond
	collapseEvery = 500 * time.Millisecond
	collapseLeast = 10_000 // bytes
)

// look decides how pictures are protected, some times a second.
func (g *guard) look(now time.Duration, c *congestion) {
	loss, enough := c.losses.share(now)
	if !enough {
		loss = 0
	}
	g.loss = loss
	want := careNone
	switch {
	case loss > strongLoss:
		want = careStrong
	case loss > lightLoss:
		want = careLight
	}
	switch {
	case want > g.care:
		// A full queue loses packets too; more of them would not help.
		if now-c.changed > lossByQueue && c.queued == 0 {
			g.care, g.better = want, now
		}
	case g.care == careStrong && loss > strongLoss*enoughLess, g.care == careLight && loss > lightLoss*enoughLess:
		g.better = now
	case g.care != careNone && now-g.better > careKept:
		g.care, g.better = want, now
	}
}

// share is what mending adds to the rate of the pictures.
func (g *guard) share() float64 {
	again := min(g.loss, 0.2)
	if g.care == careNone {
		return again
	}
	return again + share(int(g.packets+0.5), g.care == careStrong)
}

// collapse takes what a feedback says is lost; true: a keyframe is there sooner
// than what would have to be sent again.
func (g *guard) collapse(now time.Duration, list []arrival, kbps float64) bool {
	n := 0
	for n < len(g.missing) && now-g.missing[n].at > collapseSpan {
		n++
	}
	g.missing = append(g.missing[:0], g.missing[n:]...)
	for _, a := range list {
		if !a.received && len(g.missing) < historySize {
			g.missing = append(g.missing, sized{now, a.size})
		}
	}
	var bytes int
	for _, m := range g.missing {
		bytes += m.size
	}
	if bytes < collapseLeast || float64(bytes)*8/1000 < kbps*collapseAt.Seconds() || now-g.fell < collapseEvery && g.fell != 0 {
		return false
	}
	g.fell, g.missing = now, g.missing[:0]
	return true
}
