package scheduler

import (
	"sync"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/place"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

type pendingPool = place.Pending

// pending is what one placement took before the ledger shows it.
type pending struct {
	node api.NodeID
	pool api.Pool
	cost uint64
}

// view is what placement sees: a root and, beside it, what placements that the
// root does not show yet have taken. Both change together.
type view struct {
	mu      sync.Mutex
	root    *state.State
	pending map[api.NodeID]map[api.Pool]pendingPool
}

func (v *view) get() *state.State {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.root
}

func (v *view) set(root *state.State) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.root = root
}

// settle takes in a root that shows a batch, and forgets what the batch had pending.
func (v *view) settle(root *state.State, batch []*proposal) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.root = root
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

// place chooses a node and takes what the session needs there, so that the next
// placement sees it.
func (s *Server) place(need api.Need) (place.Choice, *pending, []api.Refusal) {
	v := &s.view
	v.mu.Lock()
	defer v.mu.Unlock()
	var candidates []place.Candidate
	for n := range v.root.Nodes() {
		c := place.Candidate{Node: n, Pending: v.pending[n.ID], Alive: s.leases.alive(n, s.cfg.Clock(), s.cfg.Lease)}
		if h, ok := s.headroom(n); ok {
			c.Live = &h
		}
		candidates = append(candidates, c)
	}
	choice, refusals := place.Place(need, candidates, place.Policy{DefaultRegion: s.cfg.DefaultRegion})
	if len(refusals) > 0 {
		return choice, nil, refusals
	}
	p := &pending{node: choice.Node, pool: choice.Pool, cost: choice.Cost}
	if v.pending[p.node] == nil {
		v.pending[p.node] = map[api.Pool]pendingPool{}
	}
	have := v.pending[p.node][p.pool]
	have.Reserved += p.cost
	have.Sessions++
	v.pending[p.node][p.pool] = have
	return choice, p, nil
}
