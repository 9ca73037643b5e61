package simnet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const window = 1 << 20 // bytes of a stream under way; a writer waits for more

// conn is one end of a stream.
type conn struct {
	host          *Host
	in, out       *half
	local, remote net.Addr
	reading       deadline
	writing       deadline
	once          sync.Once
	done          chan struct{}
}

// half is one direction of a stream.
type half struct {
	net      *Net
	from, to string

	mu     sync.Mutex // guards the fields below
	chunks []chunk
	size   int
	last   time.Time // when the latest chunk arrives: the order is kept
	gone   time.Time // when the writer hears that nobody reads; zero = somebody does
	wake   chan struct{}
}

type chunk struct {
	bytes []byte
	at    time.Time
	end   bool // of the stream
}

// connect makes both ends of a stream.
func connect(a, b *Host, from, to int) (x, y *conn) {
	ab := &half{net: a.net, from: a.ip, to: b.ip, wake: make(chan struct{})}
	ba := &half{net: a.net, from: b.ip, to: a.ip, wake: make(chan struct{})}
	x = &conn{host: a, in: ba, out: ab, local: addr(a.ip, from), remote: addr(b.ip, to), done: make(chan struct{})}
	y = &conn{host: b, in: ab, out: ba, local: x.remote, remote: x.local, done: make(chan struct{})}
	for _, c := range []*conn{x, y} {
		c.reading.init()
		c.writing.init()
	}
	return x, y
}

// changed wakes who waits at the half. h.mu is held.
func (h *half) changed() {
	close(h.wake)
	h.wake = make(chan struct{})
}

// send adds a chunk.
func (h *half) send(b []byte, end bool) {
	d := h.net.segment(h.from, h.to)
	h.mu.Lock()
	defer h.mu.Unlock()
	at := time.Now().Add(d)
	if at.Before(h.last) {
		at = h.last
	}
	h.last = at
	h.chunks = append(h.chunks, chunk{bytes: b, at: at, end: end})
	h.size += len(b)
	h.changed()
}

// until is what a reader or a writer waits for.
type until struct {
	at    time.Duration // from now; negative = no time
	wake  <-chan struct{}
	moved <-chan struct{} // a change of the network; nil = no cut is in the way
}

// take copies what has arrived; without anything it says what to wait for.
func (h *half) take(b []byte) (int, until, error) {
	open, change := h.net.open(h.from, h.to)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.chunks) == 0 {
		return 0, until{-1, h.wake, nil}, nil
	}
	c := &h.chunks[0]
	if left := time.Until(c.at); left > 0 {
		return 0, until{left, h.wake, nil}, nil
	}
	if !open {
		return 0, until{-1, h.wake, change}, nil
	}
	if c.end {
		return 0, until{}, io.EOF
	}
	n := copy(b, c.bytes)
	if c.bytes = c.bytes[n:]; len(c.bytes) == 0 {
		h.chunks[0] = chunk{}
		h.chunks = h.chunks[1:]
	}
	h.size -= n
	h.changed()
	return n, until{}, nil
}

// Read waits for bytes that have arrived.
func (c *conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		switch {
		case closed(c.done):
			return 0, c.fault("read", net.ErrClosed)
		case closed(c.reading.wait()):
			return 0, c.fault("read", os.ErrDeadlineExceeded)
		}
		n, next, err := c.in.take(b)
		if n > 0 || err != nil {
			return n, err
		}
		c.rest(next, &c.reading)
	}
}

// Write waits until the window has room for all of b.
func (c *conn) Write(b []byte) (int, error) {
	for {
		switch {
		case closed(c.done):
			return 0, c.fault("write", net.ErrClosed)
		case closed(c.writing.wait()):
			return 0, c.fault("write", os.ErrDeadlineExceeded)
		}
		room, gone, next := c.out.room()
		if gone {
			return 0, c.fault("write", syscall.EPIPE)
		}
		if room {
			c.out.send(append([]byte(nil), b...), false)
			return len(b), nil
		}
		c.rest(next, &c.writing)
	}
}

// room says whether the writer may go on, or that nobody reads any more.
func (h *half) room() (room, gone bool, next until) {
	open, change := h.net.open(h.to, h.from)
	h.mu.Lock()
	defer h.mu.Unlock()
	next = until{-1, h.wake, nil}
	if !h.gone.IsZero() {
		if left := time.Until(h.gone); left > 0 {
			next.at = left
		} else if gone = open; !open {
			next.moved = change
		}
	}
	return h.size < window, gone, next
}

// rest waits for whatever may let a reader or writer go on.
func (c *conn) rest(u until, limit *deadline) {
	var timer <-chan time.Time
	if u.at >= 0 {
		t := time.NewTimer(u.at)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
	case <-u.wake:
	case <-u.moved:
	case <-c.done:
	case <-limit.wait():
	}
}

// Close tells the other end, as soon as the way allows.
func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.done)
		c.out.send(nil, true)
		c.in.mu.Lock()
		c.in.gone = time.Now().Add(c.in.net.segment(c.in.to, c.in.from))
		c.in.changed()
		c.in.mu.Unlock()
		c.host.net.mu.Lock()
		delete(c.host.conns, c)
		c.host.net.mu.Unlock()
	})
	return nil
}

func (c *conn) fault(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// LocalAddr is this end.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the other end.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline bounds reads and writes.
func (c *conn) SetDeadline(t time.Time) error {
	c.reading.set(t)
	c.writing.set(t)
	return nil
}

// SetReadDeadline bounds reads.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.reading.set(t)
	return nil
}

// SetWriteDeadline bounds writes.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.writing.set(t)
	return nil
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// deadline is a channel that is closed while a time is past, as in net.Pipe.
type deadline struct {
	mu    sync.Mutex // guards the fields below
	timer *time.Timer
	past  chan struct{}
}

func (d *deadline) init() { d.past = make(chan struct{}) }

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.past
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.past // its function has run or will
	}
	d.timer = nil
	over := closed(d.past)
	if t.IsZero() || time.Until(t) > 0 {
		if over {
			d.past = make(chan struct{})
		}
		if !t.IsZero() {
			past := d.past
			d.timer = time.AfterFunc(time.Until(t), func() { close(past) })
		}
		return
	}
	if !over {
		close(d.past)
	}
}
