// Package fleet simulates a fleet of edges in the cities of the world: the
// production index, policies and ledger, in virtual time, on one goroutine, the
// same for the same seed. Media is not in it; bus and gossip are the delays that
// cmd/run/fleet measured.
package fleet

import (
	"container/heap"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
	"github.com/perigee-cloud/perigee/scheduler/place"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// Knowledge is what placement may use.
type Knowledge int

// What is known: where GeoIP says that a client is; also what earlier sessions
// measured; also what the client itself measures.
const (
	GeoIP Knowledge = iota
	Atlas
	Probed
)

// Config of one simulation.
type Config struct {
	Seed      uint64
	Knowledge Knowledge
	Sites     int // cities with nodes, the largest first
	PerSite   int // nodes of each
	Streams   int // 1280x720@60 in H.264 that a node carries
	Networks  int // prefixes of clients
	Sessions  int // arrivals in all
	Span      time.Duration
	Flash     float64 // by how much one city's demand grows for a twentieth of the span; 0 = no crowd
	// Delays of production; nil: commits take 5 ms at the mean, and the ledger
	// alone says what is free.
	Delays *Delays
	steady bool // no waves
}

// Result of one simulation. Regret is how much longer the true round trip is
// than that of the best node with room at that moment, ms.
type Result struct {
	Placed, Refused    int
	Regrets            []float64 // sorted
	TripP50, TripP95   float64
	Stale              int // of the refused: there was room, and nobody had heard of it yet
	DoubleReservations int // reservations above a node's capacity, and creates the ledger had to refuse
	Lost               int // sessions that were acknowledged and are not in the state
}

// Regret gives a quantile, ms.
func (r Result) Regret(q float64) float64 { return quantile(r.Regrets, q) }

func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

const (
	meanStay     = 12 * time.Minute
	commitMean   = 5 * time.Millisecond
	probeSites   = 4
	streamBlocks = 216_000 // macroblocks per second of 1280x720@60
	wave         = 0.6     // how much the day moves demand
	flashCity    = "London"
)

// errBroken says that the simulation itself is wrong.
var errBroken = errors.New("simulation is broken")

// event is something that happens at a time; equal times keep their order.
type event struct {
	at   time.Duration
	seq  int
	what func() error
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }

// Push adds an event at the end, for container/heap.
func (e *events) Push(x any) { *e = append(*e, x.(event)) }

// Pop takes the last event, for container/heap.
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}

type sim struct {
	cfg      Config
	rnd      *rand.Rand // of the world and the demand: the same whatever is known
	noise    *rand.Rand // of measurements
	towns    []city
	sites    []site
	siteOf   map[api.NodeID]int
	index    *geo.Index
	networks []network
	weights  []float64
	queue    events
	seq      int
	now      time.Duration
	root     *state.State
	fleet    *place.Fleet
	atlas    *geo.Atlas
	free     []int                // streams by site, as placement sees it
	busy     map[api.NodeID]int64 // macroblocks per second that a node's last heard headroom shows in use
	created  int
	trips    []float64
	result   Result
}

var start = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

type always struct{}

// Alive says yes: nodes are not lost in this world.
func (always) Alive(*state.Node) bool { return true }

// Headroom knows of none: the ledger decides.
func (always) Headroom(*state.Node) (api.Headroom, bool) { return api.Headroom{}, false }

// Run simulates; an error means that the simulation itself is broken.
func Run(c Config) (Result, error) {
	s := &sim{
		cfg: c, rnd: rand.New(rand.NewPCG(c.Seed, 1)), noise: rand.New(rand.NewPCG(c.Seed, 2)), towns: cities(),
		siteOf: map[api.NodeID]int{}, busy: map[api.NodeID]int64{}, root: state.New(), fleet: place.NewFleet(), atlas: geo.NewAtlas(c.Networks),
	}
	if err := s.build(); err != nil {
		return Result{}, err
	}
	if err := s.arriveNext(); err != nil {
		return Result{}, err
	}
	for s.queue.Len() > 0 {
		e := heap.Pop(&s.queue).(event)
		s.now = e.at
		if err := e.what(); err != nil {
			return Result{}, err
		}
	}
	if left := s.root.LiveCount(); left != 0 {
		s.result.Lost += left
	}
	slices.Sort(s.result.Regrets)
	slices.Sort(s.trips)
	s.result.TripP50, s.result.TripP95 = quantile(s.trips, 0.5), quantile(s.trips, 0.95)
	return s.result, nil
}

