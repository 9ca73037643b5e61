package encoder

import (
	"bytes"
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/capture"
	"github.com/perigee-cloud/perigee/media/encode"
)

const (
	// soundRetry is the pause before a lost sound server is tried again.
	soundRetry = time.Second
	// soundDeadline is how long one try waits for the server to come up.
	soundDeadline = 15 * time.Second
	// soundQuiet is how much digital silence is encoded before fixed packets
	// take its place: the encoder must have faded out.
	soundQuiet = 20
	// soundKeep is how many blocks of further silence one packet stands for:
	// 400 ms, as libopus's own discontinuous transmission.
	soundKeep = 40
	// soundDrift is how far the count of blocks may stray from the clock, and
	// soundWindow over how many blocks: one that is read late, because this
	// process had to wait, is not recorded late.
	soundDrift  = 60 * time.Millisecond
	soundWindow = 100
)

type soundConfig struct {
	server string
	conn   *media.Conn
	start  int64
	log    *slog.Logger
}

// sound records and encodes in a goroutine of its own. A picture without sound
// is worth more than none: its faults are logged and tried again, and end nothing.
type sound struct {
	soundConfig
	paused atomic.Bool
	cancel context.CancelFunc
	done   chan struct{}
}

func startSound(ctx context.Context, cfg soundConfig) *sound {
	ctx, cancel := context.WithCancel(ctx)
	s := &sound{soundConfig: cfg, cancel: cancel, done: make(chan struct{})}
	go s.run(ctx)
	return s
}

// pause keeps recording, so that sound is back at once, but sends nothing.
func (s *sound) pause(paused bool) {
	if s != nil {
		s.paused.Store(paused)
	}
}

// close ends the goroutine; a nil sound has none.
func (s *sound) close() {
	if s != nil {
		s.cancel()
		<-s.done
	}
}

func (s *sound) run(ctx context.Context) {
	defer close(s.done)
	for ctx.Err() == nil {
		if err := s.record(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("sound lost, trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(soundRetry):
		}
	}
}

// record sends sound until the server goes or ctx ends.
func (s *sound) record(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, soundDeadline)
	source, err := capture.OpenSound(wait, s.server)
	cancel()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, source.Close)
	defer stop()
	defer source.Close()
	opus, err := encode.NewOpus()
	if err != nil {
		return err
	}
	defer opus.Close()
	var clock soundClock
	quiet, silence, resting := 0, encode.Silence(), false
	zero := make([]byte, encode.OpusBlock)
	for {
		pcm, taken, err := source.Read()
		if err != nil {
			return err
		}
		pts := clock.next(time.Duration(taken - s.start))
		if quiet++; !bytes.Equal(pcm, zero) {
			quiet = 0
		}
		if rest := quiet > soundQuiet; rest != resting {
			resting = rest
			if err := source.Rest(rest); err != nil {
				return err
			}
		}
		if s.paused.Load() || quiet > soundQuiet && (quiet-soundQuiet)%soundKeep != 1 {
			continue
		}
		data := silence
		if quiet <= soundQuiet {
			if data, err = opus.Encode(pcm); err != nil {
				return err
			}
		}
		err = s.conn.SendFrame(media.Frame{Kind: media.Audio, Key: true, PTS: pts, Captured: taken - int64(media.FrameDuration), Encoded: media.Now(), Data: data})
		if err != nil {
			return err
		}
	}
}

// soundClock gives blocks their time. They are counted, not timed: reading has
// jitter, sound has none. The zero clock starts with its first block.
type soundClock struct {
	pts    time.Duration
	blocks int           // of this window
	late   time.Duration // the least that one of them came after its time
}

// next gives the time of the block that was read at.
func (c *soundClock) next(at time.Duration) time.Duration {
	c.pts += media.FrameDuration
	late := at - c.pts
	if c.blocks == 0 {
		c.late = late
	}
	c.late = min(c.late, late)
	c.blocks++
	switch {
	case c.pts == media.FrameDuration, -late > soundDrift: // the first; before its time, which jitter cannot do
		c.pts, c.blocks = at, 0
	case c.blocks == soundWindow:
		if c.late > soundDrift { // all of them: the server has left some out
			c.pts += c.late
		}
		c.blocks = 0
	}
	return c.pts
}
