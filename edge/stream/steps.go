package stream

import (
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
)

// steps lowers the rate of pictures, and their size, where the way carries too
// little for all of them to look well, and raises them again: few good pictures
// show more than many bad ones, and a smaller one more than one of blocks.
type steps struct {
	mu     sync.Mutex // guards the fields below
	screen api.Screen
	codec  api.Codec
	hint   string // what the application says of its picture
	seen   string // what it is measured to be; "" = not yet
	motion int    // percent of it that changes in each picture
	rungs  []rung
	down   int  // steps below the session's own size and rate
	gave   rung // what at gave last
	roomy  time.Time
	narrow time.Time // since when the size is too much
}

// rung is one size and rate.
type rung struct {
	screen        api.Screen // the session's own
	fps, quarters int        // of the session's rate; quarters of its size
	wants         int        // kb/s below which it is too much
}

const (
	// wellKbps is what 1280x720 at 60 a second wants to look well (Anbox's
	// published floor for it is 2.5 Mb/s, for 30 a second 1); others by
	// macroblocks a second.
	wellKbps = 1500
	wellMBs  = 216_000
	// More must be affordable with something to spare, for some time; a size costs a
	// keyframe each way, so it changes later.
	spare     = 1.3
	roomyFor  = 2 * time.Second
	sizeUp    = 6 * time.Second
	sizeDown  = time.Second
	leastFPS  = 15
	leastGame = 30
	// largePixels is the size above which fewer pixels are given up for before the
	// rate falls below leastGame: half of 1080p is still more than a small screen.
	largePixels = 1280 * 720
	leastHeight = 360 // of a smaller picture
	full        = 4
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
	was := s.game()
	s.codec, s.hint = codec, hint
	if screen != s.screen {
		s.screen, s.down, s.roomy, s.narrow = screen, 0, time.Time{}, time.Time{}
		s.rungs = ladderOf(screen, s.game())
		return
	}
	s.change(was)
}

// saw takes in what the picture was measured to be.
func (s *steps) saw(content string, motion int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.game()
	s.seen, s.motion = content, motion
	s.change(was)
}

// game says whether rate goes before sharpness. mu is held.
func (s *steps) game() bool {
	return s.hint == api.ContentMotion || s.hint != api.ContentDetail && s.seen == api.ContentMotion
}

// change takes the other ladder when it turned out to be a game, or none, at the
// rung that wants as much. mu is held.
func (s *steps) change(was bool) {
	if s.game() == was || len(s.rungs) == 0 {
		return
	}
	before := s.rungs[s.down].wants
	s.rungs, s.down, s.roomy, s.narrow = ladderOf(s.screen, !was), 0, time.Time{}, time.Time{}
	for s.down+1 < len(s.rungs) && s.rungs[s.down].quarters == full && s.rungs[s.down].wants > before {
		s.down++
	}
	if s.rungs[s.down].quarters != full { // a size is lowered for being too much for a while, not for this
		s.down--
	}
}

// wants is the bitrate below which a rung is too much for what the picture is. mu is held.
func (s *steps) wants(n int) int {
	kbps := s.rungs[n].wants
	if s.hint == api.ContentDetail && (s.codec == api.H264 || s.codec == api.VP9) {
		kbps = kbps * detailWell / 100
	}
	if s.seen != "" {
		kbps = kbps * min(max(100*s.motion/movesWell, leastWell), 100) / 100
	}
	return kbps
}

// ladderOf lists sizes and rates from the best down. The rate is halved, then a
// third and a quarter, so that pictures stay evenly apart.
func ladderOf(screen api.Screen, game bool) []rung {
	var out []rung
	add := func(fps, quarters int) {
		small := media.Shrink(screen, quarters)
		wants := int(wellKbps * api.Macroblocks(small.Width, small.Height, fps) / wellMBs)
		out = append(out, rung{screen, fps, quarters, wants})
	}
	least, first := leastFPS, leastFPS
	if game {
		least, first = leastGame, leastGame
	}
	if screen.Width*screen.Height > largePixels {
		first = leastGame
	}
	add(screen.FPS, full)
	n := 2
	for ; screen.FPS/n >= first; n++ {
		add(screen.FPS/n, full)
	}
	size := full
	for q := full - 1; q >= full/2; q-- {
		if media.Shrink(screen, q).Height >= leastHeight {
			add(screen.FPS/(n-1), q)
			size = q
		}
	}
	for ; screen.FPS/n >= least; n++ {
		add(screen.FPS/n, size)
	}
	return out
}

// at gives the size and rate for a bitrate. silent: nothing is heard of the
// viewer, and the bitrate is low for that alone; the size stays then.
func (s *steps) at(kbps int, silent bool, now time.Time) rung {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rungs) == 0 {
		s.gave = rung{quarters: full}
		return s.gave
	}
	for s.down+1 < len(s.rungs) && kbps < s.wants(s.down) {
		if s.rungs[s.down+1].quarters != s.rungs[s.down].quarters {
			if s.narrow.IsZero() || silent {
				s.narrow = now
			}
			if now.Sub(s.narrow) < sizeDown {
				break
			}
		}
		s.down, s.roomy = s.down+1, time.Time{}
	}
	if kbps >= s.wants(s.down) {
		s.narrow = time.Time{}
	}
	s.rise(kbps, now)
	s.gave = s.rungs[s.down]
	return s.gave
}

// quarters is the size as it is.
func (s *steps) quarters() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rungs[s.down].quarters
}

// due says whether the size or rate for a bitrate is another than the last one
// that at gave.
func (s *steps) due(kbps int, silent bool, now time.Time) bool {
	s.mu.Lock()
	was := s.gave
	s.mu.Unlock()
	return s.at(kbps, silent, now) != was
}

// rise goes one step up after some time with room for it. mu is held.
func (s *steps) rise(kbps int, now time.Time) {
	if s.down == 0 || float64(kbps) < float64(s.wants(s.down-1))*spare {
		s.roomy = time.Time{}
		return
	}
	wait := roomyFor
	if s.rungs[s.down-1].quarters != s.rungs[s.down].quarters {
		wait = sizeUp
	}
	switch {
	case s.roomy.IsZero():
		s.roomy = now
	case now.Sub(s.roomy) >= wait:
		s.down, s.roomy = s.down-1, time.Time{}
	}
}
