package scheduler

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// fakeBus is a bus with simulated edges on it.
type fakeBus struct {
	mu    sync.Mutex
	edges map[api.NodeID]*fakeEdge
	up    handlers
}

type handlers struct {
	report    func(context.Context, api.Report) api.Ack
	heartbeat func(context.Context, api.Heartbeat) api.HeartbeatAnswer
}

func (b *fakeBus) handlers() handlers {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.up
}

func newBus() *fakeBus { return &fakeBus{edges: map[api.NodeID]*fakeEdge{}} }

func (b *fakeBus) OnReport(h func(context.Context, api.Report) api.Ack) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.up.report = h
	return nil
}

func (b *fakeBus) OnHeartbeat(h func(context.Context, api.Heartbeat) api.HeartbeatAnswer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.up.heartbeat = h
	return nil
}

func (b *fakeBus) Command(ctx context.Context, n api.NodeID, c api.Command) (api.Ack, error) {
	b.mu.Lock()
	e := b.edges[n]
	b.mu.Unlock()
	if e == nil {
		return api.Ack{}, api.Errorf(api.CodeUnavailable, "nobody listens")
	}
	return e.command(ctx, c)
}

// fakeEdge runs sessions in memory and reports as an edge does.
type fakeEdge struct {
	t    testing.TB
	bus  *fakeBus
	key  ed25519.PrivateKey
	node api.Node
	over chan struct{}  // closed: it tells nothing any more
	told sync.WaitGroup // reports on their way

	mu       sync.Mutex
	silent   bool // takes no command, sends nothing
	manual   bool // takes commands and reports nothing by itself
	drop     int  // commands to lose first
	seq      uint64
	running  map[api.SessionID]*api.Running
	commands []api.Command
	specs    map[api.SessionID]api.Spec
}

func (e *fakeEdge) command(ctx context.Context, c api.Command) (api.Ack, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.silent || e.drop > 0 {
		e.drop--
		return api.Ack{}, context.DeadlineExceeded
	}
	if c.Boot != e.node.Boot {
		return api.Ack{Error: "meant for another start"}, nil
	}
	e.commands = append(e.commands, c)
	if e.manual {
		return api.Ack{OK: true}, nil
	}
	switch c.Verb {
	case api.VerbStart:
		if e.running[c.Session] == nil {
			e.running[c.Session] = &api.Running{Session: c.Session, Generation: c.Generation, Observed: api.ObservedStarting}
			e.specs[c.Session] = *c.Spec
			e.told.Go(func() {
				e.tell(c.Session, c.Generation, api.ObservedStarting, "", false)
				e.set(c.Session, api.ObservedRunning)
				e.tell(c.Session, c.Generation, api.ObservedRunning, "", false)
			})
		}
	case api.VerbStop:
		delete(e.running, c.Session)
		e.told.Go(func() { e.tell(c.Session, c.Generation, api.ObservedStopped, c.Reason, false) })
	}
	return api.Ack{OK: true}, nil
}

func (e *fakeEdge) set(id api.SessionID, o api.Observed) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.running[id]; r != nil {
		r.Observed = o
	}
}

// tell sends a report until it is acknowledged.
func (e *fakeEdge) tell(id api.SessionID, g api.Generation, o api.Observed, why api.Reason, connected bool) {
	e.mu.Lock()
	e.seq++
	r := api.Report{Node: e.node.ID, Boot: e.node.Boot, Seq: e.seq, Session: id, Generation: g, Observed: o, Reason: why, Connected: connected}
	e.mu.Unlock()
	for range 200 {
		if e.bus.handlers().report(context.Background(), r).OK {
			return
		}
		select {
		case <-e.over:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (e *fakeEdge) beat() api.HeartbeatAnswer {
	e.mu.Lock()
	e.seq++
	h := api.Heartbeat{Node: e.node.ID, Boot: e.node.Boot, Seq: e.seq, Headroom: api.Headroom{Boot: e.node.Boot, Seq: e.seq}}
	for _, r := range e.running {
		h.Running = append(h.Running, *r)
	}
	silent := e.silent
	e.mu.Unlock()
	if silent {
		return api.HeartbeatAnswer{}
	}
	return e.bus.handlers().heartbeat(context.Background(), h)
}

func (e *fakeEdge) count(v api.Verb) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, c := range e.commands {
		if c.Verb == v {
			n++
		}
	}
	return n
}

func (e *fakeEdge) mute(silent bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.silent = silent
}

// world is a scheduler with its bus.
type world struct {
	t    testing.TB
	bus  *fakeBus
	s    *Server
	stop func()
}

func testConfig(t testing.TB, bus *fakeBus, data string) Config {
	return Config{
		Data: data, Bus: bus, Log: slog.New(slog.NewTextHandler(logTo(t), nil)),
		HeartbeatEvery: 40 * time.Millisecond, Lease: 400 * time.Millisecond, SweepEvery: 20 * time.Millisecond,
		CommandTimeout: 200 * time.Millisecond, EndTimeout: 5 * time.Second,
	}
}

// testWriter writes to a test's log until the test is over: raft's connections
// may have something to say still.
type testWriter struct {
	mu   sync.Mutex
	t    testing.TB
	over bool
}

func logTo(t testing.TB) *testWriter {
	w := &testWriter{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.over = true
	})
	return w
}

func (w *testWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.t.Log(string(b))
	}
	return len(b), nil
}

