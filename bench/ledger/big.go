package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// Big is how much a replica holds in the measurement of its size.
type Big struct{ Nodes, Live, Finished int }

// BigResult is what such a replica takes.
type BigResult struct {
	RSS      uint64        // bytes, after creates and a snapshot under them
	Snapshot time.Duration // how long writing the snapshot took
	Calm     time.Duration // longest create in as long a time without one
	Stall    time.Duration // longest create while it was written
}

const (
	bigSeed   = 3
	bigEntry  = 512 // commands
	bigWarmUp = 2 * time.Second
)

// Prepare writes the data directory of a lone replica with so much in it.
func Prepare(ctx context.Context, dir string, b Big) error {
	e, index := newEdges(newRand(bigSeed), b.Nodes, 1<<20)
	root, err := e.fill(b)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "state.snap")
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("make snapshot: %w", err)
	}
	if _, err = root.WriteTo(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return errors.Join(fmt.Errorf("read snapshot: %w", err), f.Close())
	}
	err = alone(ctx, dir, wire{e, 0, index}, func(ctx context.Context, s *scheduler.Server) error {
		return s.RestoreSnapshot(ctx, f)
	})
	return errors.Join(err, f.Close(), os.Remove(file))
}

// alone runs a lone replica while do does.
func alone(ctx context.Context, dir string, bus scheduler.Bus, do func(context.Context, *scheduler.Server) error) error {
	s, err := scheduler.New(scheduler.Config{Data: dir, Log: slog.New(slog.DiscardHandler), Bus: bus, HeartbeatEvery: beatEvery})
	if err != nil {
		return fmt.Errorf("make replica: %w", err)
	}
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.Run(run) }()
	err = s.Ready(ctx)
	if err == nil {
		err = do(ctx, s)
	}
	cancel()
	return errors.Join(err, <-done)
}

// fill makes the state: sessions that run on all nodes, and ended ones.
func (e *edges) fill(b Big) (*state.State, error) {
	root, now := state.New(), time.Now()
	apply := func(cmds []state.Command) error {
		next, results, err := root.Apply(state.EncodeAs(state.EntryVersion, now, cmds...))
		if err != nil {
			return fmt.Errorf("fill state: %w", err)
		}
		for _, r := range results {
			if r.Err != nil {
				return fmt.Errorf("fill state: %w", r.Err)
			}
		}
		root = next
		return nil
	}
	app, err := json.Marshal(api.App{Name: App, Kind: api.AppProgram, Command: []string{"game"}})
	if err != nil {
		return nil, fmt.Errorf("write application: %w", err)
	}
	cmds := []state.Command{&state.PutApp{Doc: app}, &state.PutToken{Account: "bench", ID: strings.Repeat("a", 64),
		Rights: []api.Right{api.RightSessions}, Expires: now.Add(time.Hour), Uses: -1}, &state.Raise{Version: state.EntryVersion}}
	for i := range e.nodes {
		doc, err := json.Marshal(e.nodes[i].Node)
		if err != nil {
			return nil, fmt.Errorf("write node: %w", err)
		}
		cmds = append(cmds, &state.PutNode{Doc: doc, RelaySecret: e.nodes[i].secret, Token: strings.Repeat("a", 64)})
	}
	for i := 0; i < b.Live+b.Finished; i++ {
		if len(cmds) >= bigEntry {
			if err := apply(cmds); err != nil {
				return nil, err
			}
			cmds = cmds[:0]
		}
		create, report := e.bigSession(i)
		if i >= b.Live {
			report.Observed = api.ObservedStopped
		}
		cmds = append(cmds, create, report)
	}
	return root, apply(cmds)
}

// bigSession gives a session's create and its report.
func (e *edges) bigSession(i int) (*state.Create, *state.Report) {
	n := &e.nodes[i%len(e.nodes)]
	id := bigID(i)
	return &state.Create{
			ID: id, Generation: 1, Account: "bench", Token: strings.Repeat("a", 64), App: App, AppVersion: 1, Region: n.Region, Node: n.ID,
			Pool: api.PoolCPU, Codec: api.H264, Codecs: api.Codecs(), Reserved: e.cost, Screen: api.Screen{Width: 1280, Height: 720, FPS: 60, Density: 240},
			IdleMinutes: api.IdleUnset, Ephemeral: true, Placement: api.Placement{Rank: 1, DistanceKM: 120, EstimateMS: 9, ErrorMS: 3, Source: "distance"},
		}, &state.Report{
			ID: id, Generation: 1, Node: n.ID, Boot: n.Boot, Seq: 1, Observed: api.ObservedRunning, Connected: true,
		}
}

func bigID(i int) api.SessionID {
	var b [api.SessionIDBytes]byte
	copy(b[:], strconv.Itoa(i))
	return api.NewSessionID(b)
}

// Measure runs the prepared replica in this process, as its leader, with all its
// nodes' heartbeats: creates one after another, then the same while a snapshot
// is written.
func Measure(ctx context.Context, dir string, b Big) (r BigResult, err error) {
	e, index := newEdges(newRand(bigSeed), b.Nodes, 1<<20)
	for i := range b.Live {
		n := i % b.Nodes
		e.running[n] = append(e.running[n], api.Running{Session: bigID(i), Generation: 1, Observed: api.ObservedRunning, Connected: true})
	}
	err = alone(ctx, dir, wire{e, 0, index}, func(ctx context.Context, s *scheduler.Server) error {
		beating, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { e.beat(beating); close(done) }()
		defer func() { stop(); <-done }()
		rnd := newRand(9)
		c := &Cluster{edges: e, Servers: []*scheduler.Server{s}}
		creates := func(until func(time.Time) bool) (longest time.Duration, err error) {
			for began := time.Now(); until(began); began = time.Now() {
				if _, err := c.Create(ctx, 0, Somewhere(rnd)); err != nil {
					return longest, fmt.Errorf("create on a big replica: %w", err)
				}
				longest = max(longest, time.Since(began))
			}
			return longest, nil
		}
		during := func(d time.Duration) func(time.Time) bool {
			until := time.Now().Add(d)
			return func(at time.Time) bool { return at.Before(until) }
		}
		if _, err := creates(during(bigWarmUp)); err != nil {
			return err
		}
		began := time.Now()
		written := make(chan error, 1)
		go func() { written <- s.Compact() }()
		var failed error
		r.Stall, err = creates(func(time.Time) bool {
			select {
			case failed = <-written:
				return false
			default:
				return true
			}
		})
		r.Snapshot = time.Since(began)
		if err = errors.Join(err, failed); err != nil {
			return err
		}
		if r.Calm, err = creates(during(r.Snapshot)); err != nil {
			return err
		}
		r.RSS, err = resident()
		return err
	})
	return r, err
}

// resident is this process's memory, bytes.
func resident() (uint64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read memory: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, errors.New("read memory: no VmRSS")
}
