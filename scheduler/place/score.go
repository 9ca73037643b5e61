package place

import (
	"math"
	"slices"
	"strings"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
)

// source says where an estimate comes from, the best first.
type source uint8

const (
	fromProbe    source = iota
	fromSilence         // a probe that nothing answered: at least that
	fromAtlas           // learned from earlier sessions of the client's network
	fromASN             // learned from those of its autonomous system there
	fromDistance        // the great circle
	fromNothing
)

func (s source) String() string {
	return [...]string{"probe", "silent", "atlas", "asn", "distance", "unknown"}[s]
}

// estimate is a round trip with its error, in ms; negative when unknown.
type estimate struct {
	ms, err float64
	source  source
	samples int32
}

// probeErrorMS is how far off one round trip of a probe may be: jitter of the
// access line.
const probeErrorMS = 2

const (
	// lineMost bounds in ms what is taken for the access line while few nodes are
	// measured: the rest may be a detour to just these, and another node is worth
	// a try.
	lineMost = 15
	// lineSure is how many nodes tell the access line from detours.
	lineSure = 3
)

// learn takes in what is measured: the client's probes, then the atlas. How much
// longer they all are than the distance says is the client's access line, which
// estimates by distance alone leave out.
func (s *search) learn(q *Query) {
	for _, p := range q.Need.Probes {
		k := known{ms: p.RoundTripMS, err: probeErrorMS}
		if p.Silent {
			k = known{source: fromSilence, ms: max(p.RoundTripMS, api.SilentMS)}
		}
		s.know(p.Node, k)
	}
	n := s.accessLine(fromProbe)
	for _, l := range q.Learned {
		from := fromAtlas
		if l.Shared {
			from = fromASN
		}
		s.know(l.Node, known{source: from, samples: int32(min(l.Samples, 1<<20)), ms: l.MS, err: l.ErrorMS})
	}
	if n == 0 {
		n = s.accessLine(fromAtlas)
	}
	if n == 0 {
		s.accessLine(fromASN)
	}
}

// accessLine estimates the access line by the nodes that one source measured, and
// gives how many there are.
func (s *search) accessLine(from source) (n int) {
	least := math.Inf(1)
	for k := range s.known[:s.measure] {
		if s.known[k].source != from {
			continue
		}
		if km := s.km(s.known[k].host); km >= 0 {
			ms, _ := geo.Estimate(km, 0)
			least = min(least, s.known[k].ms-ms)
			n++
		}
	}
	switch {
	case n == 0:
		return 0
	case n < lineSure:
		least = min(least, lineMost)
	}
	s.offset = max(least, 0)
	return n
}

func (s *search) know(node api.NodeID, k known) {
	i, ok := s.f.byID[node]
	if !ok || s.measure == len(s.known) || s.measured(i) || !(k.ms >= 0) {
		return
	}
	k.host, k.site = i, s.f.hosts[i].site
	s.known[s.measure] = k
	s.measure++
}

func (s *search) measured(i int32) bool {
	for k := range s.known[:s.measure] {
		if s.known[k].host == i {
			return true
		}
	}
	return false
}

// estimateOf gives the best estimate there is for a host.
func (s *search) estimateOf(i int32, km float64) estimate {
	for k := range s.known[:s.measure] {
		if e := &s.known[k]; e.host == i {
			return estimate{ms: e.ms, err: e.err, source: e.source, samples: e.samples}
		}
	}
	if site := s.f.hosts[i].site; site != 0 {
		for k := range s.known[:s.measure] {
			if e := &s.known[k]; e.site == site {
				return estimate{ms: e.ms, err: e.err, source: e.source, samples: e.samples}
			}
		}
	}
	if km < 0 {
		return estimate{ms: -1, err: -1, source: fromNothing}
	}
	ms, err := geo.Estimate(km, s.need.Client.RadiusKM+s.f.hosts[i].place.RadiusKM)
	return estimate{ms: ms + s.offset, err: err, source: fromDistance}
}

