package encoder

import (
	"context"
	"encoding/binary"
	"log/slog"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/capture"
	"github.com/perigee-cloud/perigee/media/encode"
)

const (
	// maxVoices is how many viewers are heard at once; the sound server mixes them.
	maxVoices = 4
	// voiceRest is the pause before a sound server that refused is tried again.
	voiceRest = 5 * time.Second
	voiceOpen = 2 * time.Second // to connect to it
)

// voices are the microphones that are played into the instance. Its methods are
// for the goroutine that owns the session.
type voices struct {
	log  *slog.Logger
	open map[uint32]*voice
}

// voice is one viewer's. It ends when nothing has come for a while.
type voice struct {
	log    *slog.Logger
	cancel context.CancelFunc
	done   chan struct{}
	failed bool // read after done

	mu   sync.Mutex // guards the fields below
	play *playout
	last time.Time // when a packet came
}

// take plays a packet; what cannot be played is lost, and ends nothing.
func (v *voices) take(ctx context.Context, server string, p media.Voice) {
	x := v.open[p.Viewer]
	if x != nil && x.ended() {
		if x.failed && time.Since(x.last) < voiceRest {
			return
		}
		delete(v.open, p.Viewer)
		x = nil
	}
	if x == nil {
		if x = v.begin(ctx, server, p.Viewer); x == nil {
			return
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.play.add(p.Seq, p.Data)
	x.last = time.Now()
}

// begin starts a voice, where there is a sound server and room.
func (v *voices) begin(ctx context.Context, server string, viewer uint32) *voice {
	for id, x := range v.open {
		if x.ended() && (!x.failed || time.Since(x.last) >= voiceRest) { // a failed one bars its own viewer for a while only
			delete(v.open, id)
		}
	}
	if server == "" || len(v.open) >= maxVoices {
		return nil
	}
	dec, err := encode.NewVoice()
	if err != nil {
		v.log.Warn("microphone cannot be decoded", "error", err)
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	x := &voice{log: v.log, cancel: cancel, done: make(chan struct{}), play: newPlayout(dec), last: time.Now()}
	if v.open == nil {
		v.open = map[uint32]*voice{}
	}
	v.open[viewer] = x
	go x.run(ctx, server, dec)
	return x
}

// close ends every voice.
func (v *voices) close() {
	for _, x := range v.open {
		x.cancel()
		<-x.done
	}
}

func (x *voice) ended() bool {
	select {
	case <-x.done:
		return true
	default:
		return false
	}
}

func (x *voice) run(ctx context.Context, server string, dec *encode.Voice) {
	defer close(x.done)
	defer dec.Close()
	defer x.cancel()
	if err := x.serve(ctx, server); err != nil && ctx.Err() == nil {
		x.failed = true
		x.log.Warn("microphone cannot be played into the instance", "error", err)
	}
}

// serve gives the sound server what it asks for, until nothing more comes.
func (x *voice) serve(ctx context.Context, server string) error {
	wait, cancel := context.WithTimeout(ctx, voiceOpen)
	sink, err := capture.OpenPlayback(wait, server, media.MicrophoneSink)
	cancel()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, sink.Close)
	defer stop()
	defer sink.Close()
	var samples []int16
	var pcm []byte
	for {
		n, err := sink.Wanted()
		if err != nil {
			return err
		}
		samples = append(samples[:0], make([]int16, n/2)...)
		x.mu.Lock()
		x.play.take(samples)
		silent := time.Since(x.last)
		x.mu.Unlock()
		if silent > idle {
			return nil
		}
		pcm = pcm[:0]
		for _, s := range samples {
			pcm = binary.LittleEndian.AppendUint16(pcm, uint16(s))
		}
		if err := sink.Write(pcm); err != nil {
			return err
		}
	}
}
