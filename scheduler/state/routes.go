package state

import (
	"cmp"
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// Bounds of the atlas.
const (
	maxNetworks = 100_000
	// MaxRoutes is how many nodes one network keeps.
	MaxRoutes = 16
	// leaveShare of the networks, those that were silent longest, leave together
	// when there are too many: a look at all of them takes some milliseconds.
	leaveShare = 16
)

// Route is what is learned of the way from a network to a node. The leader
// works it out; the state only keeps it, so that no arithmetic has to come out
// the same on all replicas.
type Route struct {
	Network string // a prefix, or an autonomous system
	Node    api.NodeID
	// Tenths is the round trip and Spread its standard deviation, in 0.1 ms: one
	// frame of fibre is finer than any access line.
	Tenths, Spread uint64
	Weight         uint64 // decayed count in tenths, as of At
	Samples        uint64
	At             int64 // Unix minutes
}

// Routes records a batch of what was learned.
type Routes struct{ Routes []Route }

func (*Routes) kind() kind { return kindRoutes }

func (m *Routes) fields(c *coder) { list(c, &m.Routes, routeFields) }

func routeFields(c *coder, r *Route) {
	str(c, &r.Network)
	str(c, &r.Node)
	for _, v := range []*uint64{&r.Tenths, &r.Spread, &r.Weight, &r.Samples} {
		c.uint(v)
	}
	c.int(&r.At)
}

// network is what is known of one; it is never changed in place.
type network struct{ routes []Route }

func (n *network) at() int64 {
	var last int64
	for i := range n.routes {
		last = max(last, n.routes[i].At)
	}
	return last
}

func (m *Routes) apply(t *tx) Result {
	for _, r := range m.Routes {
		if r.Network == "" || r.Node == "" {
			continue
		}
		n, known := t.networks.Get(r.Network)
		if !known {
			if t.networks.Len() >= maxNetworks {
				t.dropNetworks()
			}
			n = &network{}
		}
		t.networks = t.networks.Set(r.Network, n.with(r))
	}
	return Result{}
}

// with gives the network with one more route. Of too many, the oldest leaves.
func (n *network) with(r Route) *network {
	next := network{routes: slices.Clone(n.routes)}
	if i := slices.IndexFunc(next.routes, func(o Route) bool { return o.Node == r.Node }); i >= 0 {
		next.routes[i] = r
		return &next
	}
	if len(next.routes) < MaxRoutes {
		next.routes = append(next.routes, r)
		return &next
	}
	old := 0
	for i := range next.routes {
		if next.routes[i].At < next.routes[old].At {
			old = i
		}
	}
	next.routes[old] = r
	return &next
}

// dropNetworks lets a share of the networks leave: the ones silent longest.
func (t *tx) dropNetworks() {
	type silent struct {
		key string
		at  int64
	}
	all := make([]silent, 0, t.networks.Len())
	for key, n := range t.networks.All() {
		all = append(all, silent{key, n.at()})
	}
	slices.SortFunc(all, func(a, b silent) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.key, b.key)) })
	for _, s := range all[:max(len(all)/leaveShare, 1)] {
		t.networks = t.networks.Delete(s.key)
	}
}

// Routes gives what is learned of a network; not to be changed.
func (s *State) Routes(name string) []Route {
	n, ok := s.networks.Get(name)
	if !ok {
		return nil
	}
	return n.routes
}

// NetworkCount is how many networks something is learned of.
func (s *State) NetworkCount() int { return s.networks.Len() }

// Time is when the route was last heard of.
func (r Route) Time() time.Time { return time.Unix(r.At*60, 0).UTC() }
