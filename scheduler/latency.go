package scheduler

import (
	"maps"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// latencySessions bounds of how many sessions the measured latency is
// remembered: about 2 KiB each.
const latencySessions = 1 << 13

// latencies is what viewers' streams measured. Every replica hears the reports
// and keeps it in its own memory: statistics are never entries. After a
// restart it fills again, as streams report everything since their begin.
type latencies struct {
	mu       sync.Mutex
	sessions map[api.SessionID]measured
	order    []api.SessionID // of sessions; a ring once it is full
	next     int
	nodes    map[api.NodeID]*api.Latency // over all sessions, since this replica began
	drifts   map[api.NodeID]*drift
}

type measured struct {
	generation api.Generation
	latency    *api.Latency
}

// learn takes in a report of a node that is known; what it says since the
// session's report before counts for the node. It gives the node's own stages
// that drift from now on.
func (l *latencies) learn(r api.Report, now time.Time) []api.Stage {
	if r.Latency == nil || r.Latency.Check() != nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions == nil {
		l.sessions, l.nodes = map[api.SessionID]measured{}, map[api.NodeID]*api.Latency{}
		l.drifts = map[api.NodeID]*drift{}
	}
	before, known := l.sessions[r.Session]
	if known && before.generation > r.Generation {
		return nil
	}
	if !known {
		if len(l.order) < latencySessions {
			l.order = append(l.order, r.Session)
		} else {
			delete(l.sessions, l.order[l.next])
			l.order[l.next] = r.Session
			l.next = (l.next + 1) % latencySessions
		}
	}
	old := before.latency
	if before.generation != r.Generation {
		old = nil // another stream, which counts from nothing
	}
	l.sessions[r.Session] = measured{r.Generation, r.Latency}
	sum, d := l.nodes[r.Node], l.drifts[r.Node]
	if sum == nil {
		sum, d = &api.Latency{}, &drift{}
		l.nodes[r.Node], l.drifts[r.Node] = sum, d
	}
	fresh := &api.Latency{}
	fresh.AddSince(r.Latency, old)
	sum.AddSince(fresh, nil)
	return d.learn(fresh, now)
}

// of gives what is known of a session; nil = nothing.
func (l *latencies) of(id api.SessionID) map[api.Stage]api.StageSummary {
	l.mu.Lock()
	m := l.sessions[id]
	l.mu.Unlock()
	if m.latency == nil {
		return nil
	}
	return m.latency.Summary()
}

// NodeLatency gives each node's histograms of the stages, over all sessions
// that reported to this replica since it began.
func (s *Server) NodeLatency() map[api.NodeID]*api.Latency {
	l := &s.view.latency
	root := s.root()
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.nodes, func(id api.NodeID, _ *api.Latency) bool {
		_, ok := root.Node(id)
		if !ok { // removed
			delete(l.drifts, id)
		}
		return !ok
	})
	out := make(map[api.NodeID]*api.Latency, len(l.nodes))
	for id, n := range l.nodes {
		out[id] = n.Clone()
	}
	return out
}
