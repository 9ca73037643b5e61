// Package probe measures what an engine encodes in real time, by encoding: the
// body of the child processes of `perigee-edge probe`. It enters C, so that a
// driver's crash is a result and not the daemon's end.
package probe

import (
	"context"
	"errors"
	"fmt"
	"image"
	"math"
	"runtime"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media/encode"
)

// Encoder is one open encoder of the reference picture.
type Encoder interface {
	Load(pix []byte, stride int, changed ...image.Rectangle) error
	Encode(key bool) (encode.Packet, error)
	Name() string
	Close()
}

// Task is one codec on one engine.
type Task struct {
	Engine string
	Pool   api.Pool
	Codec  api.Codec
	Preset string
	// Phase is how long each load is held.
	Phase time.Duration
	Cores int // 0: this machine's
	// Open opens one more encoder of the reference picture.
	Open func() (Encoder, error)
	// OpenFast opens one with the faster preset; nil: it is not measured.
	OpenFast func() (Encoder, error)
}

const (
	interval   = time.Second / clipFPS
	fullShare  = 0.95 // of what it does flat out: real time needs a margin
	streamRate = frameBlock * clipFPS
	// maxStreams bounds the encoders that are open at once; on a larger machine
	// each is faster instead.
	maxStreams  = 128
	maxSessions = 64 // more are no limit
	slower      = 0.85
	maxSteps    = 4
)

var all = image.Rect(0, 0, clipWidth, clipHeight)

// Measure measures. Whatever goes wrong is a named state of the result; when
// ctx ends it is interrupted.
func Measure(ctx context.Context, t Task) api.EngineCertificate {
	if t.Cores == 0 {
		t.Cores = runtime.NumCPU()
	}
	c := api.EngineCertificate{Engine: t.Engine, Pool: t.Pool, Codec: t.Codec, Preset: t.Preset}
	s := &stage{task: t, clip: clip()}
	defer s.close()
	err := s.measure(ctx, &c)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		c.State, c.Detail, c.Macroblocks = api.EngineInterrupted, "cut off", 0
	case errors.Is(err, errSlow):
		c.State, c.Detail, c.Macroblocks = api.EngineSlow, err.Error(), 0
	case c.Encoder == "":
		c.State, c.Detail = api.EngineUnavailable, err.Error()
	default:
		c.State, c.Detail, c.Macroblocks = api.EngineFailed, err.Error(), 0
	}
	return c
}

var errSlow = errors.New("one stream of 1280x720 at 30 frames a second is too much")

func (s *stage) measure(ctx context.Context, c *api.EngineCertificate) error {
	began := time.Now()
	if err := s.grow(ctx, 1); err != nil {
		return err
	}
	c.FirstFrameMS = ms(time.Since(began))
	c.Encoder = s.encoders[0].Name()
	workers := s.task.Cores
	if s.task.Pool != api.PoolCPU {
		if err := s.sessions(ctx, c); err != nil {
			return err
		}
		workers = len(s.encoders)
	}
	flat, err := s.run(ctx, workers, 0, s.task.Phase)
	if err != nil {
		return err
	}
	most := s.capacity(flat)
	if most < streamRate {
		return fmt.Errorf("%w: %.0f of %d macroblocks/s", errSlow, most, streamRate)
	}
	for _, share := range []float64{0, 0.5} {
		if _, err := s.point(ctx, c, most, share); err != nil {
			return err
		}
	}
	if err := s.certify(ctx, c, most); err != nil {
		return err
	}
	return s.fast(ctx, c, workers)
}

// faster is by how much the faster preset must be certified to do more to count:
// less is noise.
const faster = 1.05

// fast certifies the faster preset as the default was. What keeps it from being
// faster takes nothing from the default's figure.
func (s *stage) fast(ctx context.Context, c *api.EngineCertificate, workers int) error {
	if s.task.OpenFast == nil {
		return nil
	}
	s.close()
	s.task.Open = s.task.OpenFast
	f := api.EngineCertificate{Sessions: c.Sessions}
	flat, err := s.run(ctx, workers, 0, s.task.Phase)
	if err == nil {
		err = s.certify(ctx, &f, s.capacity(flat))
	}
	if err == nil && float64(f.Macroblocks) > faster*float64(c.Macroblocks) {
		c.Fast = f.Macroblocks
	}
	return ctx.Err()
}

