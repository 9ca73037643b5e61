package scheduler

import (
	"testing"
	"testing/synctest"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

func (w *world) policy(p *api.PlacementPolicy) {
	w.t.Helper()
	if _, err := w.s.PutApplication(w.ctx(), api.App{Name: "xterm", Command: []string{"xterm"}, Placement: p}); err != nil {
		w.t.Fatal(err)
	}
}

// TestPolicyOfAnApplication puts policies and creates sessions under them.
func TestPolicyOfAnApplication(t *testing.T) { synctest.Test(t, testPolicyOfAnApplication) }

func testPolicyOfAnApplication(t *testing.T) {
	w := newWorld(t)
	munich := w.edge("munich", 1, func(n *api.Node) { n.Location = api.Location{Known: true, Latitude: 48.14, Longitude: 11.58} })
	berlin := w.edge("berlin", 4, func(n *api.Node) {
		n.Location, n.Labels = api.Location{Known: true, Latitude: 52.52, Longitude: 13.4}, map[string]string{"tier": "gold"}
	})
	from := func(r *api.CreateRequest) {
		r.Client.Location = api.Location{Known: true, Latitude: 48.1, Longitude: 11.5}
	}
	w.policy(&api.PlacementPolicy{Labels: api.Choice{Required: []string{"tier=gold"}}})
	if a := w.mustCreate(from); a.Session.Node != berlin.node.ID || a.Session.Placement.Rank != 2 {
		t.Errorf("a gold session runs on %s, rank %d", a.Session.Node, a.Session.Placement.Rank)
	}
	w.policy(&api.PlacementPolicy{MaxRoundTripMS: 5, MinFPS: 15})
	half := func(r *api.CreateRequest) { from(r); r.Screen.FPS = 120 }
	a := w.mustCreate(half)
	if a.Session.Node != munich.node.ID || a.Session.Screen.FPS != 60 || a.Session.Reserved != munich.node.Pools[0].Macroblocks {
		t.Errorf("with no room for 120 frames/s: on %s with %d, %d reserved", a.Session.Node, a.Session.Screen.FPS, a.Session.Reserved)
	}
	x, err := w.s.Placement(w.ctx(), a.Session.ID)
	if err != nil || x.Candidates[0].FPS != 60 || x.Candidates[1].Refusal == nil || x.Candidates[1].Refusal.Code != api.RefusedLatency || x.Policy.MinFPS != 15 {
		t.Errorf("explained by %+v: %v", x, err)
	}
	if _, err := w.create(half); api.CodeOf(err) != api.CodeNoCapacity || refusal(err) != api.RefusedEncoder {
		t.Errorf("when the near node is full: %v", err)
	}
	w.policy(nil)
	if a := w.mustCreate(from); a.Session.Node != berlin.node.ID {
		t.Errorf("without a policy the next nearest hosts it, not %s", a.Session.Node)
	}
}

// TestTrunkIsLeftToJoins keeps a share that a larger screen of a join may take.
func TestTrunkIsLeftToJoins(t *testing.T) { synctest.Test(t, testTrunkIsLeftToJoins) }

func testTrunkIsLeftToJoins(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Trunk = 0.5 })
	w.app()
	w.edge("one", 2)
	a := w.mustCreate(func(r *api.CreateRequest) { r.Joinable = true })
	if _, err := w.create(); refusal(err) != api.RefusedEncoder {
		t.Errorf("the kept half was given away: %v", err)
	}
	w.until(a.Session.ID, api.StatusActive)
	if _, err := w.s.JoinSession(w.ctx(), a.Session.ID, api.JoinRequest{Screen: api.Screen{Width: 1280, Height: 720, FPS: 120}}); err != nil {
		t.Errorf("a join may not use what is kept for it: %v", err)
	}
}

// TestProbesDecide lets a client's own measurements overrule the map.
func TestProbesDecide(t *testing.T) { synctest.Test(t, testProbesDecide) }

func testProbesDecide(t *testing.T) {
	w := newWorld(t)
	w.app()
	near := w.edge("near", 4, func(n *api.Node) { n.Location = api.Location{Known: true, Latitude: 48.14, Longitude: 11.58} })
	far := w.edge("far", 4, func(n *api.Node) { n.Location = api.Location{Known: true, Latitude: 52.52, Longitude: 13.4} })
	a := w.mustCreate(func(r *api.CreateRequest) {
		r.Client.Location = api.Location{Known: true, Latitude: 48.1, Longitude: 11.5}
		r.Probes = []api.Probe{{Node: near.node.ID, RoundTripMS: 80}, {Node: far.node.ID, RoundTripMS: 15}}
	})
	if p := a.Session.Placement; a.Session.Node != far.node.ID || p.Source != "probe" || p.EstimateMS != 15 || p.Rank != 1 {
		t.Errorf("placed on %s by %+v", a.Session.Node, p)
	}
}

// TestEveryReplicaExplains asks each for what the leader placed.
func TestEveryReplicaExplains(t *testing.T) { synctest.Test(t, testEveryReplicaExplains) }

func testEveryReplicaExplains(t *testing.T) {
	c := newCluster(t, 3)
	w := c.world(c.follower())
	w.app()
	e := w.edge("one", 4)
	a := w.mustCreate()
	for i := range c.members {
		o := c.world(i)
		x, err := o.s.Placement(o.ctx(), a.Session.ID)
		if err != nil || x.Session != a.Session.ID || len(x.Candidates) != 1 || x.Candidates[0].Node != e.node.ID {
			t.Errorf("member %d explains %+v: %v", i, x, err)
		}
		if _, err := o.s.Placement(o.ctx(), "never"); api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("member %d on a session that never was: %v", i, err)
		}
	}
}

// A preset that the entries cannot carry must not be promised: the node would
// encode with the usual one at the faster one's price.
func TestPresetWaitsForItsEntryVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for version, want := range map[int]bool{1: false, state.EntryVersion: true} {
			w := newWorld(t, func(c *Config) { c.EntryVersion = version })
			w.edge("one", 1)
			w.eventually("the version is written", func() bool { return w.s.root().EntryVersion() == version })
			app := api.App{Placement: &api.PlacementPolicy{LowerPreset: true}}
			var need api.Need
			w.s.ruled(w.s.root(), &need, app, "")
			if need.Policy.LowerPreset != want || !app.Placement.LowerPreset {
				t.Errorf("version %d: a lower preset is allowed: %v, want %v", version, need.Policy.LowerPreset, want)
			}
		}
	})
}
