package scheduler

import (
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
	"github.com/perigee-cloud/perigee/scheduler/place"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// pendingPool is what placements under way take of a pool before the ledger shows it.
type pendingPool struct {
	Reserved uint64 // macroblocks per second
	Sessions int
}

// pending is what one placement took before the ledger shows it.
type pending struct {
	node api.NodeID
	pool api.Pool
	cost uint64
	take api.Parts        // beside the pool
	why  *api.Explanation // nil when it is not kept
}

// view is what placement sees: a root and, beside it, what placements that the
// root does not show yet have taken. Both change together, and the fleet, which
// is searched, with them.
type view struct {
	mu      sync.Mutex
	root    *state.State
	pending map[api.NodeID]map[api.Pool]pendingPool
	fleet   *place.Fleet // nil until a first root is set

	lore    lore
	latency latencies
	kept    explanations
	away    explanations // of those turned away
}

func (v *view) get() *state.State {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.root
}

func (v *view) set(root *state.State) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.follow(root)
}

// follow takes in a root. The caller holds mu.
func (v *view) follow(root *state.State) {
	v.root = root
	if v.fleet == nil {
		v.fleet = place.NewFleet()
	}
	v.fleet.Sync(root)
}

// settle takes in a root that shows a batch, and forgets what the batch had pending.
func (v *view) settle(root *state.State, batch []*proposal) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.follow(root)
	for _, p := range batch {
		v.drop(p.pending)
	}
}

// giveBack frees what a placement took that was never proposed.
func (v *view) giveBack(p *pending) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.drop(p)
}

func (v *view) drop(p *pending) {
	if p == nil {
		return
	}
	pools := v.pending[p.node]
	have := pools[p.pool]
	if have.Sessions == 0 {
		return
	}
	v.fleet.Drop(p.node, p.pool, p.cost, p.take)
	have.Reserved -= min(p.cost, have.Reserved)
	have.Sessions--
	if have.Sessions > 0 {
		pools[p.pool] = have
		return
	}
	delete(pools, p.pool)
	if len(pools) == 0 {
		delete(v.pending, p.node)
	}
}

func (v *view) take(p *pending) {
	v.fleet.Hold(p.node, p.pool, p.cost, p.take)
	if v.pending[p.node] == nil {
		v.pending[p.node] = map[api.Pool]pendingPool{}
	}
	have := v.pending[p.node][p.pool]
	have.Reserved += p.cost
	have.Sessions++
	v.pending[p.node][p.pool] = have
}

// siteOf gives the node that stands for a node's site.
func (v *view) siteOf(id api.NodeID) api.NodeID {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.fleet == nil {
		return id
	}
	return v.fleet.Site(id)
}

// maxExplained bounds the candidates of an explanation and of a refusal.
const maxExplained = 32

// place chooses a node for a newcomer and takes what the session needs there,
// so that the next placement sees it. Who waits is served before.
func (s *Server) place(need api.Need) (place.Choice, *pending, *refused) {
	now := s.cfg.Clock()
	s.view.mu.Lock()
	defer s.view.mu.Unlock()
	s.serve(now)
	return s.placeHere(need, now, 0, true)
}

// placeHere chooses and takes for one who has waited so long. The caller holds
// the view. Without why it does not say why it refuses.
func (s *Server) placeHere(need api.Need, now time.Time, waited time.Duration, why bool) (place.Choice, *pending, *refused) {
	v := &s.view
	q, op, w := s.asked(need, now, waited)
	if v.fleet == nil {
		v.follow(v.root)
	}
	var lines []api.ExplainedCandidate
	keep := why && v.kept.mayKeep(now)
	if keep {
		lines = v.fleet.Explain(q, op, w, maxExplained)
	}
	choice, ok := v.fleet.Place(q, op, w)
	if !ok && !why {
		return choice, nil, nil
	}
	if !ok {
		if lines == nil {
			lines = v.fleet.Explain(q, op, w, maxExplained)
		}
		return choice, nil, &refused{place.Refusals(lines, need), explained(need, now, waited, v.fleet.Len(), lines)}
	}
	if !why && v.kept.mayKeep(now) {
		keep, lines = true, v.fleet.Explain(q, op, w, maxExplained)
	}
	total := api.Session{Parts: choice.Parts, MoreViewers: need.MoreViewers}
	p := &pending{node: choice.Node, pool: choice.Pool, cost: choice.Cost, take: total.Takes()}
	if keep {
		p.why = explained(need, now, waited, v.fleet.Len(), lines)
	}
	v.take(p)
	return choice, p, nil
}

// asked is what placement is asked. The caller holds the view.
func (s *Server) asked(need api.Need, now time.Time, waited time.Duration) (*place.Query, place.Operator, *watch) {
	v := &s.view
	return &place.Query{Need: need, Policy: need.Policy, Learned: v.lore.nodes(v.root, networksOf(need), now), Waited: waited},
		place.Operator{DefaultRegion: s.cfg.DefaultRegion, Trunk: s.cfg.Trunk}, &watch{s: s, now: now}
}

// refused is why nobody takes a session.
type refused struct {
	refusals []api.Refusal
	why      *api.Explanation
}

// explained is the record of a placement, which can be made again from it.
func explained(need api.Need, now time.Time, waited time.Duration, nodes int, lines []api.ExplainedCandidate) *api.Explanation {
	return &api.Explanation{
		At: now.UTC(), Policy: need.Policy, WaitedS: waited.Seconds(), Nodes: nodes, Candidates: lines,
		Request: api.PlacementAsk{App: need.App, Region: need.Region, Screen: need.Screen, Codecs: need.Codecs,
			Client: need.Client, Network: geo.NetworkOf(need.Network), ASN: need.ASN, Probes: need.Probes, Encoder: need.Encoder, Parts: need.Parts, Counted: need.Counted},
	}
}

// watch shows placement the leases and the live measurements of one moment.
type watch struct {
	s   *Server
	now time.Time
}

// Alive says whether the node's lease holds.
func (w *watch) Alive(n *state.Node) bool { return w.s.leases.alive(n, w.now, w.s.cfg.Lease) }

// Headroom gives the node's latest measurement.
func (w *watch) Headroom(n *state.Node) (api.Headroom, bool) { return w.s.headroom(n) }
