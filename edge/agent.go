package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gpu"
	"github.com/perigee-cloud/perigee/edge/local"
)

// Bus is what the daemon needs of the message bus; each call of the handlers
// may come at any time and from many goroutines.
type Bus interface {
	OnCommand(func(ctx context.Context, c api.Command) api.Ack) error
	OnSignal(func(s api.Signal)) error
	Report(ctx context.Context, r api.Report) (api.Ack, error)
	Heartbeat(ctx context.Context, h api.Heartbeat) (api.HeartbeatAnswer, error)
	SendSignal(s api.Signal) error
}

// Mover is a Bus that has several servers and can leave the present one. That
// one may be well and cut off from the leader, who then hears nothing of this node.
type Mover interface {
	Move()
}

// moveAfter is how many heartbeats in a row go unanswered before the bus is
// asked to move, well within a lease; the next time it is twice as many.
const moveAfter = 3

// Publisher spreads the node's headroom, fast and without a guarantee.
type Publisher interface {
	Publish(h api.Headroom)
}

// Config of an Agent. Zero durations mean the defaults.
type Config struct {
	Identity *Identity
	Run      local.Run // short, as sockets lie in it
	Pools    []api.Capacity
	Bus      Bus
	Publish  Publisher // nil: headroom rides the heartbeats only
	Start    Starter
	Children Children             // nil: processes of this machine, as Start makes them
	Measure  func() (Load, error) // nil: this machine's /proc
	Graphics func() gpu.Sample    // the latest of the graphics processors; nil: there are none
	Uplink   int                  // Mb/s of the way out; 0: as fast as the interfaces say
	Log      *slog.Logger

	HeartbeatEvery time.Duration // 1 s
	StartDeadline  time.Duration // 20 s: from the command to a running instance
	DrawDeadline   time.Duration // 20 s: from the first pictures to one with something on it
	StopGrace      time.Duration // 5 s: how long an application may take to end
}

const (
	defaultHeartbeat = time.Second
	defaultStart     = 20 * time.Second
	defaultDraw      = 20 * time.Second
	defaultGrace     = 5 * time.Second

	maxUnits = 4096 // sessions at once, ended ones included until they are acknowledged
	maxEnded = 4096 // sessions remembered after their end

	// leaveTime is how long the end of everything may take.
	leaveTime = 15 * time.Second
)

// Errors of Run.
var (
	// ErrRefused says that the schedulers do not want this node.
	ErrRefused = errors.New("the schedulers refuse this node")
	// ErrEndSessions, as the cause of Run's context, ends every session and the
	// relay; with any other cause they are left running for the next daemon.
	ErrEndSessions = errors.New("end the sessions too")
)

// Agent is the daemon.
type Agent struct {
	cfg   Config
	log   *slog.Logger
	seq   atomic.Uint64
	meter *meter
	pid   int // our own

	work    sync.WaitGroup // units and their links
	talk    sync.WaitGroup // reporters
	leaving chan struct{}  // closed: sessions are left as they are
	flush   context.Context
	stopAll context.CancelFunc
	carries atomic.Pointer[[]api.Capacity] // what the pools may carry

	sentBytes atomic.Uint64 // by streams, as far as they told this daemon

	mu        sync.Mutex // guards the fields below
	ready     bool       // Run has begun and not ended: units may be made
	units     map[api.SessionID]*unit
	ended     map[api.SessionID]api.Report // bounded by maxEnded: the last report of each
	endedQ    []api.SessionID
	telling   map[api.SessionID]bool // whose last report is being sent once more
	certified []Engine               // of the hardware
}

// New checks a configuration and makes an Agent; it starts nothing.
func New(cfg Config) (*Agent, error) {
	switch {
	case cfg.Identity == nil:
		return nil, errors.New("make agent: identity is missing")
	case cfg.Run == "":
		return nil, errors.New("make agent: run directory is missing")
	case len(cfg.Run) > 60:
		return nil, fmt.Errorf("make agent: run directory %s is over 60 bytes, too long for the sockets in it: choose a shorter one", cfg.Run)
	case cfg.Bus == nil || cfg.Start == nil || cfg.Log == nil:
		return nil, errors.New("make agent: bus, starter or log is missing")
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.HeartbeatEvery, defaultHeartbeat)
	def(&cfg.StartDeadline, defaultStart)
	def(&cfg.DrawDeadline, defaultDraw)
	def(&cfg.StopGrace, defaultGrace)
	a := &Agent{
		cfg: cfg, log: cfg.Log.With("node", cfg.Identity.ID),
		leaving: make(chan struct{}), units: map[api.SessionID]*unit{}, ended: map[api.SessionID]api.Report{},
		telling: map[api.SessionID]bool{}, pid: os.Getpid(),
	}
	a.flush, a.stopAll = context.WithCancel(context.Background())
	a.SetPools(cfg.Pools)
	a.meter = &meter{agent: a}
	if a.cfg.Measure == nil {
		m := newProcMeter(a.roots, cfg.Uplink)
		m.way.streams = a.sentBytes.Load
		a.cfg.Measure = m.read
	}
	return a, nil
}

