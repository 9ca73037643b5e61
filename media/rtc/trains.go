package rtc

import (
	"slices"
	"time"
)

// trains measures how fast the narrowest part of a way is from packets that left
// together, as those of one picture do: behind it they are as far apart as it
// needs for each. That tells of more room than is used, before anything more is
// sent, and of less at the first picture after it went.
type trains struct {
	seen   []train
	steady bool // they agreed when last asked

	// Of the train that is being collected.
	count, bytes           int
	sent, began, firstSent time.Duration
	last                   time.Duration
}

type train struct {
	at   time.Duration // our clock
	kbps float64
}

const (
	trainGap    = 3 * time.Millisecond // packets further apart left on their own
	trainLeast  = 600                  // bytes behind its first packet
	trainCount  = 5                    // of them make a guess
	trainSpan   = 400 * time.Millisecond
	trainMost   = 64
	trainSteady = 1.15 // most that the median of them may be above the lower quartile
	// A train that arrives within less says only that the way is wide.
	trainBlur = 500 * time.Microsecond
)

// add takes the next packet that arrived, in the order of sending.
func (t *trains) add(now time.Duration, a arrival) {
	if t.count > 0 && (a.sent-t.sent > trainGap || a.at < t.last) {
		t.end(now)
	}
	if t.count == 0 {
		t.began, t.firstSent, t.bytes = a.at, a.sent, 0
	} else {
		t.bytes += a.size // the first one's size took no part of the time
	}
	t.count++
	t.sent, t.last = a.sent, a.at
}

// end closes the train that is being collected.
func (t *trains) end(now time.Duration) {
	took, left := t.last-t.began, t.sent-t.firstSent
	t.count = 0
	if t.bytes < trainLeast {
		return
	}
	if took <= left { // no narrower than what we sent
		took = left
	}
	t.seen = append(t.seen, train{now, float64(t.bytes) * 8 / 1000 / max(took, trainBlur).Seconds()})
	if len(t.seen) > trainMost {
		t.seen = append(t.seen[:0], t.seen[1:]...)
	}
}

// drop forgets a train with a gap: what was lost would make it look slow.
func (t *trains) drop() { t.count = 0 }

// kbps is what the way seems to carry: the median of the last trains; false: too
// few.
func (t *trains) kbps(now time.Duration) (float64, bool) {
	var list []float64
	for _, s := range t.seen {
		if now-s.at <= trainSpan {
			list = append(list, s.kbps)
		}
	}
	if len(list) < trainCount {
		return 0, false
	}
	slices.Sort(list)
	middle := list[len(list)/2]
	t.steady = middle < list[len(list)/4]*trainSteady
	return middle, true
}

// forget starts afresh, after the way has changed.
func (t *trains) forget() { t.seen, t.count = t.seen[:0], 0 }
