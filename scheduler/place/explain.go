package place

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/perigee-cloud/perigee/api"
)

// Explain gives the candidates near enough to matter, at most limit: the chosen
// one first, then those that could take the session as they were ranked, then
// the refused ones, nearest first, each with its reason.
func (f *Fleet) Explain(q *Query, o Operator, w Watch, limit int) []api.ExplainedCandidate {
	f.ready()
	var s search
	s.begin(f, q, o, w)
	chosen := int32(-1)
	for _, st := range ladder(nil, q.Need.Screen.FPS, q.Policy) {
		s.price(st)
		if best := s.run(); best != nil {
			chosen = best.host
			break
		}
	}
	near := s.near(limit)
	able, refused := make([]candidate, 0, len(near)), make([]turned, 0, len(near))
	for _, i := range near {
		c := candidate{host: i}
		if refusal := s.judge(i, &c); refusal != nil {
			refused = append(refused, turned{c, refusal})
		} else {
			able = append(able, c)
		}
	}
	// Among nodes of unknown place the search looks at the roomiest alone: another
	// one that is as good may be listed, but was not chosen.
	slices.SortFunc(able, func(a, b candidate) int {
		return cmp.Or(yes(a.host == chosen, b.host == chosen), yes(s.before(&a, &b), s.before(&b, &a)))
	})
	slices.SortFunc(refused, func(a, b turned) int {
		return cmp.Or(
			yes(a.estimate.ms >= 0, b.estimate.ms >= 0),
			cmp.Compare(a.estimate.ms, b.estimate.ms),
			cmp.Compare(f.hosts[a.host].id, f.hosts[b.host].id),
		)
	})
	// The refused near ones say as much as the farther ones that were not needed.
	if over := len(able) + len(refused) - limit; over > 0 {
		cut := min(over, max(len(able)-limit/2, 0))
		able, over = able[:len(able)-cut], over-cut
		refused = refused[:len(refused)-over]
	}
	lines := make([]api.ExplainedCandidate, 0, len(able)+len(refused))
	for i := range able {
		lines = append(lines, s.line(&able[i], nil))
		lines[i].Rank = i + 1
	}
	for i := range refused {
		lines = append(lines, s.line(&refused[i].candidate, refused[i].refusal))
	}
	return lines
}

// turned is a candidate that is refused.
type turned struct {
	candidate
	refusal *api.Refusal
}

