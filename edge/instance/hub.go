package instance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// hub serves the shim's socket: it tells every connection the state, and hands
// on what they ask.
type hub struct {
	dir   local.Session
	ln    net.Listener
	stops chan local.Message
	sizes chan api.Screen
	left  chan struct{} // closed: requests are not taken any more
	wg    sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	state local.InstanceState
	conns map[*local.Conn]bool
	alone time.Time // since when nobody is connected
}

// newHub listens and writes the first state.
func newHub(dir local.Session, first local.InstanceState) (*hub, error) {
	h := &hub{
		dir: dir, state: first, conns: map[*local.Conn]bool{}, alone: time.Now(),
		stops: make(chan local.Message), sizes: make(chan api.Screen), left: make(chan struct{}),
	}
	if err := os.Remove(dir.ShimSocket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", dir.ShimSocket())
	if err != nil {
		return nil, fmt.Errorf("listen on the shim's socket: %w", err)
	}
	h.ln = ln
	if err := dir.WriteInstance(first); err != nil {
		ln.Close()
		return nil, err
	}
	h.wg.Go(h.accept)
	return h, nil
}

func (h *hub) accept() {
	for {
		c, err := h.ln.Accept()
		if err != nil {
			return // closed
		}
		h.wg.Go(func() { h.serve(c) })
	}
}

func (h *hub) serve(raw net.Conn) {
	c, err := local.Handshake(raw)
	if err != nil {
		return // not one of ours, or of a version we do not speak
	}
	defer func() { _ = c.Close() }() // all is said
	h.mu.Lock()
	h.conns[c] = true
	state := h.state
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.conns, c)
		if len(h.conns) == 0 {
			h.alone = time.Now()
		}
	}()
	if c.Send(local.Message{Kind: local.KindState, Instance: &state}) != nil {
		return
	}
	for {
		m, err := c.Read()
		if err != nil {
			return
		}
		switch {
		case m.Kind == local.KindStop:
			select {
			case h.stops <- m:
			case <-h.left:
			}
		case m.Kind == local.KindAdmit && m.Screen != nil:
			size, err := m.Screen.Normalize()
			if err != nil {
				continue // the scheduler checks sizes: not one of ours
			}
			select {
			case h.sizes <- size:
			case <-h.left:
			}
		}
	}
}

// set changes the state, writes it and tells everyone.
func (h *hub) set(change func(*local.InstanceState)) error {
	h.mu.Lock()
	change(&h.state)
	state := h.state
	conns := make([]*local.Conn, 0, len(h.conns))
	for c := range h.conns {
		conns = append(conns, c)
	}
	h.mu.Unlock()
	err := h.dir.WriteInstance(state)
	for _, c := range conns {
		if c.Send(local.Message{Kind: local.KindState, Instance: &state}) != nil {
			_ = c.Close() // its reader ends with it
		}
	}
	return err
}

// lonely says for how long nobody has been connected.
func (h *hub) lonely() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.conns) > 0 {
		return 0
	}
	return time.Since(h.alone)
}

// leave lets requests go unheard from now on.
func (h *hub) leave() { close(h.left) }

// close ends the listening and every connection.
func (h *hub) close() {
	h.ln.Close()
	h.mu.Lock()
	for c := range h.conns {
		_ = c.Close() // all is said
	}
	h.mu.Unlock()
	h.wg.Wait()
}
