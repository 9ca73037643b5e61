package capture

import "time"

// Pacer caps the rate of pictures without a timer of its own: a picture after
// a pause is due at once, a burst is spread out. It lets a picture come up to
// one interval early as long as the average stays within the rate, so that an
// application drawing at just this rate with some jitter is never held back.
// The zero Pacer allows everything; it is for one goroutine.
type Pacer struct {
	interval time.Duration
	due      time.Duration // when the next picture would be on schedule
}

// NewPacer allows fps pictures per second.
func NewPacer(fps int) Pacer {
	return Pacer{interval: time.Second / time.Duration(max(fps, 1))}
}

// Delay gives how long a picture must still wait at now (any steady clock):
// 0 = take it now.
func (p *Pacer) Delay(now time.Duration) time.Duration {
	return max(p.due-p.interval-now, 0)
}

// Take notes that a picture was taken at now.
func (p *Pacer) Take(now time.Duration) {
	p.due = max(p.due, now) + p.interval
}
