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
	mu     sync.Mutex // guards the fields below
	screen api.Screen
	codec  api.Codec
	hint   string // what the application says of its picture
	seen   string // what it is measured to be; "" = not yet
	motion int    // percent of it that changes in each picture
	down   int    // steps below the session's rate
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
	// movesWell is the motion, in percent, from which on a picture takes all of
	// wellKbps; one that hardly moves takes leastWell of it, so that typing keeps
	// its rate on a way on which scrolling loses it.
	movesWell = 40
	leastWell = 25
	// detailWell is by how much more is wanted for text, in percent, by the encoders
	// to which a lower rate gives sharper pictures: a scrolling text at 1.5 Mb/s has
	// 41 dB in H.264 at 60 a second and 46 at 30. VP8 loses by it what it finds
	// moved.
	detailWell = 160
)

// set starts with a session's size and rate, and with what its application says.
func (s *steps) set(screen api.Screen, codec api.Codec, hint string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if screen != s.screen {
		s.screen, s.down, s.roomy = screen, 0, time.Time{}
	}
	s.codec, s.hint = codec, hint
}

// saw takes in what the picture was measured to be.
func (s *steps) saw(content string, motion int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen, s.motion = content, motion
}

// fps gives the rate for a bitrate.
func (s *steps) fps(kbps int, now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.down > 0 && s.at(s.down) < s.least() { // it turned out to be a game
		s.down, s.roomy = s.down-1, time.Time{}
	}
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
	if s.hint == api.ContentMotion || s.hint != api.ContentDetail && s.seen == api.ContentMotion {
		return leastGame
	}
	return leastFPS
}

// wants is the bitrate below which the rate after some steps is too high.
func (s *steps) wants(down int) int {
	mbs := api.Macroblocks(s.screen.Width, s.screen.Height, s.at(down))
	kbps := int(wellKbps * mbs / wellMBs)
	if s.hint == api.ContentDetail && (s.codec == api.H264 || s.codec == api.VP9) {
		kbps = kbps * detailWell / 100
	}
	if s.seen != "" {
		kbps = kbps * min(max(100*s.motion/movesWell, leastWell), 100) / 100
	}
	return kbps
}