// penalty is what a host that is not preferred must be nearer by, in ms.
func (s *search) penalty(h *host) float64 {
	p := s.policy
	if p == nil || len(p.Regions.Preferred) == 0 && len(p.Labels.Preferred) == 0 {
		return 0
	}
	if slices.Contains(p.Regions.Preferred, h.region) {
		return 0
	}
	for _, l := range p.Labels.Preferred {
		if h.bears(l) {
			return 0
		}
	}
	if p.PreferredWithinMS > 0 {
		return p.PreferredWithinMS
	}
	return api.DefaultPreferredMS
}

func (h *host) bears(label string) bool {
	k, v, _ := strings.Cut(label, "=")
	have, ok := h.labels[k]
	return ok && have == v
}

func labelMark(label string) uint64 {
	k, v, _ := strings.Cut(label, "=")
	return markOf(k, v)
}

// refuses says why a host is not taken whatever is free on it; "" when it may be.
func (s *search) refuses(h *host) api.RefusalCode {
	switch {
	case h.flags.gone || h.flags.lost:
		return api.RefusedLost
	case s.need.Region != "" && s.need.Region != h.region:
		return api.RefusedRegion
	case h.flags.drain:
		return api.RefusedDrain
	case h.flags.kept:
		return api.RefusedKept
	}
	p := s.policy
	if p == nil {
		return ""
	}
	if len(p.Regions.Required) > 0 && !slices.Contains(p.Regions.Required, h.region) || slices.Contains(p.Regions.Forbidden, h.region) {
		return api.RefusedRegion
	}
	for _, l := range p.Labels.Required {
		if !h.bears(l) {
			return api.RefusedLabel
		}
	}
	for _, l := range p.Labels.Forbidden {
		if h.bears(l) {
			return api.RefusedLabel
		}
	}
	return ""
}

// fit finds the first codec, in the client's order, that a pool has room for;
// hardware before software. What the node measures is asked for once room is found.
func (s *search) fit(h *host, c *candidate) bool {
	gpu, ok := s.aside(h)
	if !ok {
		return false
	}
	var live api.Headroom
	asked, measured := h.node == nil, false
	for _, codec := range s.wanted[:s.codecs] {
		for k := range h.pools {
			p := &h.pools[k]
			cost := s.cost(k, codec, p)
			if s.step.pools&(1<<k) == 0 || p.codecs&(1<<codec) == 0 || !s.room(p, cost) {
				continue
			}
			if !asked {
				if !s.watch.Alive(h.node) {
					return false
				}
				asked = true
				if live, measured = s.watch.Headroom(h.node); measured && live.Memory >= fullMemory {
					return false
				}
			}
			if _, busy := foreignLoad(&live, poolOrder[k], p, cost); measured && busy {
				continue
			}
			c.pool, c.codec, c.cost, c.gpu = uint8(k), codec, cost, int16(gpu)
			c.share = float64(p.free()-cost) / float64(p.capacity)
			return true
		}
	}
	return false
}

// cost is what the session takes of a pool at the present step; 0 when the node
// does not offer the preset.
func (s *search) cost(k int, codec uint8, p *pool) uint64 {
	return s.costBy(s.step.preset, k, codec, p)
}

func (s *search) costBy(preset api.Preset, k int, codec uint8, p *pool) uint64 {
	if s.costs[k][codec] == 0 {
		return 0 // an encoder that may not be used
	}
	if p.factors != nil {
		if f := p.factors[presetBit(preset)][codec]; f != 0 {
			screen := s.need.Screen
			screen.FPS = s.step.fps
			return api.Scaled(api.Macroblocks(screen.Width, screen.Height, screen.FPS), uint64(f))
		}
	}
	if preset != api.PresetDefault {
		return 0
	}
	return s.costs[k][codec]
}

