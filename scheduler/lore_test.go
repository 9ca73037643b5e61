package scheduler

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

func from(address string, asn uint32) networks {
	return networksOf(api.Need{Network: address, ASN: asn})
}

// TestLoreTeaches lets a session's round trips decide the next placement.
func TestLoreTeaches(t *testing.T) {
	var l lore
	now, root := time.Unix(1, 0), state.New()
	l.remember("s", from("203.0.113.9", 64500))
	l.learn(root, api.Report{Session: "s", Node: "n", RoundTripMS: 20.5}, "n", now)
	l.learn(root, api.Report{Session: "other", Node: "n", RoundTripMS: 90}, "n", now)
	l.learn(root, api.Report{Session: "s", Node: "n"}, "n", now)
	if got := l.nodes(root, from("203.0.113.200", 64500), now); len(got) != 1 || got[0].MS != 20.5 || got[0].Shared {
		t.Errorf("its network learned %+v", got)
	}
	if got := l.nodes(root, from("203.0.114.200", 64500), now); len(got) != 1 || got[0].MS != 20.5 || !got[0].Shared {
		t.Errorf("another network of the same system learned %+v", got)
	}
	if got := l.nodes(root, from("203.0.114.200", 0), now); len(got) != 0 {
		t.Errorf("another network learned %+v", got)
	}
	for i := range loreSessions + 10 {
		l.remember(api.SessionID(fmt.Sprint("m", i)), from("203.0.113.9", 0))
	}
	if len(l.networks) != loreSessions || len(l.order) != loreSessions {
		t.Errorf("%d sessions are remembered", len(l.networks))
	}
	if _, ok := l.networks["s"]; ok {
		t.Error("the oldest was not forgotten")
	}
}

func TestLoreIsKept(t *testing.T) {
	var l lore
	now := time.Unix(1_790_000_000, 0)
	root := state.New()
	l.remember("s", from("203.0.113.9", 64500))
	for i := range 50 {
		l.learn(root, api.Report{Session: "s", Node: "n", RoundTripMS: 20 + float64(i%3)/2}, "n", now)
	}
	routes := l.changed()
	if len(routes) != 2 || l.changed() != nil {
		t.Fatalf("%d routes are to be kept, want the network's and its system's, once", len(routes))
	}
	root, _, err := root.Apply(state.EncodeAs(2, now, &state.Routes{Routes: routes}))
	if err != nil {
		t.Fatal(err)
	}
	var next lore // another leader's
	was, is := l.nodes(root, from("203.0.113.1", 0), now), next.nodes(root, from("203.0.113.1", 0), now)
	if len(is) != 1 || is[0].Samples != 50 || is[0].MS < was[0].MS-0.06 || is[0].MS > was[0].MS+0.06 || is[0].ErrorMS > was[0].ErrorMS+0.1 {
		t.Errorf("another leader knows %+v, the first one %+v", is, was)
	}
}

type asnTable map[string]uint32

func (a asnTable) ASN(address string) uint32 { return a[address] }

// TestAtlasSurvivesItsLeader holds that what sessions measured under one leader
// places clients under the next.
func TestAtlasSurvivesItsLeader(t *testing.T) { synctest.Test(t, testAtlasSurvivesItsLeader) }

func testAtlasSurvivesItsLeader(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.Networks = asnTable{"203.0.113.9": 64500, "198.51.100.7": 64500} })
	at := c.leader()
	w := c.world(at)
	w.app()
	e := w.edge("one", 4)
	a := w.mustCreate(func(r *api.CreateRequest) { r.Client.Address = "203.0.113.9" })
	w.until(a.Session.ID, api.StatusActive)
	e.mu.Lock()
	e.seq++
	r := api.Report{Node: e.node.ID, Boot: e.node.Boot, Seq: e.seq, Session: a.Session.ID, Generation: 1, Observed: api.ObservedRunning, Connected: true, RoundTripMS: 23.5}
	e.mu.Unlock()
	w.eventually("the round trip is taken in", func() bool { return e.bus.handlers().report(w.ctx(), r).OK })
	time.Sleep(keepEvery)
	// The replica that is asked next may be any: all have it.
	for i := range 3 {
		c.eventually("every replica keeps it", func() bool { return len(c.members[i].s.root().Routes("203.0.113.0/24")) == 1 })
	}
	if err := c.members[at].stop(); err != nil {
		t.Fatal(err)
	}
	left := c.world((at + 1) % 3)
	for address, source := range map[string]string{"203.0.113.80": "atlas", "198.51.100.7": "asn", "192.0.2.1": "unknown"} {
		b := left.mustCreate(func(r *api.CreateRequest) { r.Client.Address = address })
		if p := b.Session.Placement; p.Source != source || source != "unknown" && p.EstimateMS != 23.5 {
			t.Errorf("a client of %s is placed by %s at %v ms, want %s", address, p.Source, p.EstimateMS, source)
		}
	}
}
