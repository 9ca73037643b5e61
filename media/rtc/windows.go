package rtc

import "time"

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
