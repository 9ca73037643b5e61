package scheduler

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// missedHeartbeats is how many heartbeats in a row must leave a session out
// before it counts as gone: the node's own report of the end comes before.
const missedHeartbeats = 3

// leases is what this replica heard of the nodes since it leads. It counts its
// own monotonic time only.
type leases struct {
	mu    sync.Mutex
	until time.Time // grace: no node is lost before
	nodes map[api.NodeID]*lease
}

type lease struct {
	boot     string
	seq      uint64
	heard    time.Time
	headroom api.Headroom
	alarms   []api.Alarm
	missing  map[state.Held]int // by session and generation
}

func (l *leases) begin(now time.Time, grace time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = now.Add(grace)
}

// hear renews a node's lease. It says false for a heartbeat that was overtaken.
func (l *leases) hear(id api.NodeID, boot string, seq uint64, h api.Headroom, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[id]
	if n == nil || n.boot != boot {
		n = &lease{boot: boot, missing: map[state.Held]int{}}
		l.nodes[id] = n
	}
	n.heard = now
	if seq == 0 { // it joined, the same start once more perhaps
		return true
	}
	if seq <= n.seq {
		return false
	}
	n.seq, n.headroom = seq, h
	return true
}

// alarm keeps what a node last said of its troubles.
func (l *leases) alarm(id api.NodeID, list []api.Alarm) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[id]; n != nil {
		n.alarms = api.ClipAlarms(list)
	}
}

// alarms gives what a node last said of its troubles.
func (l *leases) alarms(id api.NodeID) []api.Alarm {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[id]; n != nil {
		return n.alarms
	}
	return nil
}

// last gives the boot that was last heard of a node and when.
func (l *leases) last(id api.NodeID) (boot string, heard time.Time, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[id]
	if n == nil {
		return "", time.Time{}, false
	}
	return n.boot, n.heard, true
}

// alive says whether a node's lease holds. Under a new leader that is so until
// the grace is over, lest a change of leaders refuse every session.
func (l *leases) alive(n *state.Node, now time.Time, length time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	have := l.nodes[n.ID]
	switch {
	case n.Lost:
		return false
	case have == nil:
		return now.Before(l.until)
	default:
		return now.Sub(have.heard) < length
	}
}

// expired says whether a node is to be declared lost.
func (l *leases) expired(id api.NodeID, now time.Time, length time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	have := l.nodes[id]
	if have == nil {
		return !now.Before(l.until)
	}
	return now.Sub(have.heard) >= length && !now.Before(l.until)
}

// keep forgets all nodes but those that hold says are known.
func (l *leases) keep(known func(api.NodeID) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.nodes, func(id api.NodeID, _ *lease) bool { return !known(id) })
}

// absent counts what a node should run and does not list, and gives what was
// left out often enough.
func (l *leases) absent(id api.NodeID, left []state.Held) []state.Held {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[id]
	if n == nil {
		return nil
	}
	counts := make(map[state.Held]int, len(left))
	var gone []state.Held
	for _, h := range left {
		counts[h] = n.missing[h] + 1
		if counts[h] >= missedHeartbeats {
			gone = append(gone, h)
		}
	}
	n.missing = counts
	return gone
}

// headroom gives the newer of what gossip and the heartbeats brought, when it
// is of the node's present start and not older than a lease.
func (s *Server) headroom(n *state.Node) (api.Headroom, bool) {
	var best api.Headroom
	found := false
	s.leases.mu.Lock()
	if l := s.leases.nodes[n.ID]; l != nil && l.boot == n.Boot && len(l.headroom.Pools) > 0 && s.cfg.Clock().Sub(l.heard) < s.cfg.Lease {
		best, found = l.headroom, true
	}
	s.leases.mu.Unlock()
	if s.cfg.Headroom == nil {
		return best, found
	}
	h, at, ok := s.cfg.Headroom.Latest(n.ID)
	if ok && h.Boot == n.Boot && s.cfg.Clock().Sub(at) < s.cfg.Lease && (!found || h.Seq > best.Seq) {
		return h, true
	}
	return best, found
}

