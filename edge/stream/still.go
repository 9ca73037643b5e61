package stream

import (
	"math"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// typeIdle tells a page that its session is about to end because nobody does
// anything: {"left_s": 60}; {"left_s": 0} says that it goes on.
const typeIdle = "perigee::idle"

type idleTold struct {
	LeftS int `json:"left_s"`
}

// still measures for how long neither input came nor the picture changed while
// somebody is connected. It belongs to the loop.
type still struct {
	inputs, drawn      uint64 // as last seen
	inputAt, pictureAt time.Time
	warned             bool
}

// look takes in how many inputs and pictures there were, and gives how long it is
// until the policy ends the session; never without one or while nobody is there.
func (s *still) look(p api.IdlePolicy, now time.Time, there bool, inputs, drawn uint64) time.Duration {
	if !there || s.inputAt.IsZero() || inputs != s.inputs {
		s.inputAt = now
	}
	if !there || s.pictureAt.IsZero() || drawn != s.drawn {
		s.pictureAt = now
	}
	s.inputs, s.drawn = inputs, drawn
	if !there || !p.Watches() {
		return math.MaxInt64
	}
	// What is not watched has been still for ever.
	var end time.Time
	if p.InputMinutes > 0 {
		end = s.inputAt.Add(time.Duration(p.InputMinutes) * time.Minute)
	}
	if t := s.pictureAt.Add(time.Duration(p.PictureMinutes) * time.Minute); p.PictureMinutes > 0 && t.After(end) {
		end = t
	}
	return end.Sub(now)
}

// resting warns the pages before the session ends for want of input and change,
// and then has the daemon end it.
func (s *session) resting(now time.Time) {
	if s.inactive {
		return
	}
	p := s.spec.App.Idle
	left := s.still.look(p, now, s.count() > 0, s.live.inputs.Load(), s.enc.last().Drawn)
	switch warn := left <= p.WarnBefore(); {
	case left <= 0:
		s.inactive = true
	case warn && !s.still.warned:
		s.log.Info("session is about to end: nobody does anything", "left", left.Round(time.Second))
		s.tellIdle(int(math.Ceil(left.Seconds())))
		s.still.warned = true
	case !warn && s.still.warned:
		s.tellIdle(0)
		s.still.warned = false
	}
}

// tellIdle tells every page that takes part.
func (s *session) tellIdle(left int) {
	for _, v := range s.viewers {
		if v.peer == nil || v.over || !v.listens {
			continue
		}
		if err := v.peer.Tell(typeIdle, idleTold{left}); err != nil {
			s.log.Debug("page was not told that the session is about to end", "viewer", v.id, "error", err)
		}
	}
}