// room says whether a pool may take a new session: the trunk share is left over.
func (s *search) room(p *pool, cost uint64) bool {
	return p.free() >= cost+s.trunk(p) && cost > 0
}

func (s *search) trunk(p *pool) uint64 { return uint64(s.op.Trunk * float64(p.capacity)) }

// foreignLoad says whether a node measures clearly less room than the ledger
// thinks: not enough for the session, and under half of what is not reserved.
// Anything less clear is left to the ledger, and so is a measurement with more
// sessions in it than the ledger has now: what has ended since is in it.
func foreignLoad(h *api.Headroom, name api.Pool, p *pool, cost uint64) (uint64, bool) {
	for _, m := range h.Pools {
		if m.Pool == name {
			return m.Free, m.Free < cost && m.Free < p.free()/2 && m.Sessions <= p.running+p.soon
		}
	}
	return 0, false
}

// choice is what the session gets.
func (s *search) choice(c *candidate) Choice {
	h := &s.f.hosts[c.host]
	rank, extra := s.rank(c), 0.0
	if rank > 1 {
		extra = s.extra(c)
	}
	parts := s.parts
	parts.GPU = int(c.gpu)
	return Choice{
		Parts: parts, Node: h.id, Region: h.region, Pool: poolOrder[c.pool], Codec: codecOrder[c.codec], FPS: s.step.fps, Preset: s.step.preset, Cost: c.cost,
		Placement: api.Placement{
			Rank: rank, Step: s.step.name, ExtraMS: extra, DistanceKM: c.km, EstimateMS: c.estimate.ms, ErrorMS: c.estimate.err, Source: c.estimate.source.String(),
		},
	}
}

// extra is how much longer the round trip is than to the best node there is,
// with room or not.
func (s *search) extra(c *candidate) float64 {
	if c.estimate.ms < 0 {
		return 0
	}
	best := c.estimate.ms
	for k := range s.known[:s.measure] {
		best = min(best, s.known[k].ms)
	}
	if s.client.Known() {
		least := math.Inf(1) // km
		s.f.index.Nearest(s.client, func(i int, km float64) bool {
			if s.f.hosts[i].flags.gone || s.measured(int32(i)) || s.shares(s.f.hosts[i].site, s.measure) {
				return true
			}
			least = km
			return false
		})
		for i := s.f.indexed; i < len(s.f.hosts); i++ {
			if km := s.km(int32(i)); km >= 0 && !s.f.hosts[i].flags.gone && !s.measured(int32(i)) {
				least = min(least, km)
			}
		}
		if !math.IsInf(least, 1) {
			ms, _ := geo.Estimate(least, 0)
			best = min(best, ms+s.offset)
		}
	}
	return c.estimate.ms - best
}

// rank counts the nodes that are clearly nearer, with room or not: 1 means that
// the client got the nearest there is.
func (s *search) rank(c *candidate) int {
	rank := 1
	if c.estimate.ms < 0 {
		return rank
	}
	below := c.estimate.ms - tieLeast
	for k := range s.known[:s.measure] {
		if e := &s.known[k]; e.ms < below {
			rank++
		}
	}
	reach := geo.Reach(below - s.offset)
	if reach < 0 || !s.client.Known() {
		return rank
	}
	nearer := func(v geo.Vector) int {
		if km := s.client.KM(v); km >= 0 && km <= reach {
			return 1
		}
		return 0
	}
	for i := s.f.indexed; i < len(s.f.hosts); i++ {
		if !s.f.hosts[i].flags.gone && !s.measured(int32(i)) {
			rank += nearer(s.f.vectors[i])
		}
	}
	rank += s.f.index.Count(s.client, reach)
	for _, v := range s.f.left {
		rank -= nearer(v)
	}
	for k := range s.known[:s.measure] {
		if i := s.known[k].host; int(i) < s.f.indexed {
			rank -= nearer(s.f.vectors[i])
		}
	}
	return rank
}
