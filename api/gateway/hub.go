package gateway

import (
	"context"
	"fmt"
	"sync"

	"github.com/perigee-cloud/perigee/api"
)

// hub joins the two websockets of a session whose application somebody else
// provides. Both must come to the same gateway.
type hub struct {
	mu    sync.Mutex
	rooms map[api.SessionID]*room
}

// room is one session's meeting place. What either side sends waits, bounded,
// until the other is there.
type room struct {
	master, slave *hubLink // nil = not there
	toMaster      *queue
	toSlave       *queue
}

// hubLink is one side's SignalLink.
type hubLink struct {
	hub     *hub
	session api.SessionID
	role    api.Role
	out     *queue
	in      *queue
}

func newHub() *hub { return &hub{rooms: map[api.SessionID]*room{}} }

// attach takes a place in a session's room. A new client takes over from the
// one before; a second provider is refused.
func (h *hub) attach(id api.SessionID, role api.Role) (SignalLink, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rooms[id]
	if r == nil {
		r = &room{toMaster: newQueue(), toSlave: newQueue()}
		h.rooms[id] = r
	}
	l := &hubLink{hub: h, session: id, role: role}
	if role == api.RoleMaster {
		if r.master != nil {
			return nil, api.Errorf(api.CodeConflict, "the session's provider is connected already")
		}
		r.master, l.out, l.in = l, r.toSlave, r.toMaster
		return l, nil
	}
	if r.slave != nil {
		r.slave.in.close(fmt.Errorf("another client joined: %w", api.ErrSignalClosed))
		// The provider's pump writes into the old queue: give it the new one.
		r.toSlave = newQueue()
		if r.master != nil {
			r.master.out = r.toSlave
		} else {
			r.toMaster.clear()
		}
	}
	r.slave, l.out, l.in = l, r.toMaster, r.toSlave
	return l, nil
}

// Send queues a frame for the other side.
func (l *hubLink) Send(frame []byte) error {
	l.hub.mu.Lock()
	out := l.out
	l.hub.mu.Unlock()
	if err := out.push(frame); err != nil {
		return api.Errorf(api.CodeUnavailable, "%s", err)
	}
	return nil
}

// Receive waits for the other side's next frame.
func (l *hubLink) Receive(ctx context.Context) ([]byte, error) { return l.in.pop(ctx) }

// Close gives the place up. What a leaving client sent last stays for the provider.
func (l *hubLink) Close() error {
	l.hub.mu.Lock()
	defer l.hub.mu.Unlock()
	r := l.hub.rooms[l.session]
	if r == nil {
		return nil
	}
	switch l {
	case r.master:
		r.master = nil
	case r.slave:
		r.slave = nil
		r.toSlave.clear()
	}
	if r.master == nil && r.slave == nil {
		delete(l.hub.rooms, l.session)
	}
	return nil
}