func (s *sim) apply(cmds ...state.Command) ([]state.Result, error) {
	next, results, err := s.root.Apply(state.Encode(start.Add(s.now), cmds...))
	if err != nil {
		return nil, fmt.Errorf("apply entry: %w", err)
	}
	s.root = next
	s.fleet.Sync(next)
	return results, nil
}

// build joins the nodes and draws the clients.
func (s *sim) build() error {
	app, err := json.Marshal(api.App{Name: "game", Kind: api.AppProgram, Command: []string{"game"}})
	if err != nil {
		return fmt.Errorf("write application: %w", err)
	}
	cmds := []state.Command{&state.PutApp{Doc: app}}
	var places []geo.Vector
	for i := range min(s.cfg.Sites, len(s.towns)) {
		c := s.towns[i]
		at := site{city: i, place: geo.Point(c.latitude, c.longitude)}
		for k := range s.cfg.PerSite {
			id := api.NodeID(fmt.Sprintf("%s-%d", c.name, k))
			doc, err := json.Marshal(api.Node{ID: id, Region: "earth", Boot: "b",
				Location: api.Location{Known: true, Latitude: c.latitude, Longitude: c.longitude},
				Pools:    []api.Capacity{{Pool: api.PoolCPU, Macroblocks: uint64(s.cfg.Streams) * streamBlocks, Codecs: []api.Codec{api.H264}}}})
			if err != nil {
				return fmt.Errorf("write node: %w", err)
			}
			cmds = append(cmds, &state.PutNode{Doc: doc})
			at.nodes = append(at.nodes, id)
			s.siteOf[id] = i
		}
		s.sites = append(s.sites, at)
		s.free = append(s.free, s.cfg.PerSite*s.cfg.Streams)
		places = append(places, at.place)
	}
	results, err := s.apply(cmds...)
	if err != nil {
		return err
	}
	for _, r := range results {
		if r.Err != nil {
			return fmt.Errorf("build the fleet: %w", r.Err)
		}
	}
	s.index = geo.NewIndex(places)
	s.networks = makeNetworks(s.rnd, s.towns, s.sites, s.cfg.Networks)
	for range s.networks {
		s.weights = append(s.weights, s.rnd.ExpFloat64())
	}
	return nil
}

func (s *sim) at(d time.Duration, what func() error) {
	s.seq++
	heap.Push(&s.queue, event{s.now + d, s.seq, what})
}

// arriveNext draws the next arrival of a Poisson stream, thinned by the time of
// day where the client is and by the flash crowd.
func (s *sim) arriveNext() error {
	peak := (1 + wave) * (1 + s.cfg.Flash)
	for {
		gap := time.Duration(s.rnd.ExpFloat64() * float64(s.cfg.Span) / float64(s.cfg.Sessions) / peak)
		s.now += gap
		if s.now >= s.cfg.Span {
			return nil
		}
		w := draw(s.rnd, s.weights)
		if s.rnd.Float64()*peak < s.demand(w) {
			stay := time.Duration(s.rnd.ExpFloat64() * float64(meanStay))
			s.at(0, func() error {
				if err := s.arrive(w, stay); err != nil {
					return err
				}
				return s.arriveNext()
			})
			return nil
		}
	}
}

// demand is a network's at this moment, 1 on average.
func (s *sim) demand(w int) float64 {
	home := s.towns[s.networks[w].city]
	local := s.now.Hours() + home.longitude/15
	if s.cfg.steady {
		return 1
	}
	d := 1 + wave*math.Sin(2*math.Pi*(local-14)/24) // most in the evening, at 20 h
	if third := s.cfg.Span / 3; s.cfg.Flash > 0 && home.name == flashCity && s.now > third && s.now < third+s.cfg.Span/20 {
		d *= 1 + s.cfg.Flash
	}
	return d
}

