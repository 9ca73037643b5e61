package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/engines"
	"github.com/perigee-cloud/perigee/media"
)

const (
	helloWait    = 5 * time.Second
	silenceMost  = time.Second            // without any message: it hangs
	firstFrame   = 5 * time.Second        // after it was told to show something
	watchEvery   = 200 * time.Millisecond // a still desktop pays for each look
	socketBuffer = 1 << 20
	writeMost    = 500 * time.Millisecond

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

	heard atomic.Int64 // counts its messages
}

func newEncoder(command func() *exec.Cmd, log *slog.Logger, to sink) *encoder {
	return &encoder{command: command, log: log, sink: to}
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

// send tells the process something; what is lost because it is not there is
// told to the next one by begin. mu is held.
func (e *encoder) send(t media.Type, v any) {
	if e.conn == nil {
		return
	}
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

// live starts a process and serves it until it ends; it says why it ended.
func (e *encoder) live(ctx context.Context) error {
	socket, cmd, err := e.start()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	why := e.serve(ctx, socket)
	e.mu.Lock()
	e.conn, e.state, e.waiting = nil, media.State{}, time.Time{}
	e.mu.Unlock()
	_ = cmd.Process.Kill() // it may have ended already
	err = errors.Join(why, socket.Close())
	select {
	case how := <-ended:
		return errors.Join(err, how)
	case <-time.After(time.Second): // stuck in the kernel; it cannot come back
		return errors.Join(err, errors.New("encode process does not die"))
	}
}

// start runs the process with one end of a socket pair.
func (e *encoder) start() (net.Conn, *exec.Cmd, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "encode"), os.NewFile(uintptr(fds[1]), "stream")
	defer func() { _, _ = ours.Close(), theirs.Close() }() // copies go on
	for _, fd := range fds {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer) // smaller is slower only
	}
	socket, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	cmd := e.command()
	cmd.ExtraFiles = []*os.File{theirs}
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // it is of no use without us
	if err := cmd.Start(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start encode process: %w", err), socket.Close())
	}
	return socket, cmd, nil
}

// serve speaks with the process until it ends, hangs, or ctx ends.
func (e *encoder) serve(ctx context.Context, socket net.Conn) error {
	conn := media.NewConn(bounded{socket})
	if err := conn.Send(media.TypeHello, media.Hello{Version: media.ProtocolVersion, PID: os.Getpid()}); err != nil {
		return err
	}
	if err := socket.SetReadDeadline(time.Now().Add(helloWait)); err != nil {
		return fmt.Errorf("wait for hello: %w", err)
	}
	m, err := conn.Read()
	if err != nil {
		return fmt.Errorf("wait for hello: %w", err)
	}
	var h media.Hello
	if m.Type != media.TypeHello || m.Decode(&h) != nil || h.Version != media.ProtocolVersion {
		return fmt.Errorf("hello of version %d, type %d: %w", h.Version, m.Type, media.ErrProtocol)
	}
	if err := socket.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("after hello: %w", err)
	}
	e.sink.restarted()
	e.begin(conn)
	hung := make(chan error, 1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() { e.watch(ctx, socket, hung, stop) })
	err = e.read(conn)
	select {
	case why := <-hung:
		return why
	default:
		return err
	}
}

// begin tells a new process what the one before knew.
func (e *encoder) begin(conn *media.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conn = conn
	if e.paused {
		e.send(media.TypePause, media.Pause{Paused: true})
	}
	if e.cfg != nil {
		e.send(media.TypeConfigure, *e.cfg)
		e.resume()
		e.expect()
	}
}

// watch closes the socket, which ends read, when the process hangs or ctx ends.
func (e *encoder) watch(ctx context.Context, socket net.Conn, hung chan<- error, stop <-chan struct{}) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	// Ticks are counted instead of time: when we were stopped ourselves, its
	// messages wait to be read.
	var heard int64
	quiet := 0
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			hung <- ctx.Err()
			_ = socket.Close()
			return
		case <-tick.C:
		}
		quiet++
		if h := e.heard.Load(); h != heard {
			heard, quiet = h, 0
		}
		if why := e.hangs(quiet); why != nil {
			hung <- why
			_ = socket.Close()
			return
		}
	}
}

var (
	errSilent  = errors.New("encode process hangs: it says nothing")
	errNothing = errors.New("encode process hangs: it shows nothing")
)

func (e *encoder) hangs(quiet int) error {
	if time.Duration(quiet)*watchEvery >= silenceMost {
		return errSilent
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.waiting.IsZero() && time.Since(e.waiting) > firstFrame {
		return errNothing
	}
	return nil
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
}

// bounded gives each write to the process a deadline: a stopped one must not
// stop us.
type bounded struct{ net.Conn }

func (b bounded) Write(p []byte) (int, error) {
	if err := b.SetWriteDeadline(time.Now().Add(writeMost)); err != nil {
		return 0, err
	}
	return b.Conn.Write(p)
}
