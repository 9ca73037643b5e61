package capture

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/perigee-cloud/perigee/media"
)

const (
	// playBlock is the bytes of one media.FrameDuration of one channel: what the
	// server asks for at once.
	playBlock = int(media.SampleRate*media.FrameDuration/time.Second) * 2
	// playAhead is how much of it the server holds, its sink included.
	playAhead = 2
	// playSilent bounds the wait for the server to ask.
	playSilent = 2 * time.Second
	// playMost bounds what a server may ask for at once.
	playMost   = 1 << 20
	volumeNorm = 0x10000 // PA_VOLUME_NORM
)

// Playback plays into a sink of an instance's sound server: 16-bit
// little-endian samples, media.SampleRate, one channel. It is for one
// goroutine; Close may come from another and ends it.
type Playback struct {
	pulse
	channel uint32
	wanted  int // bytes that the server waits for
}

// OpenPlayback begins to play into a sink of a sound server ("unix:/path").
func OpenPlayback(ctx context.Context, server, sink string) (*Playback, error) {
	path, err := pulsePath(server)
	if err != nil {
		return nil, err
	}
	c, err := pulseDial(ctx, path)
	if err != nil {
		return nil, err
	}
	p := &Playback{pulse: c}
	if err := p.setup(sink); err != nil {
		p.Close() // the first error says more
		return nil, err
	}
	return p, nil
}

func (p *Playback) setup(sink string) error {
	if err := p.login(); err != nil {
		return err
	}
	b, err := p.ask(pulseCreatePlay, 2, playStream(media.SampleRate, uint32(playBlock), sink))
	if err != nil {
		return fmt.Errorf("play into %s: %w", sink, err)
	}
	// The stream's channel, its index, and what it asks for at first.
	if p.channel, err = pulseU32(b); err != nil {
		return err
	}
	if len(b) < 15 {
		return fmt.Errorf("reply of %d bytes: %w", len(b), errPulse)
	}
	first, err := pulseU32(b[10:])
	return p.want(first, err)
}

func (p *Playback) want(bytes uint32, err error) error {
	if err != nil {
		return err
	}
	if bytes > playMost || p.wanted+int(bytes) > playMost {
		return fmt.Errorf("server asks for %d bytes: %w", bytes, errPulse)
	}
	p.wanted += int(bytes)
	return nil
}

// Wanted waits until the server wants sound and says how many bytes, whole
// samples; Write gives them.
func (p *Playback) Wanted() (int, error) {
	_ = p.c.SetReadDeadline(time.Now().Add(playSilent)) // it fails on a closed socket only
	for p.wanted < 2 {
		channel, body, err := pulseRead(p.r, p.packet)
		p.packet = body
		if err != nil {
			return 0, err
		}
		if channel != pulseCommand {
			continue
		}
		c, _, rest, err := pulseHead(body)
		switch {
		case err != nil:
			return 0, err
		case c == pulsePlayKilled:
			return 0, fmt.Errorf("playing was ended: %w", errPulse)
		case c == pulseRequest && len(rest) >= 10:
			n, err := pulseU32(rest[5:])
			if err := p.want(n, err); err != nil {
				return 0, err
			}
		}
	}
	return p.wanted &^ 1, nil
}

// Write gives sound to the server.
func (p *Playback) Write(pcm []byte) error {
	_ = p.c.SetWriteDeadline(time.Now().Add(roundTrip)) // it fails on a closed socket only
	b := binary.BigEndian.AppendUint32(make([]byte, 0, pulseDescriptor+len(pcm)), uint32(len(pcm)))
	b = binary.BigEndian.AppendUint32(b, p.channel)
	b = append(b, make([]byte, 12)...) // at the write index: offset and flags are 0
	if _, err := p.c.Write(append(b, pcm...)); err != nil {
		return fmt.Errorf("write to sound server: %w", err)
	}
	p.wanted -= len(pcm)
	return nil
}

// playStream asks to play 16-bit sound of one channel into a sink, in blocks.
func playStream(rate, block uint32, sink string) tags {
	t := append(tags(nil), 'a', formatS16LE, 1)
	t = binary.BigEndian.AppendUint32(t, rate)
	t = append(t, 'm', 1, channelMono)
	t = t.u32(pulseNone).text(sink)                                  // no index: by name
	t = t.u32(4 * playAhead * block).flag(false)                     // at most, not corked
	t = t.u32(playAhead * block).u32(0).u32(block).u32(0)            // tlength, prebuf: play at once; minreq, no sync
	t = binary.BigEndian.AppendUint32(append(t, 'v', 1), volumeNorm) // as loud as it is
	for range 7 {                                                    // no_remap, no_remix, fix_format, fix_rate, fix_channels, no_move, variable_rate
		t = t.flag(false)
	}
	t = t.flag(false).flag(true)                 // muted; adjust_latency: the sink's delay counts, too
	t = t.properties("media.name", "microphone") // who plays
	t = t.flag(false).flag(false)                // volume_set, early_requests
	return t.flag(false).flag(false).flag(false) // muted_set, dont_inhibit_auto_suspend, fail_on_suspend
}
