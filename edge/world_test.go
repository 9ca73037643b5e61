package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// fakeBus is the schedulers' side.
type fakeBus struct {
	mu       sync.Mutex
	command  func(context.Context, api.Command) api.Ack
	signal   func(api.Signal)
	reports  []api.Report // acknowledged ones
	sent     int          // reports tried
	deaf     bool         // reports and heartbeats fail
	stopOn   api.SessionID
	beats    []api.Heartbeat
	answer   api.HeartbeatAnswer
	signals  []api.Signal
	headroom []api.Headroom
	moved    int
}

func (b *fakeBus) Move() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.moved++
}

func (b *fakeBus) OnCommand(f func(context.Context, api.Command) api.Ack) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.command = f
	return nil
}

func (b *fakeBus) OnSignal(f func(api.Signal)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.signal = f
	return nil
}

var errDeaf = errors.New("nobody answers")

func (b *fakeBus) Report(_ context.Context, r api.Report) (api.Ack, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent++
	if b.deaf {
		return api.Ack{}, errDeaf
	}
	b.reports = append(b.reports, r)
	return api.Ack{OK: true, Stop: r.Session == b.stopOn}, nil
}

func (b *fakeBus) Heartbeat(_ context.Context, h api.Heartbeat) (api.HeartbeatAnswer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.deaf {
		return api.HeartbeatAnswer{}, errDeaf
	}
	b.beats = append(b.beats, h)
	a := b.answer
	a.OK = a.Refused == ""
	return a, nil
}

func (b *fakeBus) SendSignal(s api.Signal) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.signals = append(b.signals, s)
	return nil
}

func (b *fakeBus) Publish(h api.Headroom) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.headroom = append(b.headroom, h)
}

func (b *fakeBus) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

func (b *fakeBus) is(f func() bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return f()
}

// last gives the newest acknowledged report of a session.
func (b *fakeBus) last(id api.SessionID) (r api.Report) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range b.reports {
		if x.Session == id && x.Seq > r.Seq || x.Session == id && x.Boot != r.Boot {
			r = x
		}
	}
	return r
}

// told says whether any acknowledged report is such.
func (b *fakeBus) told(such func(api.Report) bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.reports, such)
}

// world is a node with a daemon that can be ended and started again.
type world struct {
	t      *testing.T
	base   string
	bus    *fakeBus
	cfg    Config
	a      *Agent
	cancel context.CancelCauseFunc
	done   chan struct{}
	err    error
}

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	base, err := os.MkdirTemp("", "pge") // short: a unix socket's path is bounded
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, base: base, bus: &fakeBus{}}
	w.cfg = Config{
		Run: local.Run(filepath.Join(base, "run")), Bus: w.bus, Publish: w.bus, Start: fakes,
		Pools:          []api.Capacity{{Pool: api.PoolCPU, Macroblocks: 900_000, Codecs: api.SoftwareCodecs()}},
		Log:            slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		HeartbeatEvery: 20 * time.Millisecond, StopGrace: 200 * time.Millisecond,
	}
	for _, f := range change {
		f(&w.cfg)
	}
	t.Cleanup(func() {
		w.end(ErrEndSessions)
		w.nothingRuns()
		os.RemoveAll(base)
	})
	w.begin()
	return w
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// begin starts a daemon.
func (w *world) begin() {
	w.t.Helper()
	id, err := OpenIdentity(filepath.Join(w.base, "data"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.cfg.Identity = id
	if w.a, err = New(w.cfg); err != nil {
		w.t.Fatal(err)
	}
	var ctx context.Context
	ctx, w.cancel = context.WithCancelCause(context.Background())
	w.done = make(chan struct{})
	go func() {
		w.err = w.a.Run(ctx)
		id.Close()
		close(w.done)
	}()
	until(w.t, "daemon", 5*time.Second, func() bool {
		return w.bus.is(func() bool { return len(w.bus.beats) > 0 || w.bus.deaf }) || ended(w.done)
	})
}

// end ends the daemon with a cause.
func (w *world) end(cause error) {
	w.t.Helper()
	w.cancel(cause)
	select {
	case <-w.done:
	case <-time.After(20 * time.Second):
		w.t.Fatal("the daemon did not end")
	}
}

// restart ends the daemon as an upgrade does and starts the next.
func (w *world) restart() {
	w.t.Helper()
	w.end(context.Canceled)
	w.begin()
}

func ended(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

var serial atomic.Uint32

// start commands a session whose processes behave as the words say.
func (w *world) start(words ...string) api.Command { return w.startOn(api.PoolCPU, words...) }

// startOn starts a session of a pool.
func (w *world) startOn(pool api.Pool, words ...string) api.Command {
	w.t.Helper()
	c := api.Command{
		Verb: api.VerbStart, Session: api.SessionID(fmt.Sprintf("s%d", serial.Add(1))), Generation: 1, Boot: w.cfg.Identity.Boot,
		Spec: &api.Spec{
			App:  api.App{Name: "test", Command: append([]string{"app"}, words...)},
			Pool: pool, Codecs: []api.Codec{api.H264},
		},
	}
	if ack := w.a.onCommand(context.Background(), c); !ack.OK {
		w.t.Fatalf("start was refused: %+v", ack)
	}
	return c
}

// command sends another verb to a started session.
func (w *world) command(c api.Command, verb api.Verb) api.Ack {
	c.Verb, c.Spec, c.Boot = verb, nil, w.cfg.Identity.Boot
	if verb == api.VerbStop {
		c.Reason = api.ReasonDeleted
	}
	return w.a.onCommand(context.Background(), c)
}

// wait waits for a session's report.
func (w *world) wait(id api.SessionID, o api.Observed) api.Report {
	w.t.Helper()
	var r api.Report
	until(w.t, fmt.Sprintf("report %q of %s", o, id), 10*time.Second, func() bool {
		r = w.bus.last(id)
		return r.Observed == o
	})
	return r
}

// gone waits until nothing of a session is left on the node.
func (w *world) gone(c api.Command) {
	w.t.Helper()
	dir := w.cfg.Run.Session(c.Session, c.Generation)
	until(w.t, "clean end", 5*time.Second, func() bool {
		_, err := os.Stat(string(dir))
		return errors.Is(err, os.ErrNotExist) && w.a.session(c.Session) == nil
	})
	if p := w.running(filepath.Base(string(dir))); len(p) > 0 {
		w.t.Errorf("processes are left: %v", p)
	}
}

// running lists the processes whose command line holds a word.
func (w *world) running(word string) []string {
	var out []string
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && strings.Contains(string(b), w.base) && strings.Contains(string(b), word) {
			out = append(out, e.Name()+" "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return out
}

func (w *world) nothingRuns() {
	if p := w.running(""); len(p) > 0 {
		w.t.Errorf("processes are left: %v", p)
	}
}

func until(t *testing.T, what string, limit time.Duration, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %s", what, limit)
		}
		time.Sleep(3 * time.Millisecond)
	}
}
