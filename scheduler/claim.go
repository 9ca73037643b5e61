package scheduler

import (
	"context"
	"slices"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/place"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// claim gives a create an instance that is started already, where there is one
// that fits and is near enough, and says whether it is on its way into the log.
// Applications without any cost one look at the state.
func (s *Server) claim(ctx context.Context, m *making) bool {
	root := s.root()
	if !root.HasWarm(m.create.App) {
		return false
	}
	s.view.mu.Lock()
	cmd, why := s.claimable(root, m)
	if cmd != nil {
		s.pools.claiming[cmd.Warm] = true
	}
	s.view.mu.Unlock()
	if cmd == nil {
		return false
	}
	// It holds nothing on any node: the instance's reservation is in the ledger.
	m.claim, m.held = cmd, &pending{why: why}
	m.proposal, m.flying = s.enqueue(ctx, cmd, m.held), true
	return true
}

// unclaim lets go of the instance of a claim that was answered.
func (s *Server) unclaim(m *making) {
	if m.claim == nil {
		return
	}
	s.view.mu.Lock()
	delete(s.pools.claiming, m.claim.Warm)
	s.view.mu.Unlock()
	m.claim = nil
	s.pools.kick()
}

// claimable finds the started instance for a create, with how it came to it. One
// that is farther than its pool allows than where the session could start is left
// to others. The caller holds the view.
func (s *Server) claimable(root *state.State, m *making) (*state.Claim, *api.Explanation) {
	byNode, nodes := s.idle(root, m.create)
	if len(nodes) == 0 {
		return nil, nil
	}
	now := s.cfg.Clock()
	s.serve(now) // who waits comes first: what is left may be farther
	f := s.view.fleet
	if f == nil {
		s.view.follow(s.view.root)
		f = s.view.fleet
	}
	q, op, watch := s.asked(m.need, now, 0)
	choice, cold := f.Place(q, op, watch)
	if cold && !slices.Contains(nodes, choice.Node) {
		nodes = append(nodes, choice.Node)
	}
	near := f.Nearest(q, op, watch, nodes)
	at := slices.IndexFunc(near, func(n place.Near) bool { return cold && n.Node == choice.Node })
	for _, n := range near {
		for _, w := range byNode[n.Node] {
			cmd := s.claimOf(root, m, w, n.Placement)
			if cmd == nil {
				continue
			}
			if p, _ := root.Pool(w.App, w.Region); at >= 0 && n.ScoreMS > near[at].ScoreMS+p.Within() {
				return nil, nil
			}
			if !s.view.kept.mayKeep(now) {
				return cmd, nil
			}
			why := explained(m.need, now, 0, f.Len(), f.Explain(q, op, watch, maxExplained))
			why.Warm = w.Node
			return cmd, why
		}
	}
	return nil, nil
}

// idle gives the instances that a create may have, by node, and the nodes.
func (s *Server) idle(root *state.State, c *state.Create) (byNode map[api.NodeID][]*state.Session, nodes []api.NodeID) {
	byNode = map[api.NodeID][]*state.Session{}
	root.Warm(c.App, func(w *state.Session) bool {
		if w.AppVersion == c.AppVersion && w.Claimable() && !s.pools.claiming[w.ID] {
			if byNode[w.Node] == nil {
				nodes = append(nodes, w.Node)
			}
			byNode[w.Node] = append(byNode[w.Node], w)
		}
		return true
	})
	return byNode, nodes
}

// claimOf makes the claim of one instance, in the first codec that the client wants
// and the instance's pool has room for at the client's size; nil where it has none.
func (s *Server) claimOf(root *state.State, m *making, w *state.Session, p api.Placement) *state.Claim {
	n, ok := root.Node(w.Node)
	if !ok {
		return nil
	}
	capacity, _ := n.Capacity(w.Pool)
	n = n.Without([]*state.Session{w})
	parts := place.Takes(&m.need, m.need.Screen.FPS)
	parts.GPU = w.Parts.GPU
	if _, carries := n.Carries(parts); !carries {
		return nil
	}
	for _, codec := range m.need.Codecs {
		cost := capacity.Cost(codec, w.Preset, m.need.Screen)
		if _, fits := n.Fits(w.Pool, codec, cost, 0, 0); !fits {
			continue
		}
		c := *m.create
		c.Node, c.Region, c.Pool, c.Codec, c.Preset, c.Reserved, c.Parts, c.Placement = w.Node, w.Region, w.Pool, codec, w.Preset, cost, parts, p
		c.Screen = m.need.Screen
		c.Codecs = s.codecsThere(place.Choice{Node: w.Node, Pool: w.Pool, Codec: codec}, m.need)
		return &state.Claim{Create: c, Warm: w.ID}
	}
	return nil
}

// claimedBefore finds what an earlier try of a create took from a pool.
func (s *Server) claimedBefore(id api.SessionID, account string) (madeSession, bool) {
	root := s.root()
	if root.EntryVersion() < state.WarmSince || root.PoolCount() == 0 {
		return madeSession{}, false
	}
	v, viewer, ok := root.ByKey(account, state.ClaimKey(id))
	return madeSession{v, viewer}, ok
}