func newWorld(t testing.TB, change ...func(*Config)) *world {
	return openWorld(t, newBus(), dataDir(t), change...)
}

func openWorld(t testing.TB, bus *fakeBus, data string, change ...func(*Config)) *world {
	t.Helper()
	cfg := testConfig(t, bus, data)
	for _, f := range change {
		f(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	w := &world{t: t, bus: bus, s: s}
	w.stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("Run: %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Error("Run did not end within 10 s")
			}
		})
	}
	t.Cleanup(w.stop)
	if err := s.Ready(deadline(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	return w
}

func deadline(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func (w *world) ctx() context.Context { return deadline(w.t, 10*time.Second) }

// app puts the application that the tests run.
func (w *world) app() {
	w.t.Helper()
	if _, err := w.s.PutApplication(w.ctx(), api.App{Name: "xterm", Command: []string{"xterm"}}); err != nil {
		w.t.Fatal(err)
	}
}

func cpuFor(streams uint64) []api.Capacity {
	one := api.Cost(api.PoolCPU, api.H264, api.Screen{Width: 1280, Height: 720, FPS: 60})
	return []api.Capacity{{Pool: api.PoolCPU, Macroblocks: one * streams, Codecs: api.SoftwareCodecs()}}
}

// edge joins a simulated edge with room for so many 1280x720@60 H.264 streams,
// and lets its heart beat.
func (w *world) edge(name string, streams uint64, change ...func(*api.Node)) *fakeEdge {
	w.t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	e := &fakeEdge{t: w.t, bus: w.bus, key: private, over: make(chan struct{}), running: map[api.SessionID]*api.Running{}, specs: map[api.SessionID]api.Spec{}}
	e.node = api.Node{
		ID: api.NodeIDFromKey(public), Name: name, PublicKey: public, Region: "eu", Boot: "boot-1",
		Addresses: []string{"192.0.2.7"}, RelayPort: 3478, Pools: cpuFor(streams),
	}
	for _, f := range change {
		f(&e.node)
	}
	token, _, err := w.s.CreateToken(w.ctx(), api.TokenSpec{Account: "ops", Rights: []api.Right{api.RightNode}, Uses: 1})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.join(e, token); err != nil {
		w.t.Fatal(err)
	}
	w.bus.mu.Lock()
	w.bus.edges[e.node.ID] = e
	w.bus.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		tick := time.NewTicker(40 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				e.beat()
			}
		}
	}()
	w.t.Cleanup(func() {
		cancel()
		<-beating
		e.mute(true) // no report begins any more: the scheduler may still command
		close(e.over)
		e.told.Wait()
	})
	return e
}

func (w *world) join(e *fakeEdge, token string) (api.NodeJoined, error) {
	return w.s.JoinNode(w.ctx(), api.NodeJoin{
		Node: e.node, RelaySecret: []byte("0123456789abcdef0123456789abcdef"), Signature: ed25519.Sign(e.key, api.JoinPayload(e.node)), Token: token,
	}, "192.0.2.7:4711")
}

func (w *world) create(change ...func(*api.CreateRequest)) (api.Admission, error) {
	r := api.CreateRequest{App: "xterm", Joinable: true, IdleMinutes: api.IdleUnset, Grant: api.Grant{Account: "alice", Rights: []api.Right{api.RightSessions}}}
	for _, f := range change {
		f(&r)
	}
	return w.s.CreateSession(w.ctx(), r)
}

func (w *world) mustCreate(change ...func(*api.CreateRequest)) api.Admission {
	w.t.Helper()
	a, err := w.create(change...)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// until waits for a session's status.
func (w *world) until(id api.SessionID, want api.Status) api.Session {
	w.t.Helper()
	var last api.Session
	w.eventually("session "+string(id)+" is "+string(want), func() bool {
		v, err := w.s.Session(w.ctx(), id)
		last = v
		return err == nil && v.Status() == want
	})
	return last
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	w.t.Fatalf("never came true: %s", what)
}

// refusal gives why the nearest candidate was refused; "" when err is none for
// want of capacity.
func refusal(err error) api.RefusalCode {
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeNoCapacity || len(e.Refusals) == 0 {
		return ""
	}
	return e.Refusals[0].Code
}

// copyDir copies the files of a directory.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// memory is where Linux keeps files in memory: a disk that others are busy with
// makes every sync wait.
const memory = "/dev/shm"

// dataDir gives a directory that goes with the test, in memory where there is such.
func dataDir(t testing.TB) string {
	t.Helper()
	d, err := os.MkdirTemp(memory, "pgtest")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(d); err != nil {
			t.Error(err)
		}
	})
	return d
}
