package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A door is the shim's socket for the stream process: what the instance has and
// only the shim can reach, since its disk is mounted in a namespace of its own.
// One request a connection, one byte; the answer is a status byte, and where it
// is a refusal the reason until the end.
const (
	askHome = 'h' // the application's home folder, as a descriptor
	askPads = 'p' // the connection then carries gamepads' events

	doorYes = 'y'
	doorNo  = 'n'

	fileDoor  = "door.sock"
	doorConns = 16
	doorWait  = 5 * time.Second
	doorWhy   = 512 // bytes of a refusal
)

// DoorSocket is where the shim gives the stream process what is the instance's.
func (s Session) DoorSocket() string { return s.Path(fileDoor) }

// Door serves a door.
type Door struct {
	ln   net.Listener
	home func() (*os.File, error)
	pads func(net.Conn) error
	wg   sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	conns  map[net.Conn]bool
	closed bool
}

// NewDoor listens. home opens the application's home, which is closed again
// here; pads is asked twice for each connection of gamepads: with nil whether
// there can be any, then to serve it until it ends.
func NewDoor(path string, home func() (*os.File, error), pads func(net.Conn) error) (*Door, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old door: %w", err)
	}
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen at door: %w", err)
	}
	d := &Door{ln: ln, home: home, pads: pads, conns: map[net.Conn]bool{}}
	d.wg.Go(d.accept)
	return d, nil
}

func (d *Door) accept() {
	for {
		c, err := d.ln.Accept()
		if err != nil {
			return // closed
		}
		d.mu.Lock()
		ok := !d.closed && len(d.conns) < doorConns
		if ok {
			d.conns[c] = true
		}
		d.mu.Unlock()
		if !ok {
			_ = c.Close()
			continue
		}
		d.wg.Go(func() {
			d.serve(c)
			d.mu.Lock()
			delete(d.conns, c)
			d.mu.Unlock()
			_ = c.Close()
		})
	}
}

func (d *Door) serve(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(doorWait))
	ask := make([]byte, 1)
	if _, err := io.ReadFull(c, ask); err != nil {
		return
	}
	refuse := func(err error) { _, _ = c.Write(append([]byte{doorNo}, err.Error()...)) }
	switch ask[0] {
	case askHome:
		f, err := d.home()
		if err != nil {
			refuse(err)
			return
		}
		defer func() { _ = f.Close() }() // the message has its own
		if u, ok := c.(*net.UnixConn); ok {
			_, _, _ = u.WriteMsgUnix([]byte{doorYes}, unix.UnixRights(int(f.Fd())), nil)
		}
	case askPads:
		if err := d.pads(nil); err != nil {
			refuse(err)
			return
		}
		if _, err := c.Write([]byte{doorYes}); err != nil {
			return
		}
		_ = c.SetDeadline(time.Time{})
		_ = d.pads(c)
	}
}

// Close ends the door and every connection; nil is closed.
func (d *Door) Close() {
	if d == nil {
		return
	}
	_ = d.ln.Close()
	d.mu.Lock()
	d.closed = true
	for c := range d.conns {
		_ = c.Close()
	}
	d.mu.Unlock()
	d.wg.Wait()
}

// OpenHome opens the application's home folder. It must only be used through
// its descriptor: its path is another mount namespace's.
func (s Session) OpenHome(ctx context.Context) (*os.File, error) {
	c, rights, err := s.ask(ctx, askHome)
	if err != nil {
		return nil, fmt.Errorf("open the instance's home: %w", err)
	}
	_ = c.Close()
	if len(rights) == 0 {
		return nil, errors.New("open the instance's home: no descriptor came")
	}
	return os.NewFile(uintptr(rights[0]), "home"), nil
}

// DialPads connects to the instance's gamepads.
func (s Session) DialPads(ctx context.Context) (net.Conn, error) {
	c, _, err := s.ask(ctx, askPads)
	if err != nil {
		return nil, fmt.Errorf("connect to the instance's gamepads: %w", err)
	}
	return c, nil
}

func (s Session) ask(ctx context.Context, what byte) (net.Conn, []int, error) {
	ctx, cancel := context.WithTimeout(ctx, doorWait)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "unix", s.DoorSocket())
	if err != nil {
		return nil, nil, err
	}
	c := raw.(*net.UnixConn) // what "unix" dials
	fail := func(err error) (net.Conn, []int, error) {
		return nil, nil, errors.Join(err, c.Close())
	}
	at, _ := ctx.Deadline() // there is one
	if err := c.SetDeadline(at); err != nil {
		return fail(err)
	}
	if _, err := c.Write([]byte{what}); err != nil {
		return fail(err)
	}
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, on, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil || n == 0 {
		return fail(errors.Join(errors.New("the shim closed its door"), err))
	}
	if b[0] != doorYes {
		why, err := io.ReadAll(io.LimitReader(c, doorWhy))
		return fail(errors.Join(errors.New(string(why)), err))
	}
	var rights []int
	if messages, err := unix.ParseSocketControlMessage(oob[:on]); err == nil {
		for _, m := range messages {
			if fds, err := unix.ParseUnixRights(&m); err == nil {
				rights = append(rights, fds...)
			}
		}
	}
	for _, fd := range rights {
		unix.CloseOnExec(fd)
	}
	return c, rights, c.SetDeadline(time.Time{})
}
