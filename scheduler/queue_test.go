package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func waits(seconds int) func(*api.CreateRequest) {
	return func(r *api.CreateRequest) { r.WaitS = seconds }
}

func of(account string) func(*api.CreateRequest) {
	return func(r *api.CreateRequest) { r.Grant.Account = account }
}

func (w *world) position(id api.SessionID) int {
	w.t.Helper()
	v, err := w.s.Session(w.ctx(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	if v.Queue == nil {
		return 0
	}
	return v.Queue.Position
}

func TestWhoWaitsGetsFreedRoom(t *testing.T) { synctest.Test(t, testWhoWaitsGetsFreedRoom) }

func testWhoWaitsGetsFreedRoom(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.edge("one", 1)
	first := w.mustCreate()
	w.until(first.Session.ID, api.StatusActive)
	if _, err := w.create(); refusal(err) != api.RefusedEncoder {
		t.Fatalf("one that does not ask to wait: %v", err)
	}
	a1, a2 := w.mustCreate(waits(60)), w.mustCreate(waits(60))
	b1 := w.mustCreate(waits(60), of("bob"))
	if q := a1.Session.Queue; q == nil || q.Position != 1 || a1.Session.Status() != api.StatusCreated || a1.Session.Node != "" || a1.Session.Reserved != 0 {
		t.Fatalf("the first to wait is %s with %+v", a1.Session.Status(), q)
	}
	// Accounts take turns.
	if p1, p2 := w.position(b1.Session.ID), w.position(a2.Session.ID); p1 != 2 || p2 != 3 {
		t.Errorf("the other account's stands at %d, the account's second at %d", p1, p2)
	}
	time.Sleep(2 * time.Second)
	began := time.Now()
	if err := w.s.EndSession(w.ctx(), first.Session.ID, api.EndRequest{Wait: true}); err != nil {
		t.Fatal(err)
	}
	v := w.until(a1.Session.ID, api.StatusActive)
	t.Logf("the head had its place and ran %s after the end was asked for", time.Since(began).Round(time.Millisecond))
	if v.Node != e.node.ID || v.Queue != nil || v.PlacedAt.IsZero() {
		t.Errorf("placed it is %+v", v)
	}
	if x, err := w.s.Placement(w.ctx(), v.ID); err != nil || x.WaitedS <= 0 || x.Candidates[0].Node != e.node.ID {
		t.Errorf("its explanation: %+v, %v", x, err)
	}
	// The ticket of the create admits to it.
	if _, s, err := w.s.CheckTicket(w.ctx(), a1.Ticket); err != nil || s.Node != e.node.ID {
		t.Errorf("its ticket: %v", err)
	}
	// A newcomer does not pass those who wait.
	if err := w.s.EndSession(w.ctx(), a1.Session.ID, api.EndRequest{Wait: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.create(of("carol")); refusal(err) != api.RefusedEncoder {
		t.Errorf("a newcomer: %v", err)
	}
	w.until(b1.Session.ID, api.StatusActive)
	if p := w.position(a2.Session.ID); p != 1 {
		t.Errorf("the last one stands at %d", p)
	}
}

func TestLeavingFreesThePlace(t *testing.T) { synctest.Test(t, testLeavingFreesThePlace) }

func testLeavingFreesThePlace(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.WaitAlive = 600 * time.Millisecond })
	w.app()
	w.edge("one", 1)
	w.mustCreate()
	deleted, silent, stays := w.mustCreate(waits(60)), w.mustCreate(waits(60)), w.mustCreate(waits(60))
	vain := w.mustCreate(waits(1))
	if err := w.s.EndSession(w.ctx(), deleted.Session.ID, api.EndRequest{Wait: true}); err != nil {
		t.Fatal(err)
	}
	ask := func() bool { return w.position(stays.Session.ID) == 1 }
	w.eventually("the others have left", ask)
	root := w.s.root()
	for id, want := range map[api.SessionID]api.Reason{deleted.Session.ID: api.ReasonDeleted, silent.Session.ID: api.ReasonClientLeft} {
		if v, ok := root.Session(id); !ok || v.Reason != want || v.Status() != api.StatusTerminated {
			t.Errorf("%s is %s for %q, want %q", id, v.Status(), v.Reason, want)
		}
	}
	w.eventually("the impatient one is over", func() bool {
		ask()
		v, ok := w.s.root().Session(vain.Session.ID)
		return ok && api.Final(v.Observed)
	})
	w.eventually("the one that is asked for is the only one", func() bool { ask(); return w.s.root().WaitingCount() == 1 })
}

func TestImpatientWaitIsRefusedDemand(t *testing.T) {
	synctest.Test(t, testImpatientWaitIsRefusedDemand)
}

func testImpatientWaitIsRefusedDemand(t *testing.T) {
	w := newWorld(t)
	w.app()
	w.edge("one", 1)
	w.mustCreate()
	a := w.mustCreate(waits(1))
	v := w.until(a.Session.ID, api.StatusError)
	if v.Reason != api.ReasonNoCapacity {
		t.Errorf("it ended for %q", v.Reason)
	}
	cells, err := w.s.Demand(w.ctx())
	if err != nil || len(cells) != 1 || cells[0].Count != 1 || cells[0].Reason != api.RefusedEncoder {
		t.Errorf("demand: %+v, %v", cells, err)
	}
}

func TestQueueRefusesWhatCannotFit(t *testing.T) { synctest.Test(t, testQueueRefusesWhatCannotFit) }

func testQueueRefusesWhatCannotFit(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.QueueLength, c.QueueAccount, c.QueueWait = 3, 2, 30*time.Second })
	w.app()
	w.edge("one", 1)
	w.mustCreate()
	big := func(r *api.CreateRequest) { r.Screen = api.Screen{Width: 3840, Height: 2160, FPS: 60} }
	if _, err := w.create(waits(60), big); refusal(err) != api.RefusedSize {
		t.Errorf("larger than any node: %v", err)
	}
	if _, err := w.create(waits(60), func(r *api.CreateRequest) { r.Region = "us" }); refusal(err) != api.RefusedRegion {
		t.Errorf("a region without nodes: %v", err)
	}
	a := w.mustCreate(waits(3600))
	if left := a.Session.Queue.Until.Sub(a.Session.CreatedAt); left > 31*time.Second {
		t.Errorf("it may wait %s, the operator allows 30 s", left)
	}
	w.mustCreate(waits(60))
	if _, err := w.create(waits(60)); api.CodeOf(err) != api.CodeNoCapacity || !strings.Contains(err.Error(), "this account") {
		t.Errorf("a third of one account: %v", err)
	}
	w.mustCreate(waits(60), of("bob"))
	if _, err := w.create(waits(60), of("carol")); api.CodeOf(err) != api.CodeNoCapacity || !strings.Contains(err.Error(), "queue is full") {
		t.Errorf("a fourth: %v", err)
	}
}

