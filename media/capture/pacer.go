package capture

import "time"

// Pacer says when a picture may be taken. It caps the rate by a bucket of
// pictures that fills at the rate, and has no timer and no grid of its own: a
// picture is due when the application has drawn it, for as long as there is one
// in the bucket.
//
// Out of pictures, it drops some instead of delaying all: an application that
// draws at about the rate, and once more for each input, would else be shown a
// part of an interval late for ever. What was drawn waits for the next drawing,
// which replaces it; what is drawn over and over waits for one interval.
//
// What is drawn after an input goes first: for that the bucket may be overdrawn.
// In any time t there are no more than fps × t + pacerBurst + pacerOverdraft
// pictures. The zero Pacer allows everything; it is for one goroutine and any
// steady clock.
type Pacer struct {
	interval time.Duration
	tokens   float64       // in the bucket at last; negative = overdrawn
	last     time.Duration // when the last picture was taken
	began    bool          // last is set

	waiting bool          // something was drawn at drawn and is not taken
	drawn   time.Duration //
	again   bool          // and drawn over while it waited

	input   time.Duration // of the last input
	hurried int           // pictures that may still be hurried for it
}

const (
	// pacerBurst pictures may come at once after a pause.
	pacerBurst = 3
	// pacerOverdraft more may for inputs.
	pacerOverdraft = 3
	// An input's effect is looked for in the next pictures, and for this long:
	// the first may be what was drawn just before it.
	inputPictures = 2
	inputEffect   = 100 * time.Millisecond
)

// NewPacer allows fps pictures per second.
func NewPacer(fps int) Pacer {
	return Pacer{interval: time.Second / time.Duration(max(fps, 1)), tokens: pacerBurst}
}

// Drawn notes that something was drawn.
func (p *Pacer) Drawn(now time.Duration) {
	if p.waiting {
		p.again = true
		return
	}
	p.waiting, p.drawn, p.again = true, now, false
}

// Input notes that an input reached the application.
func (p *Pacer) Input(now time.Duration) {
	p.input, p.hurried = now, inputPictures
}

// Delay gives how long what was drawn must still wait at now; 0 = take it now.
func (p *Pacer) Delay(now time.Duration) time.Duration {
	if !p.began || p.interval == 0 {
		return 0
	}
	since := now - p.last
	tokens := p.filled(now)
	hurry := p.hurried > 0 && now-p.input < inputEffect
	switch {
	case hurry && tokens > 1-pacerOverdraft:
		return max(p.interval/4-since, 0)
	case tokens >= 1:
		// Half an interval: drawing done in several steps is one picture.
		return max(p.interval/2-since, 0)
	case p.again && tokens < 0: // an overdraft is paid back by and by
		return max(p.interval*9/8-since, 0)
	case p.again || hurry:
		return max(p.interval-since, 0)
	}
	// A little more than an interval: the next drawing is expected by then.
	return max(p.drawn+p.interval*5/4-now, p.interval-since, 0)
}

// Take notes that a picture was taken at now.
func (p *Pacer) Take(now time.Duration) {
	p.tokens = p.filled(now) - 1
	p.last, p.began = now, true
	p.waiting, p.again = false, false
	if p.hurried > 0 {
		p.hurried--
	}
}

// Skip notes that nothing was to be seen of what was drawn.
func (p *Pacer) Skip() { p.waiting, p.again = false, false }

func (p *Pacer) filled(now time.Duration) float64 {
	if p.interval == 0 {
		return pacerBurst
	}
	return min(p.tokens+float64(now-p.last)/float64(p.interval), pacerBurst)
}