// Refusals gives the reasons of an explanation in which nobody was chosen.
func Refusals(lines []api.ExplainedCandidate, need api.Need) []api.Refusal {
	if len(lines) == 0 {
		return []api.Refusal{{Code: api.RefusedNoNodes, Region: need.Region, Detail: "no node has joined: start perigee-edge"}}
	}
	out := make([]api.Refusal, 0, len(lines))
	for i := range lines {
		if r := lines[i].Refusal; r != nil {
			out = append(out, *r)
		}
	}
	return out
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

// near gives the hosts that an explanation shows: those with a measured round
// trip, those that were compared, and the nearest.
func (s *search) near(limit int) []int32 {
	f := s.f
	seen := make(map[int32]bool, 2*limit)
	out := make([]int32, 0, 2*limit)
	add := func(i int32) bool {
		if !f.hosts[i].flags.gone && !seen[i] {
			seen[i] = true
			out = append(out, i)
		}
		return len(out) < 2*limit
	}
	for k := range s.known[:s.measure] {
		add(s.known[k].host)
	}
	for k := range s.group[:s.n] {
		add(s.group[k].host)
	}
	if s.client.Known() {
		type far struct {
			i  int32
			km float64
		}
		var fresh []far
		for i := f.indexed; i < len(f.hosts); i++ {
			if km := s.km(int32(i)); km >= 0 {
				fresh = append(fresh, far{int32(i), km})
			}
		}
		f.room.Nearest(s.client, 0, 0, func(i int, km float64) float64 {
			if !f.hosts[i].flags.gone {
				fresh = append(fresh, far{int32(i), km})
			}
			if len(fresh) >= 2*limit {
				return -1
			}
			return math.Inf(1)
		})
		slices.SortFunc(fresh, func(a, b far) int { return cmp.Compare(a.km, b.km) })
		for _, x := range fresh {
			add(x.i)
		}
	}
	for i := range f.hosts {
		if !add(int32(i)) {
			break
		}
	}
	return out
}

// judge scores one host, or says why it is refused.
func (s *search) judge(i int32, c *candidate) *api.Refusal {
	h := &s.f.hosts[i]
	s.score(h, i, s.km(i), c)
	if code := s.refuses(h); code != "" {
		return h.refusal(code, s.detail(h, code))
	}
	if h.node != nil {
		if !s.watch.Alive(h.node) {
			return h.refusal(api.RefusedLost, "it was not heard within its lease")
		}
		if live, ok := s.watch.Headroom(h.node); ok && live.Memory >= fullMemory {
			return h.refusal(api.RefusedHeadroom, fmt.Sprintf("%d %% of its memory is used", live.Memory))
		}
	}
	if s.tooFar(c) {
		return h.refusal(api.RefusedLatency, fmt.Sprintf("its round trip of %.0f ms (%s) is above the policy's ceiling of %.0f ms", c.estimate.ms, c.estimate.source, s.ceiling))
	}
	if s.fit(h, c) {
		return nil
	}
	return s.unfit(h)
}

func (h *host) refusal(code api.RefusalCode, detail string) *api.Refusal {
	return &api.Refusal{Node: h.id, Region: h.region, Code: code, Detail: detail}
}

func (s *search) detail(h *host, code api.RefusalCode) string {
	switch code {
	case api.RefusedLost:
		return "it was not heard within its lease"
	case api.RefusedDrain:
		return "it takes no new sessions"
	case api.RefusedKept:
		return "its room is kept for one that has waited long"
	case api.RefusedRegion:
		if s.need.Region != "" && s.need.Region != h.region {
			return "it is in region " + h.region + ", " + s.need.Region + " was asked for"
		}
		if slices.Contains(s.policy.Regions.Forbidden, h.region) {
			return "the policy forbids region " + h.region
		}
		return "it is in region " + h.region + ", the policy requires " + strings.Join(s.policy.Regions.Required, " or ")
	default:
		for _, l := range s.policy.Labels.Required {
			if l == api.LabelContainers && !h.bears(l) {
				return "it runs no containers: it has no containerd"
			}
			if !h.bears(l) {
				return "it does not bear the label " + l + ", which the policy requires"
			}
		}
		for _, l := range s.policy.Labels.Forbidden {
			if h.bears(l) {
				return "it bears the label " + l + ", which the policy forbids"
			}
		}
		return "its labels"
	}
}

// unfit says which part of a host binds: of the most wanted codec that one of
// its pools encodes at all, or what it measures.
func (s *search) unfit(h *host) *api.Refusal {
	if r := s.unaside(h); r != nil {
		return r
	}
	var live api.Headroom
	if h.node != nil {
		live, _ = s.watch.Headroom(h.node)
	}
	tried := s.step.pools
	if tried == software {
		tried = allPools // hardware was, at the steps before
	}
	var first *api.Refusal
	// What passes says more than what never will.
	say := func(code api.RefusalCode, format string, args ...any) {
		passes := func(c api.RefusalCode) bool { return c != api.RefusedSize && c != api.RefusedCodec }
		if first == nil || passes(code) && !passes(first.Code) {
			first = h.refusal(code, fmt.Sprintf(format, args...))
		}
	}
	for _, codec := range s.wanted[:s.codecs] {
		for k := range h.pools {
			p := &h.pools[k]
			if p.codecs&(1<<codec) == 0 || tried&(1<<k) == 0 || s.costs[k][codec] == 0 { // no room is too little for an encoder that may not be used
				continue
			}
			cost := s.cost(k, codec, p)
			if cost == 0 {
				cost = s.costBy(api.PresetDefault, k, codec, p) // it does not offer the preset
			}
			taken, running := p.used+p.held, p.running+p.soon
			switch free := p.capacity - min(taken, p.capacity); {
			case cost+s.trunk(p) > p.capacity:
				say(api.RefusedSize, "pool %s carries %d macroblocks/s in all, %d are needed", poolOrder[k], p.capacity-s.trunk(p), cost)
			case p.limit > 0 && running >= p.limit:
				say(api.RefusedSessions, "pool %s runs %d of %d encoder sessions", poolOrder[k], running, p.limit)
			case free < cost:
				say(api.RefusedEncoder, "pool %s has %d of %d macroblocks/s free, %d are needed", poolOrder[k], free, p.capacity, cost)
			case !s.room(p, cost):
				say(api.RefusedEncoder, "pool %s has %d of %d macroblocks/s free, %d of them kept for joins, %d are needed", poolOrder[k], free, p.capacity, s.trunk(p), cost)
			default:
				m, _ := foreignLoad(&live, poolOrder[k], p, cost)
				why := "something else uses the node"
				if live.Binding != "" {
					why += fmt.Sprintf(" (its %s is %d %% used)", live.Binding, live.Saturation)
				}
				return h.refusal(api.RefusedHeadroom, fmt.Sprintf("pool %s measures %d macroblocks/s free where %d are not reserved: %s", poolOrder[k], m, free, why))
			}
		}
	}
	if first == nil && s.need.Encoder != "" {
		first = h.refusal(api.RefusedEncoder, fmt.Sprintf("none of its pools encodes %v with an encoder of kind %s", s.need.Codecs, s.need.Encoder))
	}
	if first == nil {
		which := "pools"
		if tried == hardware {
			which = "pools of hardware"
		}
		first = h.refusal(api.RefusedCodec, fmt.Sprintf("none of its %s encodes %v", which, s.need.Codecs))
	}
	return first
}

// line shows a candidate.
func (s *search) line(c *candidate, refusal *api.Refusal) api.ExplainedCandidate {
	h := &s.f.hosts[c.host]
	l := api.ExplainedCandidate{
		Node: h.id, Region: h.region, Labels: maps.Clone(h.labels), Location: h.place,
		DistanceKM: c.km, EstimateMS: c.estimate.ms, ErrorMS: c.estimate.err, Source: c.estimate.source.String(), Samples: int(c.estimate.samples),
		ScoreMS: c.score, Refusal: refusal,
	}
	if l.EstimateMS < 0 {
		l.ScoreMS = -1
	}
	for k := range h.pools {
		if p := &h.pools[k]; p.there {
			l.Pools = append(l.Pools, p.record(poolOrder[k]))
		}
	}
	l.Parts = h.record()
	if refusal == nil {
		l.Takes = s.parts
		l.Takes.GPU = int(c.gpu)
		l.Pool, l.Codec, l.FPS, l.Cost, l.FreeShare = poolOrder[c.pool], codecOrder[c.codec], s.step.fps, c.cost, c.share
		l.Step, l.Preset = s.step.name, s.step.preset
	}
	return l
}

func (p *pool) record(name api.Pool) api.PoolRecord {
	r := api.PoolRecord{Reserved: p.used + p.held, Running: p.running + p.soon}
	r.Pool, r.Macroblocks, r.Sessions = name, p.capacity, p.limit
	if n := bits.OnesCount8(p.codecs); n > 0 {
		r.Codecs = make([]api.Codec, 0, n)
	}
	for i, c := range codecOrder {
		if p.codecs&(1<<i) != 0 {
			r.Codecs = append(r.Codecs, c)
		}
	}
	if p.factors != nil {
		for preset, list := range p.factors {
			for i, v := range list {
				if v > 0 {
					r.Factors = append(r.Factors, api.CostFactor{Codec: codecOrder[i], Preset: []api.Preset{api.PresetDefault, api.PresetFast}[preset], Thousandths: v})
				}
			}
		}
	}
	return r
}
