package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/edge/local"
)

// hub serves the stream's socket to daemons; there are two of them while one
// replaces the other.
type hub struct {
	ln     net.Listener
	events hubEvents
	wg     sync.WaitGroup

	mu     sync.Mutex
	conns  map[*hubConn]bool
	closed bool
}

type hubEvents struct {
	message func(local.Message)
	hello   func() local.Message
}

// hubConn is one daemon; out is closed to have what is queued written and the
// connection ended.
type hubConn struct {
	c   *local.Conn
	out chan local.Message
}

const (
	hubQueue = 512
	hubConns = 8
)

func newHub(dir local.Session, events hubEvents) (*hub, error) {
	if err := os.Remove(dir.StreamSocket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", dir.StreamSocket())
	if err != nil {
		return nil, fmt.Errorf("listen on the stream's socket: %w", err)
	}
	h := &hub{ln: ln, events: events, conns: map[*hubConn]bool{}}
	h.wg.Go(h.accept)
	return h, nil
}

func (h *hub) accept() {
	for {
		raw, err := h.ln.Accept()
		if err != nil {
			return // closed
		}
		h.wg.Go(func() { h.serve(raw) })
	}
}

func (h *hub) serve(raw net.Conn) {
	c, err := local.Handshake(raw)
	if err != nil {
		return // not one of ours, or of a version we do not speak
	}
	defer func() { _ = c.Close() }()
	hc := &hubConn{c: c, out: make(chan local.Message, hubQueue)}
	hc.out <- h.events.hello() // before anybody else may close or fill it
	h.mu.Lock()
	if h.closed || len(h.conns) >= hubConns {
		h.mu.Unlock()
		return
	}
	h.conns[hc] = true
	h.mu.Unlock()
	h.wg.Go(func() {
		defer func() { _ = c.Close() }() // wakes the reader below
		for m := range hc.out {
			if c.Send(m) != nil {
				break
			}
		}
	})
	for {
		m, err := c.Read()
		if err != nil {
			h.leave(hc)
			return
		}
		h.events.message(m)
	}
}

func (h *hub) leave(hc *hubConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conns[hc] {
		delete(h.conns, hc)
		close(hc.out)
	}
}

// broadcast queues a message for every daemon. A full queue drops it: signals
// are sent again and states follow.
func (h *hub) broadcast(m local.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for hc := range h.conns {
		select {
		case hc.out <- m:
		default:
		}
	}
}

func (h *hub) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.conns)
}

// close ends the socket after what is queued was written, within a time.
func (h *hub) close(within time.Duration) {
	_ = h.ln.Close() // it only fails when closed already
	h.mu.Lock()
	h.closed = true
	conns := h.conns
	h.conns = map[*hubConn]bool{}
	for hc := range conns {
		close(hc.out)
	}
	h.mu.Unlock()
	timer := time.AfterFunc(within, func() {
		for hc := range conns {
			_ = hc.c.Close()
		}
	})
	defer timer.Stop()
	h.wg.Wait()
}
