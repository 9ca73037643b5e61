package place

import (
	"cmp"
	"slices"

	"github.com/perigee-cloud/perigee/api"
)

// Near is how near a node is to a client, with what the policy adds.
type Near struct {
	Node      api.NodeID
	ScoreMS   float64
	Placement api.Placement
}

// Nearest ranks some nodes for a session by the estimates and rules of Place, the
// best first, whatever room they have: what the session needs is there already.
// Those that the rules refuse are left out.
func (f *Fleet) Nearest(q *Query, o Operator, w Watch, nodes []api.NodeID) []Near {
	f.ready()
	var s search
	s.begin(f, q, o, w)
	out := make([]Near, 0, len(nodes))
	for _, id := range nodes {
		i, ok := f.byID[id]
		if !ok {
			continue
		}
		h := &f.hosts[i]
		c := candidate{host: i}
		s.score(h, i, s.km(i), &c)
		if s.refuses(h) != "" || s.tooFar(&c) || h.node != nil && !w.Alive(h.node) {
			continue
		}
		p := api.Placement{Rank: s.rank(&c), DistanceKM: c.km, EstimateMS: c.estimate.ms, ErrorMS: c.estimate.err, Source: c.estimate.source.String()}
		if p.Rank > 1 {
			p.ExtraMS = s.extra(&c)
		}
		out = append(out, Near{Node: id, ScoreMS: c.score, Placement: p})
	}
	slices.SortStableFunc(out, func(a, b Near) int { return cmp.Compare(a.ScoreMS, b.ScoreMS) })
	return out
}
