package instance

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/edge/gamepad"
)

// padPlace is where the sandbox sees what stands for its gamepads' device files;
// /dev/input links to those that are plugged in.
const (
	padPlace = "/dev/pads" // /dev is the sandbox's own, in containers too
	padLinks = "/dev/input"
)

// pads are the instance's gamepads.
type pads struct {
	*gamepad.Pads
	stage  *stage
	folder string // on the stage: /dev/input
	log    *slog.Logger
}

// startPads makes the device files and their folder, which is empty.
func startPads(st *stage, log *slog.Logger) (*pads, error) {
	if err := gamepad.Possible(); err != nil {
		return nil, err
	}
	p := &pads{stage: st, folder: filepath.Join(st.root, "input"), log: log}
	if err := st.l.do(func() error { return os.MkdirAll(p.folder, 0o755) }); err != nil {
		return nil, fmt.Errorf("make folder of devices: %w", err)
	}
	var err error
	if p.Pads, err = gamepad.New(p.shown, log); err != nil {
		return nil, err
	}
	for _, n := range p.Nodes {
		if err := st.own(n.Path); err != nil {
			p.Close()
			return nil, fmt.Errorf("give device to the application: %w", err)
		}
	}
	return p, nil
}

// shown makes or removes the links of a slot, as a device manager does.
func (p *pads) shown(slot int, on bool) {
	err := p.stage.l.do(func() error {
		var errs []error
		for _, n := range p.Nodes {
			link := filepath.Join(p.folder, n.Name)
			switch {
			case n.Slot != slot:
			case on:
				errs = append(errs, os.Symlink(padPlace+"/"+n.Name, link))
			default:
				errs = append(errs, os.Remove(link))
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		p.log.Warn("gamepad not shown", "error", err)
	}
}

// serve takes events of gamepads until the connection ends, and unplugs what
// it plugged.
func (p *pads) serve(c net.Conn) error {
	var used [gamepad.Slots]bool
	defer func() {
		for slot, is := range used {
			if is {
				p.Handle(gamepad.Event{Slot: slot, Kind: gamepad.Unplug})
			}
		}
	}()
	b := make([]byte, gamepad.EventSize)
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return nil
		}
		e, err := gamepad.Parse(b)
		if err != nil {
			return err
		}
		used[e.Slot] = e.Kind != gamepad.Unplug
		p.Handle(e)
	}
}

// arguments are bubblewrap's for the devices; nil has none.
func (p *pads) arguments() []string {
	if p == nil {
		return nil
	}
	a := []string{"--ro-bind", p.folder, padLinks}
	for _, n := range p.Nodes {
		a = append(a, "--dev-bind", n.Path, padPlace+"/"+n.Name)
	}
	return a
}

// launcher makes a thread like another's whose children's ioctls of the input
// layer are answered. It is closed when they have ended.
func (p *pads) launcher(like *launcher) (*launcher, error) {
	l := &launcher{jobs: make(chan func()), done: make(chan struct{}), private: like.private, why: like.why}
	ready := make(chan error, 1)
	go func() {
		defer close(l.done)
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		l.tid = unix.Gettid()
		err := enterNamespaces(like)
		var listener *os.File
		if err == nil {
			listener, err = gamepad.Filter()
		}
		ready <- err
		if err != nil {
			return
		}
		go func() { // until this thread and its children have ended
			p.Serve(listener)
			_ = listener.Close() // nobody is left
		}()
		for f := range l.jobs {
			f()
		}
	}()
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("answer for gamepads: %w", err)
	}
	return l, nil
}

// enterNamespaces puts the calling thread where another launcher's is.
func enterNamespaces(like *launcher) error {
	if !like.private {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // or it may not change its mounts
		return fmt.Errorf("unshare folder: %w", err)
	}
	for _, ns := range []struct {
		name string
		kind int
	}{{"ipc", unix.CLONE_NEWIPC}, {"mnt", unix.CLONE_NEWNS}} {
		f, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/%s", like.tid, ns.name))
		if err != nil {
			return fmt.Errorf("open namespace: %w", err)
		}
		err = unix.Setns(int(f.Fd()), ns.kind)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("enter namespace %s: %w", ns.name, err)
		}
	}
	return nil
}
