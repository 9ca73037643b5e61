package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestHerdNeverReservesTwice(t *testing.T) { synctest.Test(t, testHerdNeverReservesTwice) }

func testHerdNeverReservesTwice(t *testing.T) {
	w := newWorld(t)
	w.app()
	w.edge("one", 7)
	w.edge("two", 5)
	const herd = 200
	var mu sync.Mutex
	var made []api.Session
	var refused []error
	var all sync.WaitGroup
	for range herd {
		all.Go(func() {
			a, err := w.create()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				refused = append(refused, err)
			} else {
				made = append(made, a.Session)
			}
		})
	}
	all.Wait()
	if len(made) != 12 {
		t.Errorf("%d sessions were made on room for 12", len(made))
	}
	for _, err := range refused {
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeNoCapacity || len(e.Refusals) != 2 || e.Refusals[0].Code != api.RefusedEncoder {
			t.Fatalf("refused with %v", err)
		}
	}
	for n := range w.s.root().Nodes() {
		capacity, _ := n.Capacity(api.PoolCPU)
		if used, _ := n.Reserved(api.PoolCPU); used != capacity.Macroblocks {
			t.Errorf("%s has %d of %d reserved", n.Name, used, capacity.Macroblocks)
		}
	}
	if w.s.view.pending == nil || len(w.s.view.pending) != 0 {
		t.Errorf("pending reservations are left: %v", w.s.view.pending)
	}
	cells, err := w.s.Demand(w.ctx())
	var count uint64
	for _, c := range cells {
		count += c.Count
		if c.App != "xterm" || c.Codec != api.H264 || c.Size != "1280x720@60" || c.Reason != api.RefusedEncoder || c.Region != "eu" {
			t.Errorf("demand was counted as %+v", c)
		}
	}
	if err != nil || count != uint64(len(refused)) {
		t.Errorf("%d refusals were counted, %d happened: %v", count, len(refused), err)
	}
}

func TestRestartKeepsTheState(t *testing.T) { synctest.Test(t, testRestartKeepsTheState) }

