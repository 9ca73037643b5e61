package stream

import (
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// steps lowers the rate of pictures where the way carries too little for all of
// them to look well, and raises it again: few good pictures show more than many
// bad ones.
type steps struct {
	mu     sync.Mutex
	screen api.Screen
	game   bool // rate before sharpness
	down   int  // steps below the session's rate
	roomy  time.Time
}

const (
	// wellKbps is what 1280x720 at 60 a second wants to look well (Anbox's
	// published floor for it is 2.5 Mb/s, for 30 a second 1); others by
	// macroblocks a second.
	wellKbps = 1500
	wellMBs  = 216_000
	// A higher rate must be affordable with something to spare, for some time.
	spare     = 1.3
	roomyFor  = 2 * time.Second
	leastFPS  = 15
	leastGame = 30
)

// set starts with a session's size and rate.
func (s *steps) set(screen api.Screen, content string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if screen != s.screen {
		s.screen, s.down, s.roomy = screen, 0, time.Time{}
	}
	s.game = content == api.ContentMotion
}

// fps gives the rate for a bitrate.
func (s *steps) fps(kbps int, now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.at(s.down+1) >= s.least() && kbps < s.wants(s.down) {
		s.down, s.roomy = s.down+1, time.Time{}
	}
	switch {
	case s.down == 0 || float64(kbps) < float64(s.wants(s.down-1))*spare:
		s.roomy = time.Time{}
	case s.roomy.IsZero():
		s.roomy = now
	case now.Sub(s.roomy) >= roomyFor:
		s.down, s.roomy = s.down-1, time.Time{}
	}
	return s.at(s.down)
}

// at is the rate after some steps down: half, a third, a quarter, so that
// pictures stay evenly apart.
func (s *steps) at(down int) int { return s.screen.FPS / (down + 1) }

func (s *steps) least() int {
	if s.game {
		return leastGame
	}
	return leastFPS
}

// wants is the bitrate below which the rate after some steps is too high.
func (s *steps) wants(down int) int {
	mbs := api.Macroblocks(s.screen.Width, s.screen.Height, s.at(down))
	return int(wellKbps * mbs / wellMBs)
}
