package scheduler

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"
	_ "time/tzdata" // schedules name time zones, also where the machine has none installed

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

const (
	// poolEvery is how often pools are looked at although nothing kicked: for
	// schedules, and what is in no entry.
	poolEvery = 500 * time.Millisecond
	// startsAtOnce bounds the instances of one pool that start together, and
	// poolStarts those of all in one look: a node's applications are not to be
	// held up by those nobody waits for.
	startsAtOnce = 4
	poolStarts   = 32
	// poolRest is how long pools start nothing after they gave an instance up for
	// a session that needed its room.
	poolRest = 5 * time.Second
	// troubleFirst and troubleMost bound the pause after instances that ended by
	// themselves; one that ran for troubleOver ends the trouble.
	troubleFirst = time.Second
	troubleMost  = 5 * time.Minute
	troubleOver  = time.Minute
)

// pools keeps instances started, on the leader.
type pools struct {
	wake     chan struct{}          // has room for one
	claiming map[api.SessionID]bool // on their way to a session; guarded by the view

	mu      sync.Mutex
	trouble map[poolName]*trouble
	full    map[poolName]string // why no node had room, at the last look
	rest    time.Time           // nothing is started before
}

type poolName struct{ app, region string }

// trouble is of a pool whose instances end by themselves.
type trouble struct {
	fails int
	until time.Time
	last  string
}

func (p *pools) init() {
	p.wake = make(chan struct{}, 1)
	p.claiming = map[api.SessionID]bool{}
	p.begin()
}

// begin starts a leadership: what an earlier one knew may be old.
func (p *pools) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trouble, p.full, p.rest = map[poolName]*trouble{}, map[poolName]string{}, time.Time{}
}

func (p *pools) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// ended notes that a started instance is no more. One that was not given up, nor
// lost with its node, ended by itself.
func (p *pools) ended(v *api.Session, now time.Time) {
	defer p.kick()
	if v.Desired == api.DesiredStop || v.Reason == api.ReasonNodeLost {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	name := poolName{v.App, v.Region}
	t := p.trouble[name]
	if t == nil {
		t = &trouble{}
		p.trouble[name] = t
	}
	t.until = now.Add(min(troubleFirst<<min(t.fails, 16), troubleMost))
	t.fails++
	t.last = string(v.Reason)
	if v.Message != "" {
		t.last += ": " + v.Message
	}
}

// poolChange sees that a pool is looked at when one of its instances has changed.
func (s *Server) poolChange(v *api.Session) {
	switch {
	case v.Warm && api.Final(v.Observed):
		s.pools.ended(v, s.cfg.Clock())
	case api.Final(v.Observed), v.Warm && v.Observed == api.ObservedRunning:
		s.pools.kick()
	}
}

// poolLoop tends the pools until the leadership ends. It takes one part in
// lookShare of a core at most.
func (s *Server) poolLoop(ctx context.Context) {
	tick := time.NewTicker(min(poolEvery, 2*s.cfg.SweepEvery))
	defer tick.Stop()
	var next time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.pools.wake:
		case <-tick.C:
		}
		root := s.root()
		if root.PoolCount() == 0 && root.WarmCount() == 0 {
			continue
		}
		if wait := time.Until(next); wait > 0 && !pause(ctx, wait) {
			return
		}
		begun := time.Now()
		end, start := s.look(root)
		next = time.Now().Add(lookShare * time.Since(begun))
		s.proposeAll(ctx, end)
		s.startWarm(ctx, start)
		s.yieldToWaiting(ctx)
	}
}

// pool is one with what there is of it.
type pool struct {
	api.WarmPoolState
	name    poolName
	version int              // of the application; 0 = none is published
	good    []*state.Session // of that version, on nodes that take sessions
}

// survey gives every pool as it is now, and the instances that are of none or
// that no session is to have.
func (s *Server) survey(root *state.State) (all []*pool, bad []*state.Session) {
	byName := map[poolName]*pool{}
	for _, doc := range root.Pools() {
		p := &pool{name: poolName{doc.App, doc.Region}}
		p.WarmPool = doc
		if app, ok := root.App(doc.App, 0); ok {
			p.version = app.Version
		}
		byName[p.name] = p
		all = append(all, p)
	}
	now := s.cfg.Clock()
	for v := range root.Sessions() {
		p := byName[poolName{v.App, v.Region}]
		if !v.Warm {
			if p != nil && v.Node != "" && v.Pool != api.PoolNone {
				p.Sessions++
			}
			continue
		}
		n, ok := root.Node(v.Node)
		switch {
		case v.Desired == api.DesiredStop: // it is on its way out
		case p == nil, v.AppVersion != p.version, !ok, n.Drain, n.Lost, v.Observed == api.ObservedLost, !s.leases.alive(n, now, s.cfg.Lease):
			bad = append(bad, v)
		default:
			p.good = append(p.good, v)
			if v.Observed == api.ObservedRunning {
				p.Ready++
			} else {
				p.Starting++
			}
		}
	}
	for _, p := range all {
		p.Wanted = p.WarmPool.Wanted(p.Sessions, s.now().In(zoneOf(p.TimeZone)))
	}
	return all, bad
}

