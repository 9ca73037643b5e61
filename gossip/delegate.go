package gossip

import (
	"time"

	"github.com/hashicorp/memberlist"
)

// broadcast is one entry on its way; a newer one of the same node replaces it.
type broadcast struct {
	name  string
	bytes []byte
}

func (b *broadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(*broadcast)
	return ok && o.name == b.name
}
func (b *broadcast) Message() []byte { return b.bytes }
func (b *broadcast) Finished()       {}
func (b *broadcast) Name() string    { return b.name }

func (r *Ring) spread(e entry) {
	r.queue.QueueBroadcast(&broadcast{name: string(e.id), bytes: encodeBroadcast(e)})
}

// NodeMeta implements memberlist.Delegate.
func (r *Ring) NodeMeta(limit int) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.meta[:min(limit, len(r.meta))] // encode has held it to the limit
}

// NotifyMsg implements memberlist.Delegate: one headroom broadcast.
func (r *Ring) NotifyMsg(b []byte) {
	e, err := decodeBroadcast(b)
	if err != nil {
		r.log.Debug("gossip message not read", "error", err)
		return
	}
	if s, ok := r.view.merge(e, time.Now()); ok {
		r.spread(s)
	}
}

// GetBroadcasts implements memberlist.Delegate.
func (r *Ring) GetBroadcasts(overhead, limit int) [][]byte {
	if !r.running() {
		return nil
	}
	return r.queue.GetBroadcasts(overhead, limit)
}

// LocalState implements memberlist.Delegate: all that a late joiner must know.
func (r *Ring) LocalState(bool) []byte { return encodeState(r.view.state(time.Now())) }

// MergeRemoteState implements memberlist.Delegate.
func (r *Ring) MergeRemoteState(b []byte, _ bool) {
	list, err := decodeState(b)
	if err != nil {
		r.log.Debug("gossip state not read", "error", err)
		return
	}
	now := time.Now()
	for _, a := range list {
		if a.age >= staleAfter {
			continue
		}
		// What is news to a joiner is not to the ring: only a refutation is spread.
		if s, ok := r.view.merge(a.entry, now.Add(-a.age)); ok && s.id == r.view.self {
			r.spread(s)
		}
	}
}

// NotifyJoin implements memberlist.EventDelegate. What is needed of n is copied
// now: memberlist changes it later.
func (r *Ring) NotifyJoin(n *memberlist.Node) {
	m, err := parseMeta(n.Meta)
	if err != nil {
		r.log.Debug("gossip member not read", "member", n.Name, "error", err)
		return
	}
	r.view.joined(n.Name, Member{Meta: m, Address: n.Address()})
}

// NotifyUpdate implements memberlist.EventDelegate.
func (r *Ring) NotifyUpdate(n *memberlist.Node) { r.NotifyJoin(n) }

// NotifyLeave implements memberlist.EventDelegate.
func (r *Ring) NotifyLeave(n *memberlist.Node) { r.view.left(n.Name) }
