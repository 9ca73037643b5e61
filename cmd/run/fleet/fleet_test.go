package fleet

import (
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/edge/local"
)

// size gives the run that make test does, or the one that PERIGEE_FLEET holds.
func size(t *testing.T) Size {
	s := Size{Config: Config{Seed: 1, Replicas: 3, Regions: 4, Edges: 20, Streams: 4, Span: 4 * time.Minute, Rate: 0.5, Stay: time.Minute}}
	if text := os.Getenv(SizeVariable); text != "" {
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatalf("read %s: %v", SizeVariable, err)
		}
	}
	c := &s.Config
	if !s.Calm {
		c.Steps = Everything(c.Span, c.Regions)
	}
	c.Log = slog.New(slog.DiscardHandler)
	if testing.Verbose() && s.Out == "" {
		c.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	var err error
	// In memory where there is such: a busy disk makes every sync wait. Short:
	// sockets would lie in it.
	if c.Dir, err = os.MkdirTemp("/dev/shm", "pgtest"); err != nil {
		if c.Dir, err = os.MkdirTemp("", "pgtest"); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.RemoveAll(c.Dir) })
	return s
}

// TestFleetSurvives lets everything that a fleet must bear happen to a small
// one, or to as large a one as bench asks for.
func TestFleetSurvives(t *testing.T) {
	s := size(t)
	var r Result
	synctest.Test(t, func(t *testing.T) {
		var err error
		if r, err = Run(t.Context(), s.Config); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%d sessions, %d refused, %d creates without an answer, %d packets; without a write: %v when a leader was lost, %v when it was cut off; create p50 %v p95 %v, gossip p50 %v p95 %v",
		r.Created, r.Refused, r.Unanswered, r.Packets, r.LeaderLoss, r.LeaderCut, r.Create[Quantiles/2], r.Create[Quantiles-1], r.Gossip[Quantiles/2], r.Gossip[Quantiles-1])
	t.Log("nodes that were declared lost:", r.NodesLost)
	for _, v := range r.Findings {
		t.Error(v)
	}
	rounds := len(s.Config.Steps) / len(Everything(0, s.Config.Regions))
	if r.Violations > 0 || float64(r.Created+r.Refused) < s.Config.Rate*s.Config.Span.Seconds()/2 || len(r.LeaderLoss) != rounds || len(r.LeaderCut) != 2*rounds {
		t.Errorf("%d violations, %d sessions, %d and %d outages measured", r.Violations, r.Created, len(r.LeaderLoss), len(r.LeaderCut))
	}
	for _, d := range append(r.LeaderLoss, r.LeaderCut...) {
		if d > 3*time.Second {
			t.Errorf("no write was acknowledged for %s", d)
		}
	}
	if s.Out == "" {
		return
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Out, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestChecksFind holds that what must never be would be found.
func TestChecksFind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &Fleet{cfg: Config{Replicas: 1, Regions: 1, Edges: 2, Streams: 1, Dir: t.TempDir()}, regions: regionsOf(1), regionOf: map[string]int{}, byNode: map[api.NodeID]*node{}, suspect: map[string]time.Time{}}
		f.build()
		defer f.net.Close()
		run := func(n *node, id string, role edge.Role) {
			dir := local.Run(n.dir).Session(api.SessionID(id), 1)
			if err := os.MkdirAll(string(dir), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := dir.WriteSpec(api.Spec{Pool: api.PoolCPU, Codecs: []api.Codec{api.H264}, Screen: api.Screen{Width: 1280, Height: 720, FPS: 60}}); err != nil {
				t.Fatal(err)
			}
			if _, err := n.kids.Start(role, dir); err != nil {
				t.Fatal(err)
			}
		}
		found := func(what string) {
			t.Helper()
			if len(f.result.Findings) != 1 || !strings.Contains(f.result.Findings[0], what) {
				t.Errorf("found %q, want one with %q", f.result.Findings, what)
			}
			f.result.Findings = nil
		}
		run(f.nodes[0], "one", edge.RoleShim)
		run(f.nodes[1], "one", edge.RoleShim)
		f.checkMachines()
		found("runs on")
		run(f.nodes[0], "two", edge.RoleStream)
		run(f.nodes[0], "three", edge.RoleStream)
		f.nodes[1].kids.killAll()
		f.checkMachines()
		found("encodes")
		f.nodes[0].kids.killAll()
		f.nodes[0].id = "n0"
		f.byNode["n0"] = f.nodes[0]
		f.checkReconciled([]api.NodeView{{Node: api.Node{ID: "n0"}, Alive: true, Reserved: map[api.Pool]uint64{api.PoolCPU: 7}}}, nil)
		found("are reserved")
		f.persistent(map[string]bool{"odd": true})
		time.Sleep(2 * wrongFor)
		f.persistent(map[string]bool{"odd": true})
		found("odd")
	})
}
