package scheduler

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// at places a node that tests join, with its own region.
func at(region string, latitude, longitude float64) func(*api.Node) {
	return func(n *api.Node) {
		n.Region = region
		n.Location = api.Location{Latitude: latitude, Longitude: longitude, Known: true, RadiusKM: 1}
	}
}

func (w *world) probes(c api.Location) (names []string, targets []api.ProbeTarget) {
	w.t.Helper()
	targets, err := w.s.Probes(w.ctx(), api.Client{Location: c}, api.Grant{Account: "alice"})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range targets {
		n, ok := w.s.root().Node(p.Node)
		if !ok || n.Region != p.Region {
			w.t.Fatalf("offered %+v, which is not %+v", p, n)
		}
		names = append(names, n.Name)
	}
	return names, targets
}

func TestProbesAreTheNearestSites(t *testing.T) { synctest.Test(t, testProbesAreTheNearestSites) }

func testProbesAreTheNearestSites(t *testing.T) {
	w := newWorld(t)
	w.edge("frankfurt", 4, at("eu", 50.11, 8.68))
	w.edge("frankfurt-large", 8, at("eu", 50.12, 8.69)) // the same site
	w.edge("paris", 4, at("eu", 48.86, 2.35))
	w.edge("virginia", 4, at("us", 38.95, -77.45))
	w.edge("tokyo", 4, at("asia", 35.68, 139.69))
	w.edge("nowhere", 4)
	if err := w.s.SetDrain(w.ctx(), w.edge("draining", 4, at("eu", 49, 2)).node.ID, true); err != nil {
		t.Fatal(err)
	}
	w.edge("unreachable", 4, at("eu", 49, 3), func(n *api.Node) { n.RelayPort = 0 })
	w.edge("by-name", 4, at("eu", 49, 4), func(n *api.Node) { n.Relay = []string{"stun:relay.example.com:3478"} })
	reims := api.Location{Latitude: 49.26, Longitude: 4.03, RadiusKM: 10, Known: true}
	if got, _ := w.probes(reims); !slices.Equal(got, []string{"paris", "frankfurt-large", "virginia"}) {
		t.Errorf("a client in Reims measures %v", got)
	}
	// With a wide error any of them may be the nearest.
	reims.RadiusKM = 8000
	if got, _ := w.probes(reims); !slices.Equal(got, []string{"paris", "frankfurt-large", "virginia", "tokyo"}) {
		t.Errorf("a client of a wide area measures %v", got)
	}
}

func TestProbesOfOneSite(t *testing.T) { synctest.Test(t, testProbesOfOneSite) }

func testProbesOfOneSite(t *testing.T) {
	w := newWorld(t)
	if got, _ := w.probes(api.Location{}); len(got) != 0 {
		t.Errorf("without nodes a client measures %v", got)
	}
	w.edge("small", 1, at("eu", 50.11, 8.68))
	w.edge("large", 9, at("eu", 50.11, 8.68))
	w.edge("middle", 5, at("eu", 50.11, 8.68))
	if got, _ := w.probes(api.Location{}); !slices.Equal(got, []string{"large", "middle", "small"}) {
		t.Errorf("a client of unknown place measures %v", got)
	}
	if got, _ := w.probes(api.Location{Latitude: 50, Longitude: 8, Known: true}); !slices.Equal(got, []string{"large", "middle"}) {
		t.Errorf("a client near a single site measures %v", got)
	}
}

func TestProbesOfUnknownClientSpread(t *testing.T) { synctest.Test(t, testProbesOfUnknownClientSpread) }

func testProbesOfUnknownClientSpread(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.DefaultRegion = "eu" })
	w.edge("asia", 2, at("asia", 35.68, 139.69))
	w.edge("us", 8, at("us", 38.95, -77.45))
	w.edge("us-2", 7, at("us", 38.95, -77.45))
	lost := w.edge("eu", 1)
	if got, _ := w.probes(api.Location{}); !slices.Equal(got, []string{"eu", "us", "asia", "us-2"}) {
		t.Errorf("a client of unknown place measures %v", got)
	}
	lost.mute(true)
	w.eventually("a lost node is not offered", func() bool {
		got, _ := w.probes(api.Location{})
		return slices.Equal(got, []string{"us", "asia", "us-2"})
	})
}

