package place

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// Pending is what placements under way take of a pool before the ledger shows it.
type Pending struct {
	Reserved uint64 // macroblocks per second
	Sessions int
}

// Candidate is a node with all that decides about it.
type Candidate struct {
	Node    *state.Node
	Pending map[api.Pool]Pending
	Live    *api.Headroom // its latest measurement; nil when there is none
	Alive   bool          // its lease holds
}

// Policy is what the operator decides.
type Policy struct {
	// DefaultRegion is tried first for clients whose location is unknown.
	DefaultRegion string
}

// Choice is where a session goes and what it takes there.
type Choice struct {
	Node      api.NodeID
	Region    string
	Pool      api.Pool
	Codec     api.Codec
	Cost      uint64 // macroblocks per second
	Placement api.Placement
}

// Line is what became of one candidate: a rank from 1 with its choice, or rank 0
// with the refusal.
type Line struct {
	Rank       int
	Candidate  Candidate
	DistanceKM float64 // negative when unknown
	FreeShare  float64 // of the chosen pool, beside this session, 0 to 1
	Choice     Choice
	Refusal    api.Refusal
}

const (
	// bandKM: nodes whose distance differs by less are equally near (0.1 ms of
	// fibre); the emptier one wins.
	bandKM = 10
	// fullMemory is the used share in percent from which a node takes nothing more.
	fullMemory = 97
)

// Place gives the best node, or every candidate's refusal, nearest first, when
// there is none. It is Explain's first line, found in one pass.
func Place(need api.Need, candidates []Candidate, p Policy) (Choice, []api.Refusal) {
	if len(candidates) == 0 {
		return Choice{}, []api.Refusal{{Code: api.RefusedNoNodes, Region: need.Region, Detail: "no node has joined: start perigee-edge"}}
	}
	client := geo.VectorOf(need.Client)
	distances := make([]float64, len(candidates))
	var best Line
	found := false
	for i := range candidates {
		distances[i] = client.KM(geo.VectorOf(candidates[i].Node.Location))
		l := weigh(need, &candidates[i], distances[i])
		if l.Refusal.Code == "" && (!found || compare(&l, &best, p) < 0) {
			best, found = l, true
		}
	}
	if found {
		best.Choice.Placement = placementOf(&best, distances, need.Client)
		return best.Choice, nil
	}
	lines := Explain(need, candidates, p)
	refusals := make([]api.Refusal, len(lines))
	for i := range lines {
		refusals[i] = lines[i].Refusal
	}
	return Choice{}, refusals
}

// Explain gives every candidate's line: those that can take the session best
// first, then the refused ones, nearest first.
func Explain(need api.Need, candidates []Candidate, p Policy) []Line {
	client := geo.VectorOf(need.Client)
	lines := make([]Line, len(candidates))
	distances := make([]float64, len(candidates))
	for i := range candidates {
		distances[i] = client.KM(geo.VectorOf(candidates[i].Node.Location))
		lines[i] = weigh(need, &candidates[i], distances[i])
	}
	slices.SortFunc(lines, func(a, b Line) int { return compare(&a, &b, p) })
	for i := range lines {
		if l := &lines[i]; l.Refusal.Code == "" {
			l.Rank = i + 1
			l.Choice.Placement = placementOf(l, distances, need.Client)
		}
	}
	return lines
}

// weigh filters and scores one candidate.
func weigh(need api.Need, c *Candidate, km float64) Line {
	l := Line{Candidate: *c, DistanceKM: km}
	if l.Refusal = filter(need, c); l.Refusal.Code == "" {
		l.Choice, l.FreeShare, l.Refusal = fit(need, c)
	}
	return l
}

// placementOf says why a line was chosen; its rank counts the nodes of any kind
// that are nearer.
func placementOf(l *Line, distances []float64, client api.Location) api.Placement {
	p := api.Placement{Rank: 1, DistanceKM: l.DistanceKM, EstimateMS: -1, Source: "unknown"}
	if l.DistanceKM < 0 {
		p.DistanceKM = -1
		return p
	}
	for _, km := range distances {
		if km >= 0 && band(km) < band(l.DistanceKM) {
			p.Rank++
		}
	}
	p.Source = "distance"
	p.EstimateMS, p.ErrorMS = geo.Estimate(l.DistanceKM, client.RadiusKM+l.Candidate.Node.Location.RadiusKM)
	return p
}