// TestCeilingsRiseWithTheWait holds that waiting buys a node farther away.
func TestCeilingsRiseWithTheWait(t *testing.T) { synctest.Test(t, testCeilingsRiseWithTheWait) }

func testCeilingsRiseWithTheWait(t *testing.T) {
	w := newWorld(t)
	policy := &api.PlacementPolicy{MaxRoundTripMS: 2, RelaxMSPerS: 20}
	if _, err := w.s.PutApplication(w.ctx(), api.App{Name: "xterm", Command: []string{"xterm"}, Placement: policy}); err != nil {
		t.Fatal(err)
	}
	w.edge("far", 4, func(n *api.Node) { n.Location = api.Location{Latitude: 50.11, Longitude: 8.68, Known: true} })
	munich := func(r *api.CreateRequest) {
		r.Client.Location = api.Location{Latitude: 48.14, Longitude: 11.58, Known: true}
	}
	if _, err := w.create(munich); refusal(err) != api.RefusedLatency {
		t.Fatalf("at once: %v", err)
	}
	a := w.mustCreate(munich, waits(60)) // 6.4 ms away
	v := w.until(a.Session.ID, api.StatusActive)
	if waited := v.PlacedAt.Sub(v.CreatedAt); waited < 200*time.Millisecond || waited > 3*time.Second {
		t.Errorf("it waited %s for a ceiling that rises by 20 ms a second", waited)
	}
}

// TestQueueSurvivesItsLeader holds that a new leader knows who waits, in order.
func TestQueueSurvivesItsLeader(t *testing.T) { synctest.Test(t, testQueueSurvivesItsLeader) }

func testQueueSurvivesItsLeader(t *testing.T) {
	c := newCluster(t, 3)
	w := c.world(0)
	w.app()
	w.edge("one", 1)
	first := w.mustCreate()
	var ids []api.SessionID
	for i := range 3 {
		ids = append(ids, w.mustCreate(waits(60), of(fmt.Sprint("acc", i))).Session.ID)
	}
	at := c.leader()
	if err := c.members[at].stop(); err != nil {
		t.Fatal(err)
	}
	left := c.world((at + 1) % 3)
	for i, id := range ids {
		if p := left.position(id); p != i+1 {
			t.Errorf("after the change %s stands at %d, want %d", id, p, i+1)
		}
	}
	if err := left.s.EndSession(left.ctx(), first.Session.ID, api.EndRequest{}); err != nil {
		t.Fatal(err)
	}
	left.until(ids[0], api.StatusActive)
	if p := left.position(ids[1]); p != 1 {
		t.Errorf("the next stands at %d", p)
	}
}
