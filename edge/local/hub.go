package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// Hub serves a shim's or a stream's socket to daemons; there are two of them
// while one replaces the other.
type Hub struct {
	ln      net.Listener
	message func(Message)
	wg      sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	state  Message    // what a daemon is told first
	conns  map[*hubConn]bool
	closed bool
	alone  time.Time // since when nobody is connected
}

// hubConn is one daemon; out is closed to have what is queued written and the
// connection ended.
type hubConn struct {
	c   *Conn
	out chan Message
}

const (
	hubQueue = 512
	hubConns = 8
)

// NewHub listens on a socket, in place of one that an earlier process left.
// message is called for what daemons ask, on each connection's own goroutine;
// the connection's next message waits for it.
func NewHub(path string, state Message, message func(Message)) (*Hub, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on local socket: %w", err)
	}
	h := &Hub{ln: ln, message: message, state: state, conns: map[*hubConn]bool{}, alone: time.Now()}
	h.wg.Go(h.accept)
	return h, nil
}

func (h *Hub) accept() {
	for {
		raw, err := h.ln.Accept()
		if err != nil {
			return // closed
		}
		h.wg.Go(func() { h.serve(raw) })
	}
}

func (h *Hub) serve(raw net.Conn) {
	c, err := Handshake(raw)
	if err != nil {
		return // not one of ours, or of a version we do not speak
	}
	defer func() { _ = c.Close() }()
	hc := &hubConn{c: c, out: make(chan Message, hubQueue)}
	h.mu.Lock()
	if h.closed || len(h.conns) >= hubConns {
		h.mu.Unlock()
		return
	}
	h.conns[hc] = true
	hc.out <- h.state // a later one follows it: both are under the lock
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
		h.message(m)
	}
}

func (h *Hub) leave(hc *hubConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.conns[hc] {
		return
	}
	delete(h.conns, hc)
	close(hc.out)
	if len(h.conns) == 0 {
		h.alone = time.Now()
	}
}

// Tell queues a state for every daemon, and is what later ones are told first.
func (h *Hub) Tell(m Message) {
	h.mu.Lock()
	h.state = m
	h.mu.Unlock()
	h.Broadcast(m)
}

// Broadcast queues a message for every daemon. A full queue drops it: signals
// are sent again and states follow.
func (h *Hub) Broadcast(m Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for hc := range h.conns {
		select {
		case hc.out <- m:
		default:
		}
	}
}

// Lonely says for how long nobody has been connected; 0 while somebody is.
func (h *Hub) Lonely() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.conns) > 0 {
		return 0
	}
	return time.Since(h.alone)
}

// Close ends the socket after what is queued was written, within a time.
func (h *Hub) Close(within time.Duration) {
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
