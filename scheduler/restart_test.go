package scheduler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// restartable puts the application of the tests, which can start anew.
func (w *world) restartable() {
	w.t.Helper()
	if _, err := w.s.PutApplication(w.ctx(), api.App{Name: "xterm", Command: []string{"xterm"}, Restart: true}); err != nil {
		w.t.Fatal(err)
	}
}

func TestLostSessionsStartAnew(t *testing.T) { synctest.Test(t, testLostSessionsStartAnew) }

func testLostSessionsStartAnew(t *testing.T) {
	w := newWorld(t)
	w.restartable()
	one := w.edge("one", 2)
	a := w.mustCreate()
	single := w.mustCreate(func(r *api.CreateRequest) { r.Joinable = false })
	w.until(a.Session.ID, api.StatusActive)
	w.until(single.Session.ID, api.StatusActive)
	two := w.edge("two", 2)
	one.mute(true)
	w.eventually("it runs on the other node", func() bool {
		v, err := w.s.Session(w.ctx(), a.Session.ID)
		return err == nil && v.Node == two.node.ID && v.Status() == api.StatusActive
	})
	v := w.until(a.Session.ID, api.StatusActive)
	if v.Generation != 2 || v.Reason != "" || v.PlacedAt.IsZero() {
		t.Errorf("placed again it is %+v", v)
	}
	// The earlier ticket does not admit; a join does, of one that is not joinable too.
	if _, _, err := w.s.CheckTicket(w.ctx(), a.Ticket); api.CodeOf(err) != api.CodeUnauthorized {
		t.Errorf("the ticket of the earlier generation: %v", err)
	}
	w.until(single.Session.ID, api.StatusActive)
	back, err := w.s.JoinSession(w.ctx(), single.Session.ID, api.JoinRequest{})
	if err != nil {
		t.Fatalf("its client comes back: %v", err)
	}
	if _, s, err := w.s.CheckTicket(w.ctx(), back.Ticket); err != nil || s.Node != two.node.ID {
		t.Errorf("the ticket of the join: %v", err)
	}
	// The node comes back: what it still runs is stopped, then its room is free.
	one.mute(false)
	w.eventually("the earlier ones are told to stop", func() bool { return len(one.beat().Unwanted) == 2 })
	for _, id := range []api.SessionID{a.Session.ID, single.Session.ID} {
		one.mu.Lock()
		delete(one.running, id)
		one.mu.Unlock()
		one.tell(id, 1, api.ObservedStopped, "", false)
	}
	w.eventually("the room is free", func() bool {
		n, ok := w.s.root().Node(one.node.ID)
		used, _ := n.Reserved(api.PoolCPU)
		return ok && used == 0 && len(n.Held) == 0
	})
	if v := w.until(a.Session.ID, api.StatusActive); v.Node != two.node.ID {
		t.Errorf("it runs on %s now", v.Node)
	}
}

// TestLostSessionsWithoutRoom holds that what cannot be placed again stays in
// error with the reason, and goes on when the node is back.
func TestLostSessionsWithoutRoom(t *testing.T) { synctest.Test(t, testLostSessionsWithoutRoom) }

func testLostSessionsWithoutRoom(t *testing.T) {
	w := newWorld(t)
	w.restartable()
	one := w.edge("one", 1)
	a := w.mustCreate()
	w.until(a.Session.ID, api.StatusActive)
	one.mute(true)
	v := w.until(a.Session.ID, api.StatusError)
	if v.Reason != api.ReasonNodeLost || v.Generation != 1 {
		t.Errorf("without another node it is %+v", v)
	}
	time.Sleep(time.Second)
	one.mute(false)
	if v := w.until(a.Session.ID, api.StatusActive); v.Generation != 1 || v.Node != one.node.ID {
		t.Errorf("with its node back it is %+v", v)
	}
}

// TestLostSessionsThatCannotStartAnew holds that others are left alone.
func TestLostSessionsThatCannotStartAnew(t *testing.T) {
	synctest.Test(t, testLostSessionsThatCannotStartAnew)
}

func testLostSessionsThatCannotStartAnew(t *testing.T) {
	w := newWorld(t)
	w.app()
	one := w.edge("one", 1)
	a := w.mustCreate()
	w.until(a.Session.ID, api.StatusActive)
	w.edge("two", 1)
	one.mute(true)
	w.until(a.Session.ID, api.StatusError)
	time.Sleep(2 * time.Second)
	if v := w.until(a.Session.ID, api.StatusError); v.Node != one.node.ID || v.Reason != api.ReasonNodeLost {
		t.Errorf("it is %+v", v)
	}
}
