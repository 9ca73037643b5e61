package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/media"
)

const (
	helloWait    = 5 * time.Second
	silenceMost  = time.Second             // without any message: it hangs
	firstFrame   = 5 * time.Second         // after it was told to show something
	watchEvery   = 200 * time.Millisecond  // a still desktop pays for each look
	calmWatch    = 5 * media.CalmEvery / 4 // and for these, while nothing happens
	calmQuiet    = 2                       // of them without a message: it hangs
	socketBuffer = 1 << 20
	writeMost    = 500 * time.Millisecond
)

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
	if err := conn.Send(media.TypeHello, media.Hello{Version: media.ProtocolVersion, PID: os.Getpid(), Calm: true}); err != nil {
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
	e.conn, e.calm = conn, false
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
	quiet, most, slow := 0, int(silenceMost/watchEvery), false
	for {
		select {
		case <-e.stirred:
			quiet, most, slow = 0, int(silenceMost/watchEvery), false
			tick.Reset(watchEvery)
			continue
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
		if calm := e.isCalm(); calm != slow {
			slow, quiet, most = calm, 0, int(silenceMost/watchEvery)
			tick.Reset(watchEvery)
			if calm {
				most = calmQuiet
				tick.Reset(calmWatch)
			}
		}
		if why := e.hangs(quiet >= most); why != nil {
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

func (e *encoder) isCalm() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.calm
}

func (e *encoder) hangs(silent bool) error {
	if silent {
		return errSilent
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.waiting.IsZero() && time.Since(e.waiting) > firstFrame {
		return errNothing
	}
	return nil
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