func zoneOf(name string) *time.Location {
	if l, err := time.LoadLocation(name); err == nil { // it was checked when the pool was set
		return l
	}
	return time.UTC
}

// look says which instances are to end, and which pools are to start how many.
func (s *Server) look(root *state.State) (end []state.Command, start map[*pool]int) {
	all, bad := s.survey(root)
	for _, v := range bad {
		end = append(end, release(v))
	}
	start = map[*pool]int{}
	left := poolStarts
	for _, p := range all {
		have := len(p.good)
		if over := have - p.Wanted; over > 0 {
			s.view.mu.Lock()
			p.good = slices.DeleteFunc(p.good, func(v *state.Session) bool { return s.pools.claiming[v.ID] })
			s.view.mu.Unlock()
			slices.SortFunc(p.good, lastNeeded)
			for _, v := range p.good[:min(over, len(p.good))] {
				end = append(end, release(v))
			}
		}
		if n := min(p.Wanted-have, startsAtOnce-p.Starting, left); n > 0 && s.mayStart(root, p) {
			start[p], left = n, left-n
		}
	}
	return end, start
}

func release(v *state.Session) state.Command {
	return &state.End{ID: v.ID, Reason: api.ReasonReleased, Force: true}
}

// lastNeeded orders instances for giving up: first those that are not up yet,
// then the youngest.
func lastNeeded(a, b *state.Session) int {
	up := func(v *state.Session) int {
		if v.Observed == api.ObservedRunning {
			return 1
		}
		return 0
	}
	return cmp.Or(up(a)-up(b), b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.ID, b.ID))
}

// mayStart says whether a pool may start more now: not while its instances end by
// themselves, nor while a session waits for room that it would take.
func (s *Server) mayStart(root *state.State, p *pool) bool {
	for v := range root.Waiting {
		if r := v.Wait.Ask.Region; r == "" || r == p.Region {
			return false
		}
	}
	now := s.cfg.Clock()
	s.pools.mu.Lock()
	defer s.pools.mu.Unlock()
	t := s.pools.trouble[p.name]
	if t != nil && slices.ContainsFunc(p.good, func(v *state.Session) bool {
		return v.Observed == api.ObservedRunning && s.now().Sub(v.CreatedAt) >= troubleOver
	}) {
		delete(s.pools.trouble, p.name)
		t = nil
	}
	return p.version > 0 && !now.Before(s.pools.rest) && (t == nil || !now.Before(t.until))
}

// startWarm starts instances where there is room that nobody else wants.
func (s *Server) startWarm(ctx context.Context, start map[*pool]int) {
	var on []*proposal
	for p, n := range start {
		why := ""
		for range n {
			var cmd *state.Prepare
			var held *pending
			if cmd, held, why = s.prepareWarm(p); cmd == nil {
				break
			}
			on = append(on, s.enqueue(ctx, cmd, held))
		}
		s.pools.mu.Lock()
		if s.pools.full[p.name] = why; why == "" {
			delete(s.pools.full, p.name)
		}
		s.pools.mu.Unlock()
	}
	for _, p := range on {
		if res, err := s.await(ctx, p); err == nil {
			s.cfg.Log.Info("instance is started for a session to come", "session", res.Session.ID, "app", res.Session.App, "node", res.Session.Node)
		} else if ctx.Err() == nil {
			s.cfg.Log.Debug("instance could not be started ahead", "error", err)
		}
	}
}

