package state

import (
	"slices"

	"github.com/perigee-cloud/perigee/api"
)

func noNode(id api.NodeID) error {
	return api.Errorf(api.CodeNotFound, "no node %q has joined", id)
}

func (m *PutNode) apply(t *tx) Result {
	n, err := parseNode(m.Doc)
	if err != nil {
		return Result{Err: err}
	}
	n.RelaySecret, n.Lost = m.RelaySecret, false
	if old, ok := t.nodes.Get(string(n.ID)); ok {
		n.JoinedAt, n.Drain = old.JoinedAt, old.Drain
		n.used, n.parts, n.Held, n.sessions = old.used, old.parts, old.Held, old.sessions
	} else {
		if err := t.use(m.Token); err != nil {
			return Result{Err: err}
		}
		n.JoinedAt, n.Drain = t.now, false
	}
	t.nodes = t.nodes.Set(string(n.ID), n)
	return Result{}
}

func (m *DrainNode) apply(t *tx) Result {
	n, ok := t.edit(m.ID)
	if !ok {
		return Result{Err: noNode(m.ID)}
	}
	n.Drain = m.Drain
	return Result{}
}

// hosted gives the live sessions of a node by id.
func (t *tx) hosted(n *Node) []*Session {
	var out []*Session
	for id := range n.sessions.Sorted() {
		if s, ok := t.change(api.SessionID(id)); ok {
			out = append(out, s)
		}
	}
	return out
}

func (m *RemoveNode) apply(t *tx) Result {
	n, ok := t.nodes.Get(string(m.ID))
	if !ok {
		return Result{Err: noNode(m.ID)}
	}
	for _, s := range t.hosted(n) {
		if s.Desired == api.DesiredStop {
			t.finish(s, api.ObservedStopped)
			continue
		}
		s.Reason, s.Message = api.ReasonNodeLost, "the node was removed"
		t.finish(s, api.ObservedFailed)
	}
	t.nodes = t.nodes.Delete(string(m.ID))
	return Result{}
}

func (m *LoseNode) apply(t *tx) Result {
	n, ok := t.edit(m.ID)
	if !ok {
		return Result{Err: noNode(m.ID)}
	}
	n.Lost = true
	for _, s := range t.hosted(n) {
		if s.Desired == api.DesiredStop {
			t.abandon(s, api.ObservedStopped)
			continue
		}
		s.Observed, s.Reason, s.Message = api.ObservedLost, api.ReasonNodeLost, "its node is not heard"
		t.put(s)
	}
	return Result{}
}

func (m *BackNode) apply(t *tx) Result {
	n, ok := t.edit(m.ID)
	if !ok {
		return Result{Err: noNode(m.ID)}
	}
	n.Lost = false
	for _, s := range t.hosted(n) {
		i := slices.IndexFunc(m.Running, func(r api.Running) bool {
			return r.Session == s.ID && r.Generation == s.Generation
		})
		if i < 0 || s.Observed != api.ObservedLost {
			continue
		}
		r := m.Running[i]
		if r.Observed != api.ObservedStarting && r.Observed != api.ObservedRunning {
			continue // its own report brings the end and the reason
		}
		s.Observed, s.Reason, s.Message = r.Observed, api.ReasonNone, ""
		s.see(r.Connected, t.now)
		t.put(s)
	}
	return Result{}
}
