// Package fleet runs a whole fleet in one process on virtual time: the
// production scheduler, gossip and edge daemon, on a simulated wide-area
// network; what needs a kernel's time (media, instances, sockets) is replaced at
// the interfaces that these declare. Tests and bench use it; DESIGN.md says what
// is real.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
	"github.com/perigee-cloud/perigee/gossip/simnet"
	"github.com/perigee-cloud/perigee/scheduler"
)

// Region is a place with edges. The replicas are in the first ones.
type Region struct {
	Name                string
	Latitude, Longitude float64
}

// regionsOf gives the first n regions: three near each other, as the timers of
// one site allow replicas, then the rest of the world.
func regionsOf(n int) []Region {
	all := []Region{
		{"frankfurt", 50.11, 8.68}, {"paris", 48.86, 2.35}, {"amsterdam", 52.37, 4.90}, {"virginia", 38.91, -77.04},
		{"saopaulo", -23.55, -46.63}, {"singapore", 1.35, 103.82}, {"tokyo", 35.68, 139.69}, {"sydney", -33.87, 151.21},
	}
	return all[:min(n, len(all))]
}

// lastWords is what memberlist's probes may take to end after their member has:
// a bubble ends with its last goroutine.
const lastWords = 20 * time.Second

// Bounds of a Config: beyond them a simulation takes hours.
const (
	MaxEdges = 300
	MaxSpan  = 30 * time.Minute
)

// Config of a simulation.
type Config struct {
	Seed     uint64
	Dir      string       `json:"-"` // for the logs of Raft and the edges' folders; short
	Log      *slog.Logger `json:"-"`
	Replicas int          // 3 or 5
	Profile  string       // of Raft's timers; "" = scheduler.ProfileSite
	Regions  int          // 1 to 8
	Edges    int          // at most MaxEdges
	Streams  int          // 1280x720@60 in H.264 that an edge carries
	Span     time.Duration
	Rate     float64       // sessions asked for a second
	Stay     time.Duration // mean, exponential
	Steps    []Step        `json:"-"` // what happens meanwhile
}

func (c Config) check() error {
	switch {
	case c.Dir == "" || c.Log == nil:
		return errors.New("fleet: directory or log is missing")
	case c.Replicas < 1 || c.Replicas > 5:
		return fmt.Errorf("fleet: 1 to 5 replicas, got %d", c.Replicas)
	case c.Regions < 1 || c.Regions > 8:
		return fmt.Errorf("fleet: 1 to 8 regions, got %d", c.Regions)
	case c.Edges < 1 || c.Edges > MaxEdges:
		return fmt.Errorf("fleet: 1 to %d edges, got %d", MaxEdges, c.Edges)
	case c.Span <= 0 || c.Span > MaxSpan:
		return fmt.Errorf("fleet: a span of at most %s, got %s", MaxSpan, c.Span)
	case c.Streams < 1 || c.Rate < 0 || c.Stay <= 0:
		return errors.New("fleet: streams, rate or stay is missing")
	}
	return nil
}

// Fleet is a simulation under way.
type Fleet struct {
	cfg      Config
	rnd      *rand.Rand // of the demand
	net      *simnet.Net
	regions  []Region
	regionOf map[string]int // by IP; never written after build
	replicas []*replica
	nodes    []*node
	begun    time.Time

	mu      sync.Mutex // guards the fields below
	silent  map[string]bool
	cut     func(from, to string) bool
	stale   bool // datagrams are lost
	acked   map[api.SessionID]*acked
	byNode  map[api.NodeID]*node
	suspect map[string]time.Time     // what looks wrong, since when
	lostAt  map[api.NodeID]time.Time // when a node was last seen to be lost
	weather string                   // the last step
	result  Result
}

// The ways of the simulated world: light in fibre, there on a way 2.1 times the
// great circle (bench/fleet/truth.go has the sources), within a site 0.2 ms.
const (
	msPerKM   = 2.1 / (299.792458 * 2 / 3)
	siteDelay = 200 * time.Microsecond
	jitter    = 500 * time.Microsecond
	loss      = 0.0005
)

// Run simulates inside a bubble of testing/synctest and gives what was seen.
// An error means that the simulation itself is broken; what the fleet does
// wrong is in the result.
func Run(ctx context.Context, c Config) (Result, error) {
	if err := c.check(); err != nil {
		return Result{}, err
	}
	f := &Fleet{
		cfg: c, rnd: rand.New(rand.NewPCG(c.Seed, 1)), regions: regionsOf(c.Regions), regionOf: map[string]int{}, silent: map[string]bool{},
		acked: map[api.SessionID]*acked{}, byNode: map[api.NodeID]*node{}, suspect: map[string]time.Time{}, lostAt: map[api.NodeID]time.Time{},
		result: Result{NodesLost: map[string]int{}},
	}
	f.build()
	ctx, cancel := context.WithCancel(ctx)
	defer f.net.Close()
	defer cancel()
	if err := f.boot(ctx); err != nil {
		return Result{}, errors.Join(err, f.end())
	}
	f.begun = time.Now()
	var wg sync.WaitGroup
	running, stop := context.WithCancel(ctx)
	wg.Go(func() { f.arrivals(running, &wg) })
	wg.Go(func() { f.watch(running) })
	wg.Go(func() { f.measure(running) })
	var errs []error
	for _, s := range c.Steps {
		pause(ctx, time.Until(f.begun.Add(s.At)))
		c.Log.Warn("step", "name", s.Name, "at", s.At)
		f.mu.Lock()
		f.weather = s.Name
		f.mu.Unlock()
		errs = append(errs, s.do(ctx, f, &wg))
	}
	pause(ctx, time.Until(f.begun.Add(c.Span)))
	stop()
	wg.Wait()
	f.settle(ctx)
	errs = append(errs, f.end())
	cancel()
	time.Sleep(lastWords)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.result.finish()
	return f.result, errors.Join(errs...)
}

