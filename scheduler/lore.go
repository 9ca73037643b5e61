package scheduler

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

const (
	// loreNetworks bounds the atlas in memory: about 40 MiB when each knows four
	// nodes.
	loreNetworks = 100_000
	// loreSessions bounds how many sessions' networks are remembered.
	loreSessions = 1 << 16
	// keepEvery and keepMost bound what of the atlas becomes entries: what is
	// learned in between is lost with a leader that is killed.
	keepEvery = 5 * time.Second
	keepMost  = 2048
	// sharedMost is how many nodes an autonomous system's own entry tells of.
	sharedMost = 8
)

// lore is what live sessions taught of the ways from networks to nodes: what
// the state keeps of that, and what this leadership has added.
type lore struct {
	mu       sync.Mutex
	atlas    *geo.Atlas
	networks map[api.SessionID]networks
	order    []api.SessionID // of networks; a ring once it is full
	next     int
	dirty    map[routeKey]bool // not in the state yet
}

// networks are the names that a client's round trips are learned under: its
// prefix, and its autonomous system where it is.
type networks struct{ own, shared string }

type routeKey struct {
	network string
	node    api.NodeID
}

func networksOf(n api.Need) networks {
	return networks{geo.NetworkOf(n.Network), geo.SharedNetworkOf(n.ASN, n.Client)}
}

// begin starts a leadership: the state knows what the others learned.
func (l *lore) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.atlas, l.dirty = geo.NewAtlas(loreNetworks), map[routeKey]bool{}
}

// recall takes in what the state keeps of a network. The caller holds mu.
func (l *lore) recall(root *state.State, network string) {
	if l.atlas == nil {
		l.atlas, l.dirty = geo.NewAtlas(loreNetworks), map[routeKey]bool{}
	}
	if network == "" || l.atlas.Has(network) {
		return
	}
	kept := root.Routes(network)
	routes := make([]geo.Route, 0, len(kept))
	for _, r := range kept {
		routes = append(routes, geo.Route{Node: r.Node, MS: float64(r.Tenths) / 10, DeviationMS: float64(r.Spread) / 10,
			Weight: float64(r.Weight) / 10, Samples: int(min(r.Samples, math.MaxInt32)), At: r.Time()})
	}
	l.atlas.Restore(network, routes)
}

// nodes gives what is known of the way from a client to nodes: by its own
// network, and of further nodes by its autonomous system.
func (l *lore) nodes(root *state.State, n networks, now time.Time) []geo.Learned {
	if n.own == "" && n.shared == "" {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recall(root, n.own)
	l.recall(root, n.shared)
	out := l.atlas.Nodes(nil, n.own, now)
	mine := len(out)
	for _, shared := range l.atlas.Nodes(nil, n.shared, now) {
		known := slices.ContainsFunc(out[:mine], func(o geo.Learned) bool { return o.Node == shared.Node })
		if !known && len(out) < mine+sharedMost {
			shared.Shared = true
			out = append(out, shared)
		}
	}
	return out
}

// remember notes whose session it is, so that its round trips teach something.
func (l *lore) remember(id api.SessionID, n networks) {
	if n == (networks{}) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.networks == nil {
		l.networks = map[api.SessionID]networks{}
	}
	if _, known := l.networks[id]; known {
		return
	}
	if len(l.order) < loreSessions {
		l.order = append(l.order, id)
	} else {
		delete(l.networks, l.order[l.next])
		l.order[l.next] = id
		l.next = (l.next + 1) % loreSessions
	}
	l.networks[id] = n
}

// learn takes in what an edge measured of a session's viewer.
// Site is the node that stands for the edge's.
func (l *lore) learn(root *state.State, r api.Report, site api.NodeID, now time.Time) {
	if !(r.RoundTripMS > 0) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.networks[r.Session]
	if !ok {
		return
	}
	for _, name := range []string{n.own, n.shared} {
		if name == "" {
			continue
		}
		l.recall(root, name)
		l.atlas.Learn(name, site, r.RoundTripMS, now)
		if len(l.dirty) < loreNetworks {
			l.dirty[routeKey{name, site}] = true
		}
	}
}

// changed gives what is to be kept, at most keepMost routes.
func (l *lore) changed() []state.Route {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []state.Route
	for key := range l.dirty {
		if len(out) == keepMost {
			break
		}
		delete(l.dirty, key)
		r, ok := l.atlas.Route(key.network, key.node)
		if !ok {
			continue // it has left the atlas since
		}
		tenths := func(v float64) uint64 { return uint64(math.Round(10 * max(v, 0))) }
		out = append(out, state.Route{Network: key.network, Node: key.node, Tenths: tenths(r.MS), Spread: tenths(r.DeviationMS),
			Weight: tenths(r.Weight), Samples: uint64(max(r.Samples, 0)), At: r.At.Unix() / 60})
	}
	return out
}

// keepLore lets every replica know what was learned, until the leadership ends.
func (s *Server) keepLore(ctx context.Context) {
	for pause(ctx, keepEvery) {
		if s.root().EntryVersion() < state.Since(&state.Routes{}) {
			continue // some replica does not know this yet
		}
		routes := s.view.lore.changed()
		if len(routes) == 0 {
			continue
		}
		if _, err := s.propose(ctx, &state.Routes{Routes: routes}); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("what was learned of round trips could not be kept", "routes", len(routes), "error", err)
		}
	}
}