// Run adopts what an earlier daemon left, then serves commands until ctx ends
// or the schedulers refuse the node (ErrRefused). The cause of ctx's end decides
// what becomes of the sessions: see ErrEndSessions. It may be called once.
func (a *Agent) Run(ctx context.Context) error {
	defer a.stopAll()
	// What we were started with open is not for the processes that outlive us.
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) // since Linux 5.11
	if err := os.MkdirAll(string(a.cfg.Run), 0o700); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	a.mu.Lock()
	a.ready = true
	a.mu.Unlock()
	if err := a.adoptAll(); err != nil {
		return err
	}
	if err := a.cfg.Bus.OnSignal(a.onSignal); err != nil {
		return fmt.Errorf("take signals: %w", err)
	}
	if err := a.cfg.Bus.OnCommand(a.onCommand); err != nil {
		return fmt.Errorf("take commands: %w", err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.heartbeats(gctx) })
	g.Go(func() error { return a.meter.run(gctx) })
	g.Go(func() error { return a.relay(gctx, ctx) })
	err := g.Wait()
	a.leave(errors.Is(context.Cause(ctx), ErrEndSessions))
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// leave ends or leaves the sessions, and waits for our goroutines.
func (a *Agent) leave(end bool) {
	a.mu.Lock()
	a.ready = false
	units := make([]*unit, 0, len(a.units))
	for _, u := range a.units {
		units = append(units, u)
	}
	a.mu.Unlock()
	if end {
		for _, u := range units {
			u.ask(api.Command{Verb: api.VerbStop, Reason: api.ReasonDeleted})
		}
	} else {
		close(a.leaving)
	}
	if !within(&a.work, leaveTime) {
		a.log.Warn("some sessions did not end in time", "after", leaveTime)
	}
	if end {
		within(&a.talk, reportTimeout) // what is not heard now is told by the next daemon
		close(a.leaving)
	}
	a.stopAll()
	a.talk.Wait()
	a.work.Wait()
}

// within waits for a group, for so long at most.
func within(g *sync.WaitGroup, limit time.Duration) bool {
	done := make(chan struct{})
	go func() { g.Wait(); close(done) }()
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}

// session gives the unit of a session; nil when there is none.
func (a *Agent) session(id api.SessionID) *unit {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.units[id]
}

// onSignal hands a client's signal to its stream process.
func (a *Agent) onSignal(s api.Signal) {
	if u := a.session(s.Session); u != nil && u.generation == s.Generation {
		u.signal(s)
	} // else it is sent again, or its session has ended
}

// heartbeats keeps the node's lease.
func (a *Agent) heartbeats(ctx context.Context) error {
	tick := time.NewTicker(a.cfg.HeartbeatEvery)
	defer tick.Stop()
	heard := true
	var seq uint64
	silent, patience := 0, moveAfter
	for {
		seq++
		h := api.Heartbeat{
			Node: a.cfg.Identity.ID, Boot: a.cfg.Identity.Boot, Seq: seq, SentAt: time.Now(),
			Headroom: a.meter.latest(), Running: a.inventory(), Alarms: a.cfg.Run.Relay().Alarms,
		}
		hctx, cancel := context.WithTimeout(ctx, max(a.cfg.HeartbeatEvery, time.Second))
		answer, err := a.cfg.Bus.Heartbeat(hctx, h)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if heard {
				a.log.Warn("heartbeat was not answered", "error", err)
			}
			heard = false
			if silent++; silent >= patience {
				silent, patience = 0, 2*patience
				if m, ok := a.cfg.Bus.(Mover); ok {
					m.Move()
				}
			}
		case answer.Refused != "":
			return fmt.Errorf("%w: %s", ErrRefused, answer.Refused)
		default:
			if !heard {
				a.log.Info("heartbeats are answered again")
			}
			heard, silent, patience = true, 0, moveAfter
			for _, r := range answer.Unwanted {
				a.end(r.Session, r.Generation, api.ReasonSuperseded)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// inventory lists what the node runs.
func (a *Agent) inventory() []api.Running {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]api.Running, 0, len(a.units))
	for _, u := range a.units {
		r := u.report()
		out = append(out, api.Running{
			Session: u.id, Generation: u.generation, Observed: r.Observed, Connected: r.Connected,
		})
	}
	return out
}
