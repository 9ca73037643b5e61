package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/perigee-cloud/perigee/media"
)

const (
	// soundBlock is the bytes of one media.FrameDuration: 16-bit samples.
	soundBlock = int(media.SampleRate*media.FrameDuration/time.Second) * media.Channels * 2
	// soundSilent bounds the wait for a block.
	soundSilent = 5 * time.Second
	// soundRest is how many blocks come at once while nothing is to be heard.
	soundRest = 4
	// soundAwake is when a block of a sink in use has come.
	soundAwake = 100 * time.Millisecond
)

// Sound records what an instance plays, from its own sound server: 16-bit
// little-endian samples, media.SampleRate, media.Channels. Read is for one
// goroutine; Close may come from another and ends it.
type Sound struct {
	pulse
	channel uint32
	block   []byte // what has come of the next block, or blocks
}

// OpenSound connects to a sound server ("unix:/path"), trying again until ctx
// ends while it is not up yet.
func OpenSound(ctx context.Context, server string) (*Sound, error) {
	path, err := pulsePath(server)
	if err != nil {
		return nil, err
	}
	for {
		s, err := openSound(ctx, path)
		if err == nil {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("sound server is not up: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func openSound(ctx context.Context, path string) (*Sound, error) {
	p, err := pulseDial(ctx, path)
	if err != nil {
		return nil, err
	}
	s := &Sound{pulse: p, block: make([]byte, 0, soundBlock)}
	if err := s.setup(); err != nil {
		s.Close() // the first error says more
		return nil, err
	}
	return s, nil
}

func (s *Sound) setup() error {
	if err := s.login(); err != nil {
		return err
	}
	b, err := s.ask(pulseCreateRecord, 2, recordStream(media.SampleRate, uint32(soundBlock)))
	if err != nil {
		return fmt.Errorf("start recording: %w", err)
	}
	if s.channel, err = pulseU32(b); err != nil {
		return err
	}
	return s.wake()
}

// wake makes a null sink that nobody plays to give sound at once. It has
// rendered silence ahead, up to 2 s, and would first wait that out; suspended
// and resumed it starts afresh, at the latency that we asked for. A sink that
// gives blocks already is left alone.
func (s *Sound) wake() error {
	_ = s.c.SetReadDeadline(time.Now().Add(soundAwake)) // it fails on a closed socket only
	_, err := s.r.Peek(1)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	for tag, suspended := range []bool{true, false} {
		args := tags(nil).u32(pulseNone).text("@DEFAULT_SINK@").flag(suspended)
		if err := pulseWrite(s.c, pulseSuspendSink, uint32(3+tag), args); err != nil {
			return err
		}
	}
	return nil
}

// Read waits for the next media.FrameDuration of sound and gives it with the
// time its last sample came (media.Now); it is valid until the next Read.
func (s *Sound) Read() (pcm []byte, taken int64, err error) {
	_ = s.c.SetReadDeadline(time.Now().Add(soundSilent)) // it fails on a closed socket only
	if len(s.block) >= soundBlock {
		s.block = s.block[:copy(s.block, s.block[soundBlock:])]
	}
	for len(s.block) < soundBlock {
		channel, body, err := pulseRead(s.r, s.packet)
		s.packet = body
		if err != nil {
			return nil, 0, err
		}
		if channel == s.channel {
			s.block = append(s.block, body...)
			continue
		}
		if c, _, _, err := pulseHead(body); channel == pulseCommand && err == nil && c == pulseRecordKilled {
			return nil, 0, fmt.Errorf("recording was ended: %w", errPulse)
		}
	}
	return s.block[:soundBlock], media.Now(), nil
}

// Rest says that nothing is to be heard: sound then comes in blocks of 40 ms,
// which are still read in pieces of media.FrameDuration, and wakes this process
// and the server a quarter as often. Rest(false) ends that. It is for the
// goroutine that reads; a server that refuses goes on as before.
func (s *Sound) Rest(rest bool) error {
	_ = s.c.SetWriteDeadline(time.Now().Add(roundTrip)) // it fails on a closed socket only
	fragment := uint32(soundBlock)
	if rest {
		fragment *= soundRest
	}
	const tag = 5 // Read passes over the answer
	// As much as the server likes; adjust_latency, no early_requests.
	args := tags(nil).u32(s.channel).u32(pulseNone).u32(fragment).flag(true).flag(false)
	return pulseWrite(s.c, pulseRecordBuffer, tag, args)
}