func testRestartKeepsTheState(t *testing.T) {
	bus, data := newBus(), dataDir(t)
	w := openWorld(t, bus, data)
	w.app()
	e := w.edge("one", 4)
	token, _, err := w.s.CreateToken(w.ctx(), api.TokenSpec{Account: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	a := w.mustCreate()
	w.until(a.Session.ID, api.StatusActive)
	e.mute(true)
	w.stop()
	if _, err := w.s.Session(context.Background(), a.Session.ID); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("a stopped scheduler answers %v", err)
	}

	w = openWorld(t, bus, data)
	if v, err := w.s.Session(w.ctx(), a.Session.ID); err != nil || v.Status() != api.StatusActive {
		t.Errorf("after a restart the session is %s: %v", v.Status(), err)
	}
	if g, err := w.s.Authenticate(w.ctx(), token); err != nil || g.Account != "alice" {
		t.Errorf("after a restart the token gives %+v: %v", g, err)
	}
	if ticket, _, err := w.s.CheckTicket(w.ctx(), a.Ticket); err != nil || ticket.Session != a.Session.ID {
		t.Errorf("after a restart the ticket gives %+v: %v", ticket, err)
	}
	e.mute(false)
	w.eventually("the node is alive", func() bool {
		nodes, err := w.s.ListNodes(w.ctx())
		return err == nil && nodes[0].Alive
	})
	if err := w.s.EndSession(w.ctx(), a.Session.ID, api.EndRequest{Wait: true}); err != nil {
		t.Error(err)
	}
}

func TestGraceAtTheStart(t *testing.T) { synctest.Test(t, testGraceAtTheStart) }

func testGraceAtTheStart(t *testing.T) {
	bus, data := newBus(), dataDir(t)
	w := openWorld(t, bus, data)
	w.app()
	e := w.edge("one", 4)
	a := w.mustCreate()
	w.until(a.Session.ID, api.StatusActive)
	e.mute(true)
	w.stop()
	w = openWorld(t, bus, data)
	if v, _ := w.s.Session(w.ctx(), a.Session.ID); v.Status() != api.StatusActive {
		t.Errorf("a new leader calls a node lost at once: %s", v.Status())
	}
	if v := w.until(a.Session.ID, api.StatusError); v.Reason != api.ReasonNodeLost {
		t.Errorf("a node that stays silent leaves %q", v.Reason)
	}
}

func TestSnapshotAndRestart(t *testing.T) { synctest.Test(t, testSnapshotAndRestart) }

func testSnapshotAndRestart(t *testing.T) {
	bus, data := newBus(), dataDir(t)
	w := openWorld(t, bus, data)
	for i := range 50 {
		if _, err := w.s.PutApplication(w.ctx(), api.App{Name: "xterm", Command: []string{fmt.Sprintf("xterm-%d", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.s.replica.Load().raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.s.PutApplication(w.ctx(), api.App{Name: "after", Command: []string{"x"}}); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w = openWorld(t, bus, data)
	apps, err := w.s.Applications(w.ctx())
	if err != nil || len(apps) != 2 || apps[0].Name != "after" || apps[1].Version != 50 {
		t.Errorf("after a restart the catalogue is %+v: %v", apps, err)
	}
}

func TestSecondSchedulerOnOneDirectory(t *testing.T) {
	synctest.Test(t, testSecondSchedulerOnOneDirectory)
}

func testSecondSchedulerOnOneDirectory(t *testing.T) {
	data := dataDir(t)
	openWorld(t, newBus(), data)
	s, err := New(testConfig(t, newBus(), data))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(deadline(t, 5*time.Second)); err == nil || !strings.Contains(err.Error(), "another scheduler") {
		t.Errorf("a second scheduler on one directory: %v", err)
	}
}

// TestUnreadableEntryStops holds that a replica which meets an entry of a later
// version stops and says so, now and at its next start.
func TestUnreadableEntryStops(t *testing.T) {
	data := dataDir(t)
	for _, round := range []string{"while it runs", "at its start"} {
		s, err := New(testConfig(t, newBus(), data))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Run(context.Background()) }()
		if round == "while it runs" {
			if err := s.Ready(deadline(t, 10*time.Second)); err != nil {
				t.Fatal(err)
			}
			_ = s.replica.Load().raft.Apply([]byte{99}, time.Second)
		}
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), "version 99") || !strings.Contains(err.Error(), "install the version") {
				t.Errorf("%s: %v", round, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: it goes on", round)
		}
	}
}

func TestExternalApplication(t *testing.T) { synctest.Test(t, testExternalApplication) }

func testExternalApplication(t *testing.T) {
	var ahead atomic.Int64
	w := newWorld(t, func(c *Config) {
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	if _, err := w.s.PutApplication(w.ctx(), api.App{Name: "cave", Kind: api.AppExternal}); err != nil {
		t.Fatal(err)
	}
	a := w.mustCreate(func(r *api.CreateRequest) { r.App = "cave" })
	if a.Session.Status() != api.StatusActive || a.Session.Node != "" || a.Ticket == "" || len(a.ICEServers) != 0 {
		t.Errorf("admitted as %+v", a)
	}
	ahead.Store(int64(23 * time.Hour))
	if _, err := w.s.JoinSession(w.ctx(), a.Session.ID, api.JoinRequest{}); err != nil {
		t.Error(err)
	}
	ahead.Store(int64(25 * time.Hour))
	if v, ok := w.s.root().Live(a.Session.ID); !ok {
		t.Error("it ended while a ticket holds")
	} else if _, over := w.s.overdue(v, w.s.now()); over {
		t.Error("it is overdue while a ticket holds")
	}
	ahead.Store(int64(48 * time.Hour))
	if v := w.until(a.Session.ID, api.StatusTerminated); v.Reason != api.ReasonIdle {
		t.Errorf("ended with %q", v.Reason)
	}
}

func TestTCPTransport(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.RaftListen = "127.0.0.1:0" })
	w.app()
	st, err := w.s.Status(w.ctx())
	if err != nil || !st.Healthy || st.Replicas != 1 || st.Leader == "" {
		t.Errorf("status is %+v: %v", st, err)
	}
}

func TestConfigRefuses(t *testing.T) {
	good := testConfig(t, newBus(), dataDir(t))
	for field, change := range map[string]func(*Config){
		"data":   func(c *Config) { c.Data = "" },
		"log":    func(c *Config) { c.Log = nil },
		"bus":    func(c *Config) { c.Bus = nil },
		"lease":  func(c *Config) { c.Lease = c.HeartbeatEvery },
		"config": func(c *Config) { c.TicketLife = -1 },
	} {
		c := good
		change(&c)
		if _, err := New(c); api.CodeOf(err) != api.CodeInvalid || !strings.HasPrefix(err.Error(), field+": ") {
			t.Errorf("%s: %v", field, err)
		}
	}
	s, err := New(good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Regions(context.Background()); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("before Run it answers %v", err)
	}
	bad := good
	bad.Data = filepath.Join(good.Data, "file")
	if err := os.WriteFile(bad.Data, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err = New(bad); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(deadline(t, 5*time.Second)); err == nil {
		t.Error("a file is taken for a data directory")
	}
}

func TestCreateRefuses(t *testing.T) { synctest.Test(t, testCreateRefuses) }

func testCreateRefuses(t *testing.T) {
	w := newWorld(t)
	w.app()
	if _, err := w.s.PutApplication(w.ctx(), api.App{Name: "h264only", Command: []string{"x"}, Codecs: []api.Codec{api.H264}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.create(); refusal(err) != api.RefusedNoNodes {
		t.Errorf("without a node: %v", err)
	}
	w.edge("one", 4)
	for name, x := range map[string]struct {
		change func(*api.CreateRequest)
		code   api.Code
	}{
		"no app":           {func(r *api.CreateRequest) { r.App = "" }, api.CodeInvalid},
		"an unknown app":   {func(r *api.CreateRequest) { r.App = "none" }, api.CodeNotFound},
		"no such version":  {func(r *api.CreateRequest) { r.AppVersion = 7 }, api.CodeNotFound},
		"too wide":         {func(r *api.CreateRequest) { r.Screen.Width = 3841 }, api.CodeInvalid},
		"negative idle":    {func(r *api.CreateRequest) { r.IdleMinutes = -5 }, api.CodeInvalid},
		"another region":   {func(r *api.CreateRequest) { r.Region = "moon" }, api.CodeNoCapacity},
		"codecs disallow":  {func(r *api.CreateRequest) { r.App, r.Codecs = "h264only", []api.Codec{api.AV1} }, api.CodeInvalid},
		"too large for it": {func(r *api.CreateRequest) { r.Screen = api.Screen{Width: 3840, Height: 2160, FPS: 240} }, api.CodeNoCapacity},
		"another app":      {func(r *api.CreateRequest) { r.Grant.App = "chess" }, api.CodeForbidden},
		"unknown token":    {func(r *api.CreateRequest) { r.Grant.TokenID = "none" }, api.CodeUnauthorized},
	} {
		if _, err := w.create(x.change); api.CodeOf(err) != x.code {
			t.Errorf("%s answers %v, want %s", name, err, x.code)
		}
	}
	if n := w.s.root().LiveCount(); n != 0 {
		t.Errorf("%d sessions were made", n)
	}
}

func BenchmarkCreate(b *testing.B) {
	for _, callers := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			w := newWorld(b, func(c *Config) {
				c.Lease, c.HeartbeatEvery = time.Hour, time.Minute
				c.Log = slog.New(slog.DiscardHandler)
			})
			w.app()
			for i := range 20 {
				e := w.edge(fmt.Sprintf("n%d", i), 1_000_000)
				e.mu.Lock()
				e.manual = true
				e.mu.Unlock()
			}
			work := make(chan struct{})
			var all sync.WaitGroup
			for range callers {
				all.Go(func() {
					for range work {
						if _, err := w.create(); err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ResetTimer()
			for range b.N {
				work <- struct{}{}
			}
			close(work)
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
		})
	}
}