// build lays the network and the machines out.
func (f *Fleet) build() {
	f.net = simnet.New(f.cfg.Seed, f.path)
	for i := range f.cfg.Replicas {
		ip := fmt.Sprintf("127.0.0.%d", i+1)
		f.regionOf[ip] = i % len(f.regions)
		f.replicas = append(f.replicas, &replica{f: f, i: i, host: f.net.Host(ip), data: f.cfg.Dir})
	}
	for k := range f.cfg.Edges {
		region := k % len(f.regions)
		ip := fmt.Sprintf("127.%d.%d.%d", 1+region, k/200, 1+k%200)
		f.regionOf[ip] = region
		h := f.net.Host(ip)
		f.nodes = append(f.nodes, &node{
			f: f, name: fmt.Sprintf("%s-%d", f.regions[region].Name, k), region: region, host: h,
			dir: filepath.Join(f.cfg.Dir, fmt.Sprint("e", k)), kids: newKids(h), told: map[heard]time.Time{},
		})
	}
}

// path is the way between two hosts.
func (f *Fleet) path(from, to string) simnet.Path {
	a, b := f.regionOf[from], f.regionOf[to]
	p := simnet.Path{Delay: siteDelay, Jitter: siteDelay / 4, Loss: loss}
	if a != b {
		km := geo.Point(f.regions[a].Latitude, f.regions[a].Longitude).KM(geo.Point(f.regions[b].Latitude, f.regions[b].Longitude))
		p.Delay += time.Duration(km * msPerKM * float64(time.Millisecond))
		p.Jitter = jitter
	}
	return p
}

// boot starts the replicas, then the edges, and waits until all take part.
func (f *Fleet) boot(ctx context.Context) error {
	ctx2, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, r := range f.replicas {
		if err := r.start(ctx); err != nil {
			return err
		}
	}
	for _, r := range f.replicas {
		if err := r.server().Ready(ctx2); err != nil {
			return err
		}
	}
	s := f.replicas[0].server()
	for _, app := range []api.App{
		{Name: appGame, Kind: api.AppProgram, Command: []string{"game"}},
		{Name: appAgain, Kind: api.AppProgram, Command: []string{"game"}, Restart: true},
		{Name: appProbe, Kind: api.AppExternal},
	} {
		if _, err := s.PutApplication(ctx2, app); err != nil {
			return fmt.Errorf("put application: %w", err)
		}
	}
	token, _, err := s.CreateToken(ctx2, api.TokenSpec{Account: "ops", Rights: []api.Right{api.RightNode}, Uses: len(f.nodes)})
	if err != nil {
		return fmt.Errorf("make token: %w", err)
	}
	for _, n := range f.nodes {
		n.token = token
		n.start(ctx)
		pause(ctx, 20*time.Millisecond) // as machines are started, one after the other
	}
	for {
		list, err := s.ListNodes(ctx2)
		if err == nil && len(list) == len(f.nodes) && !slices.ContainsFunc(list, func(v api.NodeView) bool { return !v.Alive || len(v.Headroom.Pools) == 0 }) {
			break
		}
		if !pause(ctx2, 100*time.Millisecond) {
			return fmt.Errorf("boot fleet: %d of %d edges are there after a minute: %w", len(list), len(f.nodes), ctx2.Err())
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nodes {
		f.byNode[n.nodeID()] = n
	}
	return nil
}

// end stops everything, edges first.
func (f *Fleet) end() error {
	f.mend()
	var wg sync.WaitGroup
	for _, n := range f.nodes {
		wg.Go(n.lose)
	}
	wg.Wait()
	var errs []error
	for _, r := range f.replicas {
		errs = append(errs, r.kill())
	}
	return errors.Join(errs...)
}

// silence cuts one host off, or lets it back.
func (f *Fleet) silence(ip string, yes bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.silent, ip)
	if yes {
		f.silent[ip] = true
	}
	f.cutLocked()
}

// split cuts what a predicate says; nil mends it.
func (f *Fleet) split(cut func(from, to string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = cut
	f.cutLocked()
}

func (f *Fleet) cutLocked() {
	silent, cut := make(map[string]bool, len(f.silent)), f.cut
	for ip := range f.silent {
		silent[ip] = true
	}
	f.net.Cut(func(from, to string) bool { return silent[from] || silent[to] || cut != nil && cut(from, to) })
}

// deafen loses every datagram, or lets them through again.
func (f *Fleet) deafen(yes bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stale = yes
	f.net.SetPath(func(from, to string) simnet.Path {
		p := f.path(from, to)
		if yes {
			p.Drop = 1
		}
		return p
	})
}

func (f *Fleet) mend() {
	f.split(nil)
	f.deafen(false)
}

// up lists the schedulers that run.
func (f *Fleet) up() []*scheduler.Server {
	var out []*scheduler.Server
	for _, r := range f.replicas {
		if s := r.server(); s != nil {
			out = append(out, s)
		}
	}
	return out
}

// leader gives the replica that leads as a majority sees it; nil while none does.
func (f *Fleet) leader(ctx context.Context) *replica {
	for _, r := range f.replicas {
		s := r.server()
		if s == nil {
			continue
		}
		list, err := s.Replicas(ctx)
		if err != nil {
			continue
		}
		for _, v := range list {
			if v.Leader && v.Self && s.Staleness() == 0 {
				return r
			}
		}
	}
	return nil
}

func (f *Fleet) count(change func(*Result)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.result)
}