// capacity is what the engine would do if it had the machine to itself: what
// others took of the processors is taken out.
func (s *stage) capacity(r ran) float64 {
	if s.task.Pool != api.PoolCPU {
		return r.rate()
	}
	if busy := r.busy(s.task.Cores); busy > 0 {
		return r.rate() / busy
	}
	return 0
}

// certify holds the full load, and less where it is not kept up.
func (s *stage) certify(ctx context.Context, c *api.EngineCertificate, most float64) error {
	share := fullShare
	for range maxSteps {
		r, err := s.point(ctx, c, most, share)
		if err != nil {
			return err
		}
		late := r.quantile(0.95) > ms(interval) || r.frames < r.due*97/100
		c.State, c.Macroblocks = api.EngineCertified, uint64(r.rate())
		switch {
		case late && r.disturbed():
			c.Macroblocks = uint64(min(s.capacity(r), most) * fullShare)
			c.Detail = "measured beside other load: latencies are not judged"
			return nil
		case !late:
			return nil
		}
		c.Load = c.Load[:len(c.Load)-1]
		share *= slower
	}
	return fmt.Errorf("%w: late at %.0f %% of its speed", errSlow, share*100/slower)
}

// point adds a point of the curve: a share of most, at least one stream.
func (s *stage) point(ctx context.Context, c *api.EngineCertificate, most, share float64) (ran, error) {
	n := max(math.Ceil(share*most/streamRate), 1)
	fps := float64(clipFPS)
	if share > 0 {
		n = min(n, maxStreams)
		if c.Sessions > 0 {
			n = min(n, float64(c.Sessions))
		}
		fps = share * most / frameBlock / n
	}
	r, err := s.run(ctx, int(n), fps, s.task.Phase)
	if err != nil {
		return r, err
	}
	busy := r.busy(s.task.Cores)
	if s.task.Pool != api.PoolCPU {
		busy = r.rate() / most
	}
	c.Load = append(c.Load, api.LoadPoint{
		Share: int(math.Round(100 * n * fps * frameBlock / most)), Streams: int(n), Macroblocks: uint64(r.rate()),
		Busy: tenth(100 * busy), P50MS: tenth(r.quantile(0.5)), P95MS: tenth(r.quantile(0.95)),
	})
	c.Steal, c.Foreign = max(c.Steal, tenth(100*r.steal)), max(c.Foreign, tenth(100*r.foreign))
	return r, nil
}

// sessions opens encoders until the engine refuses: the refusal looks like out
// of memory, so any will do once one has worked.
func (s *stage) sessions(ctx context.Context, c *api.EngineCertificate) error {
	for len(s.encoders) < maxSessions {
		if err := s.grow(ctx, len(s.encoders)+1); err != nil {
			if ctx.Err() != nil {
				return err
			}
			c.Sessions = len(s.encoders)
			break
		}
	}
	const flatOut = 4 // encoders at once keep the engine full
	for len(s.encoders) > flatOut {
		last := len(s.encoders) - 1
		s.encoders[last].Close()
		s.encoders = s.encoders[:last]
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func tenth(v float64) float64 { return math.Round(v*10) / 10 }

// Hold holds a load for the task's phase and says how it went: streams of the
// reference picture, so many macroblocks per second in all.
func Hold(ctx context.Context, t Task, macroblocks float64) (api.LoadPoint, error) {
	if t.Cores == 0 {
		t.Cores = runtime.NumCPU()
	}
	s := &stage{task: t, clip: clip()}
	defer s.close()
	var c api.EngineCertificate
	if _, err := s.point(ctx, &c, macroblocks, 1); err != nil {
		return api.LoadPoint{}, err
	}
	return c.Load[0], nil
}
