package stream

import (
	"context"
	"log/slog"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/engines"
	"github.com/perigee-cloud/perigee/media"
)

const (
	// A process that lived for less than shortLife is followed by the next after
	// a growing pause; after tooManyLives of those in a row nothing helps.
	shortLife    = 3 * time.Second
	pauseFirst   = 20 * time.Millisecond
	pauseMost    = time.Second
	tooManyLives = 10
)

// sink takes what an encode process sends, from one goroutine.
type sink struct {
	frame     func(media.Frame) // its data is valid during the call
	restarted func()            // the frames that follow are a new process's
	state     func()            // last has a new one
	fail      func(why string)  // no process stays alive
}

// encoder keeps one encode process alive and doing what it was last told.
type encoder struct {
	command func() *exec.Cmd
	log     *slog.Logger
	sink    sink
	// next gives the engine after a hardware one that failed; nil: there is none.
	next func(why string) (engines.Grant, error)

	mu      sync.Mutex // guards the fields below
	cfg     *media.Configure
	rate    media.Bitrate // last told; none = as configured
	paused  bool
	conn    *media.Conn // nil while there is no process
	state   media.State
	waiting time.Time   // since when a frame is due; zero = none
	fault   media.State // the last that told of one
	calm    bool        // nothing happens: the process may be silent for longer

	stirred chan struct{} // something was told while it was calm

	heard atomic.Int64 // counts its messages
}

func newEncoder(command func() *exec.Cmd, log *slog.Logger, to sink) *encoder {
	return &encoder{command: command, log: log, sink: to, stirred: make(chan struct{}, 1)}
}

// configure says what to encode; the same once more is not repeated.
func (e *encoder) configure(c media.Configure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cfg != nil && *e.cfg == c {
		return
	}
	e.cfg = &c
	e.expect()
	e.send(media.TypeConfigure, c)
	e.resume()
}

// bitrate changes the configured bitrate and the rate of pictures, for a later
// process too.
func (e *encoder) bitrate(b media.Bitrate) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rate = b
	if e.cfg != nil {
		c := *e.cfg
		c.BitrateKbps = b.Kbps
		e.cfg = &c
	}
	e.send(media.TypeBitrate, b)
}

// resume tells the bitrate again after a configuration, which says nothing of
// fewer pictures. mu is held.
func (e *encoder) resume() {
	if e.rate.Kbps != 0 {
		e.rate.Kbps = e.cfg.BitrateKbps
		e.send(media.TypeBitrate, e.rate)
	}
}

// pause stops the pictures, or resumes them with a keyframe.
func (e *encoder) pause(p bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.paused == p {
		return
	}
	e.paused = p
	e.waiting = time.Time{}
	if !p {
		e.expect()
	}
	e.send(media.TypePause, media.Pause{Paused: p})
}

func (e *encoder) isPaused() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.paused
}

func (e *encoder) keyframe() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.send(media.TypeKeyframe, nil)
}

func (e *encoder) input(i media.Input) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.send(media.TypeInput, i)
}

// voice hands on a packet of a microphone.
func (e *encoder) voice(v media.Voice) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn == nil {
		return
	}
	if err := e.conn.SendVoice(v); err != nil {
		e.log.Debug("encode process takes no voice", "error", err) // the watch ends it
	}
}

// last gives what the process last said of itself.
func (e *encoder) last() media.State {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state
}

// expect starts the time in which a frame must come. mu is held.
func (e *encoder) expect() {
	if e.cfg != nil && e.cfg.Video && !e.paused && e.waiting.IsZero() {
		e.waiting = time.Now()
	}
}

// stir ends the patience with a process that rests. mu is held.
func (e *encoder) stir() {
	if !e.calm {
		return
	}
	e.calm = false
	select {
	case e.stirred <- struct{}{}:
	default:
	}
}

// send tells the process something; what is lost because it is not there is
// told to the next one by begin. mu is held.
func (e *encoder) send(t media.Type, v any) {
	if e.conn == nil {
		return
	}
	e.stir()
	if err := e.conn.Send(t, v); err != nil {
		e.log.Debug("encode process takes no message", "error", err) // the watch ends it
	}
}

// run keeps a process alive until ctx ends.
func (e *encoder) run(ctx context.Context) {
	pause, lives := pauseFirst, 0
	for ctx.Err() == nil {
		begun := time.Now()
		err := e.live(ctx)
		if ctx.Err() != nil {
			return
		}
		moved, none := e.move(err)
		if none != nil {
			e.sink.fail(none.Error())
		}
		if moved { // at once: the viewer waits for a key
			pause, lives = pauseFirst, 0
			continue
		}
		e.log.Warn("encode process ended and is started again", "error", err, "lived", time.Since(begun).Round(time.Millisecond))
		if time.Since(begun) >= shortLife {
			pause, lives = pauseFirst, 0
			continue
		}
		if lives++; lives >= tooManyLives {
			e.sink.fail("the encode process does not stay alive: " + err.Error())
			lives = 0
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, pauseMost)
	}
}

// move goes on to the next engine when a hardware one is to blame: it says so
// itself, or its process crashed or hung. What else ends a process (the display
// went) is no fault of the engine. none says that no engine is left.
func (e *encoder) move(why error) (moved bool, none error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fault := e.fault
	e.fault = media.State{}
	if e.next == nil || e.cfg == nil || e.cfg.Pool == "" || e.cfg.Pool == api.PoolCPU || fault.Error != "" && !fault.EngineFault {
		return false, nil
	}
	reason := fault.Error
	if reason == "" {
		reason = why.Error()
	}
	g, err := e.next(reason)
	if err != nil {
		return false, err
	}
	c := *e.cfg
	c.Pool, c.Device = g.Pool, g.Device
	e.cfg = &c
	return true, nil
}

// read hands on what the process sends until its socket ends.
func (e *encoder) read(conn *media.Conn) error {
	var drawn int64 // of the next video frame
	for {
		m, err := conn.Read()
		if err != nil {
			return err
		}
		e.heard.Add(1)
		switch m.Type {
		case media.TypeFrame:
			f, err := media.ParseFrame(m.Payload)
			if err != nil {
				return err
			}
			if f.Kind == media.Video {
				f.Drawn, drawn = drawn, 0
				e.shown()
			}
			e.sink.frame(f)
		case media.TypeDrawn:
			if drawn, err = media.ParseDrawn(m.Payload); err != nil {
				return err
			}
		case media.TypeState:
			var st media.State
			if err := m.Decode(&st); err != nil {
				return err
			}
			e.mu.Lock()
			e.state = st
			if e.calm = e.calm || st.Rests; !st.Rests {
				e.stir()
			}
			if st.Error != "" {
				e.fault = st
			}
			e.mu.Unlock()
			if st.Error != "" {
				e.log.Warn("encode process reports a fault", "error", st.Error)
			}
			e.sink.state()
		}
	}
}

func (e *encoder) shown() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = time.Time{}
	e.stir()
}