// prepareWarm finds the place of one more instance and takes it, or says why there
// is none. It has the size and the codec that the application says.
func (s *Server) prepareWarm(p *pool) (*state.Prepare, *pending, string) {
	root := s.root()
	app, ok := root.App(p.App, p.version)
	if !ok || app.Kind == api.AppExternal {
		return nil, nil, "its application cannot be started ahead"
	}
	var random [api.SessionIDBytes]byte
	_, _ = rand.Read(random[:]) // never fails
	r, err := filledBy(api.CreateRequest{App: app.Name, AppVersion: app.Version, Region: p.Region, Asked: &api.Screen{}, IdleMinutes: api.IdleUnset}, app)
	if err != nil {
		return nil, nil, err.Error()
	}
	need, err := needOf(r, app)
	if err != nil {
		return nil, nil, err.Error()
	}
	s.ruled(root, &need, app, "")
	var policy api.PlacementPolicy
	if need.Policy != nil {
		policy = *need.Policy
	}
	policy.MinFPS, policy.LowerPreset = 0, false
	policy.Labels.Required = append(slices.Clip(policy.Labels.Required), api.LabelWarm)
	need.Policy = &policy
	s.view.mu.Lock()
	choice, held, _ := s.placeHere(need, s.cfg.Clock(), 0, false)
	s.view.mu.Unlock()
	if held == nil {
		return nil, nil, "no node has room for another one"
	}
	held.why = nil // nobody asks
	c := newCreate(api.NewSessionID(random), r, app)
	c.Node, c.Region, c.Pool, c.Codec, c.Reserved = choice.Node, choice.Region, choice.Pool, choice.Codec, choice.Cost
	c.Codecs, c.Preset, c.Parts = s.codecsThere(choice, need), choice.Preset, choice.Parts
	c.Placement = api.Placement{DistanceKM: -1, EstimateMS: -1, ErrorMS: -1, Source: "unknown"}
	return &state.Prepare{Create: *c}, held, ""
}

// WarmPools gives every pool as it is, by application and region.
func (s *Server) WarmPools(ctx context.Context) ([]api.WarmPoolState, error) {
	return onLeader(ctx, s, "pools", nothing{}, s.warmPools)
}

func (s *Server) warmPools(context.Context, nothing) ([]api.WarmPoolState, error) {
	all, _ := s.survey(s.root())
	now := s.cfg.Clock()
	s.pools.mu.Lock()
	defer s.pools.mu.Unlock()
	out := make([]api.WarmPoolState, 0, len(all))
	for _, p := range all {
		if t := s.pools.trouble[p.name]; t != nil {
			p.Message = fmt.Sprintf("its instances end by themselves (%s)", t.last)
			if wait := t.until.Sub(now); wait > 0 {
				p.Message += fmt.Sprintf("; the next one starts in %s", wait.Round(time.Second))
			}
		} else if why := s.pools.full[p.name]; why != "" && len(p.good) < p.Wanted {
			p.Message = why
		}
		out = append(out, p.WarmPoolState)
	}
	return out, nil
}

// SetWarmPool sets a pool's counts.
func (s *Server) SetWarmPool(ctx context.Context, p api.WarmPool) error {
	_, err := onLeader(ctx, s, "pool.set", p, s.setPool)
	return err
}

func (s *Server) setPool(ctx context.Context, p api.WarmPool) (nothing, error) {
	p, err := p.Normalize()
	if err != nil {
		return nothing{}, err
	}
	if _, err := time.LoadLocation(p.TimeZone); err != nil || p.TimeZone == "Local" {
		return nothing{}, api.Invalidf("time_zone", "%q is no time zone; use an IANA name like Europe/Berlin, or leave it out for UTC", p.TimeZone)
	}
	if rec, ok := s.root().AppRecord(p.App); ok && len(rec.Versions) > 0 && rec.Versions[len(rec.Versions)-1].App.Kind == api.AppExternal {
		return nothing{}, api.Invalidf("app", "%q is external: its provider starts it", p.App)
	}
	put, err := encodePool(p)
	if err != nil {
		return nothing{}, err
	}
	if _, err := s.proposeNew(ctx, put); err != nil {
		return nothing{}, err
	}
	s.pools.mu.Lock()
	delete(s.pools.trouble, poolName{p.App, p.Region}) // whoever sets it wants it tried
	s.pools.mu.Unlock()
	s.pools.kick()
	s.cfg.Log.Info("warm pool set", "app", p.App, "region", p.Region, "always_on", p.AlwaysOn, "target_idle", p.TargetIdle, "max", p.Maximum)
	return nothing{}, nil
}

// DropWarmPool removes a pool; its idle instances end, sessions go on.
func (s *Server) DropWarmPool(ctx context.Context, app, region string) error {
	_, err := onLeader(ctx, s, "pool.delete", api.WarmPool{App: app, Region: region}, s.dropPool)
	return err
}

func (s *Server) dropPool(ctx context.Context, p api.WarmPool) (nothing, error) {
	if _, err := s.proposeNew(ctx, &state.DropPool{App: p.App, Region: p.Region}); err != nil {
		return nothing{}, err
	}
	s.pools.kick()
	s.cfg.Log.Info("warm pool removed", "app", p.App, "region", p.Region)
	return nothing{}, nil
}
