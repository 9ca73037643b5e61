package instance

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// hub tells the daemons the state of the instance, and hands on what they ask.
type hub struct {
	dir    local.Session
	out    *local.Hub
	stops  chan local.Message
	sizes  chan api.Screen
	claims chan api.Spec
	left   chan struct{} // closed: requests are not taken any more
	visit  atomic.Pointer[visits]

	mu    sync.Mutex // guards state
	state local.InstanceState
}

// farewell bounds the wait until the last state was taken.
const farewell = 500 * time.Millisecond

// newHub listens and writes the first state.
func newHub(dir local.Session, first local.InstanceState) (*hub, error) {
	h := &hub{
		dir: dir, state: first,
		stops: make(chan local.Message), sizes: make(chan api.Screen), claims: make(chan api.Spec), left: make(chan struct{}),
	}
	var err error
	h.out, err = local.NewHub(dir.ShimSocket(), local.Message{Kind: local.KindState, Instance: &first}, h.take)
	if err != nil {
		return nil, err
	}
	if err := dir.WriteInstance(first); err != nil {
		h.leave()
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *hub) take(m local.Message) {
	switch {
	case m.Kind == local.KindSignal && m.Signal != nil:
		if v := h.visit.Load(); v != nil {
			v.signal(*m.Signal)
		}
	case m.Kind == local.KindStop:
		select {
		case h.stops <- m:
		case <-h.left:
		}
	case m.Kind == local.KindClaim && m.Spec != nil:
		spec := *m.Spec
		var err error
		if spec.Screen, err = spec.Screen.Normalize(); err != nil {
			return // the daemon checks sizes: not one of ours
		}
		select {
		case h.claims <- spec:
		case <-h.left:
		}
	case m.Kind == local.KindAdmit && m.Screen != nil:
		size, err := m.Screen.Normalize()
		if err != nil {
			return // the scheduler checks sizes: not one of ours
		}
		select {
		case h.sizes <- size:
		case <-h.left:
		}
	}
}

// set changes the state, writes it and tells everyone.
func (h *hub) set(change func(*local.InstanceState)) error {
	h.mu.Lock()
	defer h.mu.Unlock() // the file and the daemons see the changes in one order
	change(&h.state)
	state := h.state
	err := h.dir.WriteInstance(state)
	h.out.Tell(local.Message{Kind: local.KindState, Instance: &state})
	return err
}

// tell sends a signal towards one who has entered.
func (h *hub) tell(s api.Signal) { h.out.Broadcast(local.Message{Kind: local.KindSignal, Signal: &s}) }

// lonely says for how long nobody has been connected.
func (h *hub) lonely() time.Duration { return h.out.Lonely() }

// leave lets requests go unheard from now on.
func (h *hub) leave() { close(h.left) }

// close ends the socket once the last state was taken.
func (h *hub) close() { h.out.Close(farewell) }