func TestProbeTargetsCanBeMeasured(t *testing.T) { synctest.Test(t, testProbeTargetsCanBeMeasured) }

func testProbeTargetsCanBeMeasured(t *testing.T) {
	w := newWorld(t)
	e := w.edge("one", 4, func(n *api.Node) { n.Addresses = []string{"192.0.2.7", "2001:db8::7"} })
	_, first := w.probes(api.Location{})
	_, second := w.probes(api.Location{})
	if len(first) != 1 || len(second) != 1 || first[0].Ticket == second[0].Ticket {
		t.Fatalf("got %+v, then %+v", first, second)
	}
	p := first[0]
	if !slices.Equal(p.Addresses, []string{"192.0.2.7:3478", "[2001:db8::7]:3478"}) {
		t.Errorf("its addresses are %v", p.Addresses)
	}
	ticket, err := api.ParseProbeTicket(p.Ticket, w.s.now())
	if err != nil || ticket.Node != e.node.ID || ticket.Expires > w.s.now().Add(api.ProbeLife).Unix() {
		t.Errorf("the ticket is %+v, %v", ticket, err)
	}
	if p.Password != api.ProbePassword([]byte("0123456789abcdef0123456789abcdef"), p.Ticket) {
		t.Error("the node does not know the password")
	}
}

// Building the atlas is bounded: it is kept for two hundred times what it took,
// or for up to a second where that is more.
func TestProbeAtlasIsKept(t *testing.T) { synctest.Test(t, testProbeAtlasIsKept) }

func testProbeAtlasIsKept(t *testing.T) {
	w := newWorld(t)
	w.edge("one", 1)
	now := time.Unix(1_800_000_000, 0)
	took := 10 * time.Millisecond
	s := &Server{cfg: w.s.cfg}
	s.replica.Store(w.s.replica.Load())
	s.cfg.Clock = func() time.Time { now = now.Add(took); return now }
	first := s.probing.atlas(s)
	took = 0
	now = now.Add(atlasShare*10*time.Millisecond - time.Nanosecond)
	if s.probing.atlas(s) != first {
		t.Error("it was built again too soon")
	}
	now = now.Add(time.Nanosecond)
	if s.probing.atlas(s) == first {
		t.Error("it is never built again")
	}
	for built, kept := range map[time.Duration]time.Duration{100 * time.Microsecond: 100 * time.Millisecond, 2 * time.Millisecond: time.Second} {
		s.probing.known, took = nil, built
		first = s.probing.atlas(s)
		took = 0
		if now = now.Add(kept - time.Nanosecond); s.probing.atlas(s) != first {
			t.Errorf("built in %s, it was built again too soon", built)
		}
		if now = now.Add(time.Nanosecond); s.probing.atlas(s) == first {
			t.Errorf("built in %s, it is kept for too long", built)
		}
	}
}

func TestMeasuredRoundTripsAreNeeded(t *testing.T) {
	probes := []api.Probe{{Node: "n1", RoundTripMS: 12}}
	need, err := needOf(api.CreateRequest{Probes: probes}, api.App{Name: "xterm"})
	if err != nil || !slices.Equal(need.Probes, probes) {
		t.Errorf("got %+v, %v", need, err)
	}
}

func TestEveryReplicaOffersAndTakesProbes(t *testing.T) {
	synctest.Test(t, testEveryReplicaOffersAndTakesProbes)
}

func testEveryReplicaOffersAndTakesProbes(t *testing.T) {
	c := newCluster(t, 3)
	w := c.world(c.follower())
	w.app()
	e := w.edge("one", 100)
	for i := range c.members {
		o := c.world(i)
		o.eventually("the node is offered", func() bool {
			names, _ := o.probes(api.Location{})
			return slices.Equal(names, []string{"one"})
		})
	}
	a := w.mustCreate(func(r *api.CreateRequest) { r.Probes = []api.Probe{{Node: e.node.ID, RoundTripMS: 12}} })
	if p := a.Session.Placement; p.Source != "probe" || p.EstimateMS != 12 {
		t.Errorf("placed by %+v", p)
	}
}