// arrive places one session, and commits it a little later.
func (s *sim) arrive(w int, stay time.Duration) error {
	net := &s.networks[w]
	q := place.Query{Need: api.Need{App: "game", Codecs: []api.Codec{api.H264}, Screen: api.Screen{Width: 1280, Height: 720, FPS: 60},
		Client: net.believed, Network: net.address}}
	if s.cfg.Knowledge >= Atlas {
		q.Learned = s.atlas.Nodes(nil, geo.NetworkOf(net.address), start.Add(s.now))
	}
	if s.cfg.Knowledge >= Probed {
		q.Need.Probes = s.probe(net)
	}
	best := math.Inf(1)
	for _, i := range net.nearest {
		if s.free[i] > 0 {
			best = net.trips[i]
			break
		}
	}
	choice, ok := s.fleet.Place(&q, place.Operator{}, s.watch())
	if !ok {
		if !math.IsInf(best, 1) && s.cfg.Delays == nil {
			return fmt.Errorf("nobody was chosen where there is room: %w", errBroken)
		}
		s.result.Refused++
		if !math.IsInf(best, 1) {
			s.result.Stale++
		}
		return nil
	}
	i := s.siteOf[choice.Node]
	s.result.Placed++
	s.result.Regrets = append(s.result.Regrets, net.trips[i]-best)
	s.trips = append(s.trips, net.trips[i])
	s.free[i]--
	s.fleet.Hold(choice.Node, choice.Pool, choice.Cost, choice.Parts)
	s.at(s.commitDelay(), func() error { return s.commit(w, i, choice, stay) })
	return nil
}

// probe measures the nearest sites, as far as GeoIP knows, one node of each.
func (s *sim) probe(net *network) []api.Probe {
	var out []api.Probe
	s.index.Nearest(geo.VectorOf(net.believed), func(i int, _ float64) bool {
		p := api.Probe{Node: s.sites[i].nodes[0], RoundTripMS: net.probed(s.noise, i)}
		if p.RoundTripMS >= api.SilentMS {
			p = api.Probe{Node: p.Node, RoundTripMS: api.SilentMS, Silent: true}
		}
		out = append(out, p)
		return len(out) < probeSites
	})
	return out
}

func (s *sim) commit(w, i int, c place.Choice, stay time.Duration) error {
	s.created++
	id := api.SessionID(fmt.Sprint("s", s.created))
	results, err := s.apply(&state.Create{ID: id, Generation: 1, App: "game", AppVersion: 1, Node: c.Node, Region: c.Region, Pool: c.Pool,
		Codec: c.Codec, Reserved: c.Cost, Screen: api.Screen{Width: 1280, Height: 720, FPS: c.FPS}, Placement: c.Placement})
	if err != nil {
		return err
	}
	s.fleet.Drop(c.Node, c.Pool, c.Cost, c.Parts)
	if refused(results[0]) {
		s.result.DoubleReservations++
		s.free[i]++
		return nil
	}
	if n, ok := s.root.Node(c.Node); ok {
		if used, _ := n.Reserved(c.Pool); used > n.Pools[0].Macroblocks {
			s.result.DoubleReservations++
		}
	}
	s.shown(c.Node, c.Cost, true)
	net := &s.networks[w]
	s.atlas.Learn(geo.NetworkOf(net.address), s.fleet.Site(c.Node), net.measured(s.noise, i), start.Add(s.now))
	s.at(stay, func() error {
		if _, ok := s.root.Live(id); !ok {
			s.result.Lost++
		}
		_, err := s.apply(&state.Report{ID: id, Generation: 1, Node: c.Node, Boot: "b", Seq: 1, Observed: api.ObservedStopped})
		s.free[i]++
		s.shown(c.Node, c.Cost, false)
		return err
	})
	return nil
}

func address(i int) string { return fmt.Sprintf("10.%d.%d.1", i/256%256, i%256) }

// refused says whether the ledger took a command back: in the simulation a
// finding, not a fault.
func refused(r state.Result) bool { return r.Err != nil }
