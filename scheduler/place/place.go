package place

import (
	"math"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// Query is what a session asks, with what is known of its client.
type Query struct {
	Need    api.Need
	Learned []geo.Learned        // round trips from the client's network
	Policy  *api.PlacementPolicy // the application's; nil = the nearest node with room
	Waited  time.Duration        // since the client asked first
}

// Operator is what the operator decides for every application.
type Operator struct {
	// DefaultRegion is tried first for clients whose location is unknown.
	DefaultRegion string
	// Trunk is the share of each pool, 0 to 1, that new sessions leave to joins
	// and reconnects.
	Trunk float64
}

// Watch tells what the ledger does not know of a node.
type Watch interface {
	// Alive says whether the node's lease holds.
	Alive(n *state.Node) bool
	// Headroom gives its latest measurement.
	Headroom(n *state.Node) (api.Headroom, bool)
}

// Choice is where a session goes and what it takes there.
type Choice struct {
	Node      api.NodeID
	Region    string
	Pool      api.Pool
	Codec     api.Codec
	FPS       int // the wanted frame rate, or what the policy's ladder came down to
	Preset    api.Preset
	Cost      uint64    // macroblocks per second
	Parts     api.Parts // beside the pool
	Placement api.Placement
}

const (
	// tieLeast and tieMost bound in ms how much better an estimate must be to
	// decide; between them it is a quarter of its error. tieLeast is 10 km of
	// fibre as the Internet runs.
	tieLeast = 0.21
	tieMost  = 1.0
	// maxGroup bounds how many equally near nodes are compared by their room.
	maxGroup = 16
	// maxKnown bounds the nodes with a measured round trip.
	maxKnown = api.MaxProbes + 2*geo.MaxLearned
	// fullMemory is the used share in percent from which a node takes nothing more.
	fullMemory = 97
	// scoreUnknown is the score in ms of a node that nothing is known of: after all
	// others.
	scoreUnknown = 1e6
)

// Place gives the best node for a session, or false when there is none; Explain
// then says why. It allocates nothing per candidate.
func (f *Fleet) Place(q *Query, o Operator, w Watch) (Choice, bool) {
	f.ready()
	var s search
	s.begin(f, q, o, w)
	var room [maxSteps]step
	for _, st := range ladder(room[:0], q.Need.Screen.FPS, q.Policy) {
		s.price(st)
		if best := s.run(); best != nil {
			return s.choice(best), true
		}
	}
	return Choice{}, false
}

// search is one placement under way. It stands on the caller's stack.
type search struct {
	f       *Fleet
	need    *api.Need
	policy  *api.PlacementPolicy
	op      Operator
	watch   Watch
	client  geo.Vector
	known   [maxKnown]known
	measure int     // how many of known there are
	offset  float64 // ms of the client's access line, as its measurements show
	marks   uint64
	ceiling float64 // ms; 0 = none

	step    step
	parts   api.Parts // beside a pool, at the step
	amounts amounts   // of those
	still   uint64    // marks, without what the step wants
	costs   [len(poolOrder)][len(codecOrder)]uint64
	least   uint64
	wanted  [len(codecOrder)]uint8 // indexes into codecOrder, preferred first
	codecs  int

	group [maxGroup]candidate
	n     int
	best  float64 // least score in the group
	slack float64 // of that one
}

// known is a node with a measured round trip.
type known struct {
	host    int32
	site    uint64
	source  source
	samples int32
	ms, err float64
}

// candidate is a node that can take the session.
type candidate struct {
	host        int32
	pool, codec uint8
	gpu         int16 // number of a graphics processor; 0 = none is needed
	estimate    estimate
	km          float64
	score       float64 // ms: the estimate with what the policy adds
	share       float64 // free beside this session, 0 to 1
	cost        uint64
	home        bool // in the default region
}

func (s *search) begin(f *Fleet, q *Query, o Operator, w Watch) {
	s.f, s.need, s.policy, s.op, s.watch = f, &q.Need, q.Policy, o, w
	if q.Need.Trunk {
		s.op.Trunk = 0
	}
	s.client = geo.VectorOf(q.Need.Client)
	s.learn(q)
	if q.Need.Region != "" {
		s.marks |= markOf("region", q.Need.Region)
	}
	if p := q.Policy; p != nil {
		if len(p.Regions.Required) == 1 {
			s.marks |= markOf("region", p.Regions.Required[0])
		}
		for _, l := range p.Labels.Required {
			s.marks |= labelMark(l)
		}
		s.ceiling = ceilingOf(p, q.Waited)
	}
	s.still = s.marks
	for _, c := range q.Need.Codecs {
		for i, name := range codecOrder {
			if c == name && s.codecs < len(s.wanted) {
				s.wanted[s.codecs] = uint8(i)
				s.codecs++
			}
		}
	}
}

// ceilingOf is the highest round trip that the policy admits after a wait.
func ceilingOf(p *api.PlacementPolicy, waited time.Duration) float64 {
	c := p.MaxRoundTripMS + p.RelaxMSPerS*waited.Seconds()
	if p.RelaxToMS > 0 {
		c = min(c, p.RelaxToMS)
	}
	return c
}

// price works out what the session costs on each pool at a step of the ladder.
func (s *search) price(st step) {
	s.step, s.least, s.n = st, ^uint64(0), 0
	if s.marks = s.still; st.pools == hardware {
		s.marks |= hardwareMark()
	}
	s.want()
	screen := s.need.Screen
	screen.FPS = st.fps
	for p, name := range poolOrder {
		if !s.need.Encoder.Allows(name) {
			continue // a cost of 0 fits nowhere
		}
		for _, c := range s.wanted[:s.codecs] {
			cost := api.Cost(name, codecOrder[c], screen)
			s.costs[p][c] = cost
			s.least = min(s.least, cost)
		}
	}
	if s.f.cheapest < 1000 {
		s.least = min(s.least, api.Scaled(api.Macroblocks(screen.Width, screen.Height, screen.FPS), s.f.cheapest))
	}
}

// run finds the best node: first those with a measured round trip, then by
// distance until no farther one can be as good, at last those of unknown place.
func (s *search) run() *candidate {
	f := s.f
	for k := range s.known[:s.measure] {
		s.weigh(s.known[k].host, s.km(s.known[k].host))
	}
	for k := range s.known[:s.measure] {
		s.around(k)
	}
	if s.client.Known() {
		for i := f.indexed; i < len(f.hosts); i++ {
			if !s.measured(int32(i)) && f.vectors[i].Known() {
				s.weigh(int32(i), s.client.KM(f.vectors[i]))
			}
		}
		near := 0
		f.room.Nearest(s.client, max(s.least, 1), s.marks, func(i int, km float64) float64 {
			if !s.measured(int32(i)) && !s.shares(f.hosts[i].site, s.measure) && s.weigh(int32(i), km) {
				near++
			}
			if near >= maxGroup {
				return -1
			}
			return s.reach()
		})
	}
	if s.n == 0 { // nothing is known of how far the rest is
		s.anywhere()
	}
	return s.pick()
}

// around looks at the other nodes of a measured one's site, unless they are
// too far to win.
func (s *search) around(k int) {
	e := &s.known[k]
	if e.site == 0 || s.shares(e.site, k) || s.n > 0 && e.ms > s.best+s.slack {
		return
	}
	found := 0
	s.f.room.Nearest(s.f.vectors[e.host], max(s.least, 1), s.marks, func(i int, _ float64) float64 {
		if s.f.hosts[i].site == e.site && !s.measured(int32(i)) && s.weigh(int32(i), s.km(int32(i))) {
			found++
		}
		if found >= maxGroup {
			return -1
		}
		return siteKM
	})
}

// shares says whether one of the first n measured nodes is of the site.
func (s *search) shares(site uint64, n int) bool {
	if site == 0 {
		return false
	}
	for k := range s.known[:n] {
		if s.known[k].site == site {
			return true
		}
	}
	return false
}

// anywhere looks at the nodes whose distance is unknown, those with the most
// room first, the default region before the others: all nodes, when the client's
// place is unknown.
func (s *search) anywhere() {
	f := s.f
	look := func(i int32) bool {
		return (!s.client.Known() || !f.vectors[i].Known()) && !s.measured(i) &&
			(int(i) >= f.indexed || !s.shares(f.hosts[i].site, s.measure)) && s.weigh(i, -1)
	}
	from := f.indexed
	if p := s.policy; p != nil && (len(p.Regions.Preferred) > 0 || len(p.Labels.Preferred) > 0) {
		from = 0 // what is preferred need not have the most room: rare enough to look at all
	}
	for i := from; i < len(f.hosts); i++ {
		look(int32(i))
	}
	if from == 0 {
		return
	}
	for _, marks := range [...]uint64{s.marks | markOf("region", s.op.DefaultRegion), s.marks} {
		found := 0
		visit := func(i int) bool {
			if look(int32(i)) {
				found++
			}
			return found < maxGroup
		}
		f.adrift.Roomiest(max(s.least, 1), marks, visit)
		if !s.client.Known() {
			f.room.Roomiest(max(s.least, 1), marks, visit)
		}
		if found > 0 {
			return
		}
	}
}

// reach is how far away in km a node can still win.
func (s *search) reach() float64 {
	ms := math.Inf(1)
	if s.n > 0 {
		ms = s.best + s.slack
	}
	if s.ceiling > 0 {
		ms = min(ms, s.ceiling)
	}
	return geo.Reach(ms - s.offset)
}

func (s *search) km(i int32) float64 { return s.client.KM(s.f.vectors[i]) }

// weigh filters and scores one host; true when it can take the session.
func (s *search) weigh(i int32, km float64) bool {
	h := &s.f.hosts[i]
	var c candidate
	if s.refuses(h) != "" || !s.fit(h, &c) {
		return false
	}
	s.score(h, i, km, &c)
	if s.tooFar(&c) {
		return false
	}
	s.add(&c)
	return true
}

func (s *search) score(h *host, i int32, km float64, c *candidate) {
	c.host, c.km = i, km
	c.estimate = s.estimateOf(i, km)
	c.score = c.estimate.ms
	if c.estimate.ms < 0 {
		c.score = scoreUnknown
	}
	c.score += s.penalty(h)
	c.home = h.region == s.op.DefaultRegion
}

func (s *search) tooFar(c *candidate) bool { return s.ceiling > 0 && c.estimate.ms > s.ceiling }

// add puts a candidate into the group of the equally near. Of more than the
// group holds, the ones with the most room stay.
func (s *search) add(c *candidate) {
	switch {
	case s.n == 0 || c.score < s.best:
		s.best, s.slack = c.score, slackOf(c)
	case c.score > s.best+s.slack:
		return
	}
	if s.n < maxGroup {
		s.group[s.n] = *c
		s.n++
		return
	}
	worst := c
	for k := range s.group {
		if s.before(worst, &s.group[k]) {
			worst = &s.group[k]
		}
	}
	if worst != c {
		*worst = *c
	}
}

func slackOf(c *candidate) float64 { return min(max(c.estimate.err/4, tieLeast), tieMost) }

func (s *search) pack() bool { return s.policy != nil && s.policy.Order == api.OrderPack }

// pick chooses within the group: of those as good as the best, the default
// region first, then by room.
func (s *search) pick() *candidate {
	var best *candidate
	for k := range s.group[:s.n] {
		if c := &s.group[k]; c.score <= s.best+s.slack && (best == nil || s.before(c, best)) {
			best = c
		}
	}
	return best
}

// before orders candidates: those as good as the best by region and room, the
// others by their scores.
func (s *search) before(a, b *candidate) bool {
	last := s.best + s.slack
	switch {
	case a.score > last || b.score > last:
		if a.score != b.score {
			return a.score < b.score
		}
	case a.home != b.home:
		return a.home
	case a.share != b.share:
		return (a.share > b.share) != s.pack()
	}
	return s.f.hosts[a.host].id < s.f.hosts[b.host].id
}