func band(km float64) int { return int(km / bandKM) }

// compare orders eligible before refused, near before far, unknown distance
// last, the default region before others, the emptier before the fuller.
func compare(a, b *Line, p Policy) int {
	return cmp.Or(
		yes(a.Refusal.Code == "", b.Refusal.Code == ""),
		yes(a.DistanceKM >= 0, b.DistanceKM >= 0),
		cmp.Compare(band(a.DistanceKM), band(b.DistanceKM)),
		yes(a.Candidate.Node.Region == p.DefaultRegion, b.Candidate.Node.Region == p.DefaultRegion),
		cmp.Compare(b.FreeShare, a.FreeShare),
		cmp.Compare(a.Candidate.Node.ID, b.Candidate.Node.ID),
	)
}

// yes orders true before false.
func yes(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	default:
		return 1
	}
}

// filter refuses a node whatever is free on it.
func filter(need api.Need, c *Candidate) api.Refusal {
	n := c.Node
	refuse := func(code api.RefusalCode, detail string) api.Refusal {
		return api.Refusal{Node: n.ID, Region: n.Region, Code: code, Detail: detail}
	}
	switch {
	case need.Region != "" && need.Region != n.Region:
		return refuse(api.RefusedRegion, "it is in region "+n.Region+", "+need.Region+" was asked for")
	case n.Lost || !c.Alive:
		return refuse(api.RefusedLost, "it was not heard within its lease")
	case n.Drain:
		return refuse(api.RefusedDrain, "it takes no new sessions")
	case c.Live != nil && c.Live.Memory >= fullMemory:
		return refuse(api.RefusedHeadroom, fmt.Sprintf("%d %% of its memory is used", c.Live.Memory))
	}
	return api.Refusal{}
}

// fit finds the first codec, in the client's order, that a pool has room for;
// hardware before software. The refusal is of the most wanted codec that a pool
// encodes at all.
func fit(need api.Need, c *Candidate) (Choice, float64, api.Refusal) {
	var closest api.Refusal
	for _, codec := range need.Codecs {
		for _, pool := range [...]api.Pool{api.PoolNVENC, api.PoolVAAPI, api.PoolCPU} {
			capacity, ok := c.Node.Capacity(pool)
			if !ok || !slices.Contains(capacity.Codecs, codec) {
				continue
			}
			cost := api.Cost(pool, codec, need.Screen)
			taken := c.Pending[pool]
			if r, ok := c.Node.Fits(pool, codec, cost, taken.Reserved, taken.Sessions); !ok {
				if closest.Code == "" {
					closest = r
				}
				continue
			}
			used, _ := c.Node.Reserved(pool)
			free := capacity.Macroblocks - used - taken.Reserved
			if live, busy := foreignLoad(c.Live, pool, cost, free); busy {
				closest = api.Refusal{Node: c.Node.ID, Region: c.Node.Region, Code: api.RefusedHeadroom,
					Detail: fmt.Sprintf("pool %s measures %d macroblocks/s free where %d are not reserved: something else uses the node", pool, live, free)}
				continue
			}
			share := float64(free-cost) / float64(capacity.Macroblocks)
			return Choice{Node: c.Node.ID, Region: c.Node.Region, Pool: pool, Codec: codec, Cost: cost}, share, api.Refusal{}
		}
	}
	if closest.Code == "" {
		closest = api.Refusal{Node: c.Node.ID, Region: c.Node.Region, Code: api.RefusedCodec,
			Detail: fmt.Sprintf("none of its pools encodes %v", need.Codecs)}
	}
	return Choice{}, 0, closest
}

// foreignLoad says whether a node measures clearly less room than the ledger
// thinks: not enough for the session, and under half of what is not reserved.
// Anything less clear is left to the ledger.
func foreignLoad(h *api.Headroom, p api.Pool, cost, free uint64) (uint64, bool) {
	if h == nil {
		return 0, false
	}
	for _, m := range h.Pools {
		if m.Pool == p {
			return m.Free, m.Free < cost && m.Free < free/2
		}
	}
	return 0, false
}
