package encoder

import (
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/media"
)

// inputs remembers the inputs that pictures may show, oldest first.
type inputs struct{ list []media.Input }

// inputsMost bounds the list: a second of a fast mouse.
const inputsMost = 1024

func (i *inputs) add(in media.Input) {
	if len(i.list) >= inputsMost {
		i.list = slices.Delete(i.list, 0, inputsMost/2)
	}
	i.list = append(i.list, in)
}

// shown gives the newest input that reached the X server before the application
// drew a picture, which may be its answer; 0 = none.
func (i *inputs) shown(drawn int64) uint64 {
	for len(i.list) > 1 && i.list[1].At <= drawn {
		i.list = slices.Delete(i.list, 0, 1)
	}
	if len(i.list) == 0 || i.list[0].At > drawn {
		return 0
	}
	return i.list[0].ID
}

// stats counts pictures and times since the last State.
type stats struct{ times []time.Duration }

// statsMost bounds the times: a second at the highest rate.
const statsMost = 256

func (t *stats) add(d time.Duration) {
	if len(t.times) < statsMost {
		t.times = append(t.times, d)
	}
}

// take gives the counts so far and starts again.
func (t *stats) take() media.State {
	n := len(t.times)
	st := media.State{Frames: n}
	if n > 0 {
		slices.Sort(t.times)
		ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
		st.EncodeMSP50, st.EncodeMSP95 = ms(t.times[n/2]), ms(t.times[n*95/100])
	}
	t.times = t.times[:0]
	return st
}
