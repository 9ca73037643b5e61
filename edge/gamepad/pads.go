package gamepad

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxClients bounds the open files of gamepads in one instance.
const maxClients = 64

// Node is a device file of a gamepad.
type Node struct {
	Slot int
	Name string // of the file: event0 or js0
	// Path is the file that takes its place, until a program speaks to it.
	Path string

	joy           bool
	master, slave *os.File
	rdev          uint64
}

// Pads are the gamepads of one instance.
type Pads struct {
	Nodes []Node
	log   *slog.Logger
	begun time.Time
	// shown is told when a slot's files are to appear or go.
	shown func(slot int, on bool)

	mu      sync.Mutex // guards the fields below
	devices [Slots]device
	clients map[uint64]*client // by their socket's inode, as programs have it
}

// client is one open file of a gamepad in a program.
type client struct {
	slot  int
	joy   bool
	clock int32
	fd    int // our end
	lost  bool
}

// New makes the device files. The caller ends them with Close.
func New(shown func(slot int, on bool), log *slog.Logger) (*Pads, error) {
	p := &Pads{log: log, begun: time.Now(), shown: shown, clients: map[uint64]*client{}}
	for slot := range Slots {
		p.devices[slot].key = map[uint16]bool{}
		for _, joy := range []bool{false, true} {
			n := Node{Slot: slot, Name: "event" + strconv.Itoa(slot), joy: joy}
			if joy {
				n.Name = "js" + strconv.Itoa(slot)
			}
			if err := n.open(); err != nil {
				p.Close()
				return nil, fmt.Errorf("make gamepad's device: %w", err)
			}
			p.Nodes = append(p.Nodes, n)
		}
	}
	return p, nil
}

// open takes a terminal of our own: a device file with a number that no other
// file has, which programs go by.
func (n *Node) open() error {
	var err error
	if n.master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	fd := int(n.master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock terminal: %w", err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return fmt.Errorf("number of terminal: %w", err)
	}
	n.Path = "/dev/pts/" + strconv.Itoa(number)
	// Held open, or the other end would end with the first program's.
	if n.slave, err = os.OpenFile(n.Path, os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(n.slave.Fd()), &st); err != nil {
		return err
	}
	n.rdev = st.Rdev
	return nil
}

// Close ends every gamepad; nil has none.
func (p *Pads) Close() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for ino, c := range p.clients {
		_ = unix.Close(c.fd)
		delete(p.clients, ino)
	}
	for _, n := range p.Nodes {
		for _, f := range []*os.File{n.slave, n.master} {
			if f != nil {
				_ = f.Close()
			}
		}
	}
	p.Nodes = nil
}

// Handle has an event happen. Events of one slot come from one goroutine.
func (p *Pads) Handle(e Event) {
	if e.Slot < 0 || e.Slot >= Slots {
		return
	}
	p.mu.Lock()
	d := &p.devices[e.Slot]
	was := d.plugged
	if e.Kind != Unplug {
		d.plugged = true // of a page that says nothing of plugs, too
		if c, ok := d.apply(e); ok {
			p.tell(e.Slot, c)
		}
	}
	p.mu.Unlock()
	switch {
	case e.Kind == Unplug && was:
		p.shown(e.Slot, false) // first, or a program that hears of the end opens it again
		p.end(e.Slot)
	case e.Kind != Unplug && !was:
		p.shown(e.Slot, true)
	default:
		return
	}
	p.log.Info("gamepad", "slot", e.Slot, "plugged", !was)
}

// end ends a gamepad in every program that has it open.
func (p *Pads) end(slot int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.devices[slot] = device{key: map[uint16]bool{}}
	for ino, c := range p.clients {
		if c.slot == slot {
			_ = unix.Close(c.fd)
			delete(p.clients, ino)
		}
	}
}

// tell tells every program that has the gamepad open; mu is held.
func (p *Pads) tell(slot int, c change) {
	for ino, k := range p.clients {
		if k.slot == slot && !k.write(p.begun, []change{c}, 0) {
			_ = unix.Close(k.fd)
			delete(p.clients, ino)
		}
	}
}

// write sends changes to a program; false = it has closed the file. One that
// does not read is told later that it missed something.
func (c *client) write(begun time.Time, changes []change, flags byte) bool {
	var b []byte
	var at unix.Timespec
	_ = unix.ClockGettime(c.clock, &at) // the clock was checked
	if c.lost && !c.joy {
		b = inputEvent(b, at, change{evSyn, synDropped, 0})
	}
	for _, v := range changes {
		if c.joy {
			b = jsEvent(b, time.Since(begun), v, flags)
		} else {
			b = inputEvent(b, at, v)
		}
	}
	if !c.joy {
		b = inputEvent(b, at, change{evSyn, synReport, 0})
	}
	err := unix.Send(c.fd, b, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	c.lost = errors.Is(err, unix.EAGAIN) || c.lost && err != nil
	return err == nil || c.lost
}