// onHeartbeat renews a lease, brings a lost node back and reconciles what it
// runs with what it should.
func (s *Server) onHeartbeat(ctx context.Context, h api.Heartbeat) api.HeartbeatAnswer {
	if s.serving() != nil {
		return api.HeartbeatAnswer{}
	}
	if !s.leads() {
		// Followers listen, so that a new leader knows what is alive; the
		// leader answers.
		if s.leases.hear(h.Node, h.Boot, h.Seq, h.Headroom, s.cfg.Clock()) {
			s.leases.alarm(h.Node, h.Alarms)
		}
		return api.HeartbeatAnswer{}
	}
	root := s.root()
	n, ok := root.Node(h.Node)
	switch {
	case !ok:
		return api.HeartbeatAnswer{Refused: "the node is not known here: join again"}
	case n.Boot != h.Boot:
		return api.HeartbeatAnswer{Refused: "another start of this node's daemon has joined since"}
	}
	if !s.leases.hear(h.Node, h.Boot, h.Seq, h.Headroom, s.cfg.Clock()) {
		return api.HeartbeatAnswer{OK: true}
	}
	s.leases.alarm(h.Node, h.Alarms)
	if n.Lost || listsLost(root, h) {
		if _, err := s.propose(ctx, &state.BackNode{ID: h.Node, Running: h.Running}); err != nil {
			s.cfg.Log.Warn("node could not be taken back", "node", h.Node, "error", err)
			return api.HeartbeatAnswer{OK: true}
		}
		s.cfg.Log.Info("node is back", "node", h.Node, "sessions", len(h.Running))
		root = s.root()
		if n, ok = root.Node(h.Node); !ok {
			return api.HeartbeatAnswer{Refused: "the node was removed"}
		}
		for id := range n.Sessions() {
			s.dispatch.kick(id)
		}
	}
	return api.HeartbeatAnswer{OK: true, Unwanted: s.reconcile(ctx, root, n, h)}
}

func listsLost(root *state.State, h api.Heartbeat) bool {
	for _, r := range h.Running {
		if v, ok := root.Live(r.Session); ok && v.Observed == api.ObservedLost && v.Generation == r.Generation && v.Node == h.Node &&
			(r.Observed == api.ObservedStarting || r.Observed == api.ObservedRunning) {
			return true
		}
	}
	return false
}

// reconcile gives what the node must stop, and frees what it does not run.
func (s *Server) reconcile(ctx context.Context, root *state.State, n *state.Node, h api.Heartbeat) (unwanted []api.Running) {
	listed := make(map[api.SessionID]api.Generation, len(h.Running))
	for _, r := range h.Running {
		listed[r.Session] = r.Generation
		v, ok := root.Live(r.Session)
		if !ok || v.Node != n.ID || v.Generation != r.Generation {
			if !api.Final(r.Observed) {
				unwanted = append(unwanted, r)
			}
		}
	}
	var left []state.Held
	for id := range n.Sessions() {
		v, ok := root.Live(id)
		if !ok || listed[id] == v.Generation {
			continue
		}
		if v.Observed != api.ObservedNone || v.Desired == api.DesiredStop {
			left = append(left, state.Held{Session: id, Generation: v.Generation})
		}
	}
	for _, held := range n.Held {
		if listed[held.Session] != held.Generation {
			left = append(left, state.Held{Session: held.Session, Generation: held.Generation})
		}
	}
	for _, gone := range s.leases.absent(n.ID, left) {
		s.cfg.Log.Warn("node does not run its session any more", "node", n.ID, "session", gone.Session)
		if _, err := s.propose(ctx, &state.Missing{ID: gone.Session, Generation: gone.Generation, Node: n.ID}); err != nil {
			s.cfg.Log.Warn("session could not be closed", "session", gone.Session, "error", err)
		}
	}
	return unwanted
}
