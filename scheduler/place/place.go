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

// Place gives the best node, or every candidate's refusal when there is none.
func Place(need api.Need, candidates []Candidate, p Policy) (Choice, []api.Refusal) {
	lines := Explain(need, candidates, p)
	if len(lines) == 0 {
		return Choice{}, []api.Refusal{{Code: api.RefusedNoNodes, Region: need.Region, Detail: "no node has joined: start perigee-edge"}}
	}
	if lines[0].Rank == 1 {
		return lines[0].Choice, nil
	}
	refusals := make([]api.Refusal, len(lines))
	for i, l := range lines {
		refusals[i] = l.Refusal
	}
	return Choice{}, refusals
}

// Explain gives every candidate's line: those that can take the session best
// first, then the refused ones, nearest first.
func Explain(need api.Need, candidates []Candidate, p Policy) []Line {
	lines := make([]Line, 0, len(candidates))
	client := geo.VectorOf(need.Client)
	for _, c := range candidates {
		l := Line{Candidate: c, DistanceKM: client.KM(geo.VectorOf(c.Node.Location))}
		if l.Refusal = filter(need, c); l.Refusal.Code == "" {
			l.Choice, l.FreeShare, l.Refusal = fit(need, c)
		}
		lines = append(lines, l)
	}
	slices.SortFunc(lines, func(a, b Line) int { return compare(a, b, p) })
	nearer := 0 // candidates of any kind that are nearer than the line's
	for i := range lines {
		l := &lines[i]
		if l.Refusal.Code != "" {
			continue
		}
		l.Rank = i + 1
		nearer = 0
		for _, o := range lines {
			if l.DistanceKM >= 0 && o.DistanceKM >= 0 && o.DistanceKM < l.DistanceKM && band(o) != band(*l) {
				nearer++
			}
		}
		l.Choice.Placement = placementOf(*l, nearer+1, need.Client)
		if l.Rank >= explained {
			break
		}
	}
	return lines
}

// explained bounds how many lines get their full placement worked out; only the
// first is used, the others are for the reader.
const explained = 16

func placementOf(l Line, rank int, client api.Location) api.Placement {
	if l.DistanceKM < 0 {
		return api.Placement{Rank: rank, DistanceKM: -1, EstimateMS: -1, Source: "unknown"}
	}
	p := api.Placement{Rank: rank, DistanceKM: l.DistanceKM, Source: "distance"}
	p.EstimateMS, p.ErrorMS = geo.Estimate(l.DistanceKM, client.RadiusKM+l.Candidate.Node.Location.RadiusKM)
	return p
}

func band(l Line) int { return int(l.DistanceKM / bandKM) }

// compare orders eligible before refused, near before far, unknown distance
// last, the default region before others, the emptier before the fuller.
func compare(a, b Line, p Policy) int {
	return cmp.Or(
		yes(b.Refusal.Code == "", a.Refusal.Code == ""),
		yes(b.DistanceKM >= 0, a.DistanceKM >= 0),
		cmp.Compare(band(a), band(b)),
		yes(b.Candidate.Node.Region == p.DefaultRegion, a.Candidate.Node.Region == p.DefaultRegion),
		cmp.Compare(b.FreeShare, a.FreeShare),
		cmp.Compare(a.Candidate.Node.ID, b.Candidate.Node.ID),
	)
}

// yes orders true after false.
func yes(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

// filter refuses a node whatever is free on it.
func filter(need api.Need, c Candidate) api.Refusal {
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
// hardware before software. The refusal is the one that came closest.
func fit(need api.Need, c Candidate) (Choice, float64, api.Refusal) {
	closest := api.Refusal{Node: c.Node.ID, Region: c.Node.Region, Code: api.RefusedCodec, Detail: fmt.Sprintf("none of its pools encodes %v", need.Codecs)}
	for _, codec := range need.Codecs {
		for _, pool := range [...]api.Pool{api.PoolNVENC, api.PoolVAAPI, api.PoolCPU} {
			cost := api.Cost(pool, codec, need.Screen)
			taken := c.Pending[pool]
			if r, ok := c.Node.Fits(pool, codec, cost, taken.Reserved, taken.Sessions); !ok {
				if r.Code != api.RefusedCodec {
					closest = r
				}
				continue
			}
			capacity, _ := c.Node.Capacity(pool)
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
