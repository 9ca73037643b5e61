package scheduler

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// TestKnowledgeOutlivesALeadership hands the leadership on: why sessions run
// where they do, what was refused, and what was learned is there afterwards,
// whichever replica is asked.
func TestKnowledgeOutlivesALeadership(t *testing.T) {
	synctest.Test(t, testKnowledgeOutlivesALeadership)
}

func testKnowledgeOutlivesALeadership(t *testing.T) {
	c := newCluster(t, 3)
	first := c.leader()
	w := c.world(first)
	w.app()
	e := w.edge("one", 1)
	w.eventually("the entries can say it", func() bool { return w.s.root().EntryVersion() == state.EntryVersion })
	a := w.mustCreate(func(r *api.CreateRequest) { r.Client.Address = "203.0.113.9" })
	w.until(a.Session.ID, api.StatusActive)
	for range 3 {
		if _, err := w.create(); refusal(err) != api.RefusedEncoder {
			t.Fatal(err)
		}
	}
	e.mu.Lock()
	e.seq++
	r := api.Report{Node: e.node.ID, Boot: e.node.Boot, Seq: e.seq, Session: a.Session.ID, Generation: 1, Observed: api.ObservedRunning, Connected: true, RoundTripMS: 23.5}
	e.mu.Unlock()
	w.eventually("the round trip is taken in", func() bool { return e.bus.handlers().report(w.ctx(), r).OK })
	w.s.Yield()
	c.eventually("another replica leads", func() bool { at := c.leader(); return at >= 0 && at != first })
	// It learned nothing itself: it has what was handed on before any timer.
	for i := range c.members {
		c.eventually("every replica keeps the round trip", func() bool { return len(c.members[i].s.root().Routes("203.0.113.0/24")) == 1 })
	}
	if _, err := c.world(c.leader()).create(); refusal(err) != api.RefusedEncoder {
		t.Fatal(err)
	}
	for i := range c.members {
		o := c.world(i)
		x, err := o.s.Placement(o.ctx(), a.Session.ID)
		if err != nil || x.Session != a.Session.ID || len(x.Candidates) != 1 {
			t.Errorf("member %d explains %+v: %v", i, x, err)
		}
		list, err := o.s.Refusals(o.ctx(), 100)
		if err != nil || len(list) != 4 || list[0].At.Before(list[3].At) {
			t.Errorf("member %d lists %d refused requests, want those of both leaders: %v", i, len(list), err)
		}
		if few, err := o.s.Refusals(o.ctx(), 2); err != nil || len(few) != 2 || few[0].Session != list[0].Session {
			t.Errorf("member %d lists %d of the latest two: %v", i, len(few), err)
		}
		cells, err := o.s.Demand(o.ctx())
		total := uint64(0)
		for _, cell := range cells {
			total += cell.Count
		}
		if err != nil || total != 4 {
			t.Errorf("member %d counts %d refused requests in %+v: %v", i, total, cells, err)
		}
	}
	if err := c.members[first].stop(); err != nil {
		t.Fatal(err)
	}
	o := c.world((first + 1) % 3)
	if _, err := o.s.Placement(o.ctx(), a.Session.ID); api.CodeOf(err) != api.CodeNotFound || !strings.Contains(err.Error(), "1 replicas did not answer") {
		t.Errorf("without the disk that has it: %v", err)
	}
}

func TestInheritedCounts(t *testing.T) {
	var d demand
	d.cells = map[api.DemandCell]uint64{}
	now := time.Unix(600, 0)
	need := api.Need{App: "a", Codecs: []api.Codec{api.H264}}
	d.count(now, need, nil)
	own := d.present()[0]
	old := own
	old.Minute, old.Count = 9, 7
	own.Count = 4
	if over := d.add(now, []api.DemandCell{own, old}); len(over) != 1 || over[0] != old {
		t.Errorf("of minutes that are over there are %+v", over)
	}
	if got := d.take(); len(got) != 1 || got[0].Count != 5 {
		t.Errorf("this minute has %+v", got)
	}
	if got := d.take(); len(got) != 0 {
		t.Errorf("it is given twice: %+v", got)
	}
	many := make([]api.DemandCell, 2*maxCells)
	for i := range many {
		many[i] = own
		many[i].Size, many[i].Count = strings.Repeat("x", i+1), 1
	}
	d.add(now, many)
	total := uint64(0)
	got := d.take()
	for _, c := range got {
		total += c.Count
	}
	if len(got) != maxCells || total != uint64(len(many)) {
		t.Errorf("%d cells count %d", len(got), total)
	}
}

// TestInheritsOnce hands two minutes on, one of them with more cells than an entry
// takes, and asks again: each cell is counted once, under its own minute.
func TestInheritsOnce(t *testing.T) {
	w := newWorld(t)
	now := w.s.now().Unix() / 60
	l := legacy{ID: "h1"}
	for i := range 70 {
		l.Cells = append(l.Cells, api.DemandCell{Minute: now - 3, App: "a", Size: strings.Repeat("x", i+1), Count: 1})
	}
	for i := range 30 {
		l.Cells = append(l.Cells, api.DemandCell{Minute: now - 2, App: "b", Size: strings.Repeat("x", i+1), Count: 1})
	}
	counted := func() map[int64]uint64 {
		cells, err := w.s.Demand(w.ctx())
		if err != nil {
			t.Fatal(err)
		}
		of := map[int64]uint64{}
		for _, c := range cells {
			if (c.Minute == now-3) != (c.App == "a") {
				t.Errorf("%+v is under another's minute", c)
			}
			of[c.Minute] += c.Count
		}
		return of
	}
	for range 3 {
		if _, err := w.s.inherit(w.ctx(), l); err != nil {
			t.Fatal(err)
		}
	}
	if got := counted(); got[now-3] != 70 || got[now-2] != 30 {
		t.Errorf("handed on three times it counts %v", got)
	}
	l.ID = "h2"
	if _, err := w.s.inherit(w.ctx(), l); err != nil {
		t.Fatal(err)
	}
	if got := counted(); got[now-3] != 140 || got[now-2] != 60 {
		t.Errorf("with another replica's it counts %v", got)
	}
	w.s.demand.forget(handedPart{"h2", now - 2})
	if w.s.demand.first(handedPart{"h2", now - 3}) || !w.s.demand.first(handedPart{"h2", now - 2}) {
		t.Error("what failed cannot be handed on again")
	}
	for i := range int64(2 * keptParts) {
		w.s.demand.first(handedPart{"h3", i})
	}
	if n := len(w.s.demand.handed); n != keptParts {
		t.Errorf("%d parts are remembered", n)
	}
}
