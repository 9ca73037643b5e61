package scheduler

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestSessionLivesAndEnds(t *testing.T) { synctest.Test(t, testSessionLivesAndEnds) }

func testSessionLivesAndEnds(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.edge("one", 4)
	a := w.mustCreate()
	if a.Session.Status() != api.StatusCreated && a.Session.Status() != api.StatusActive {
		t.Fatalf("a new session is %s", a.Session.Status())
	}
	ticket, v, err := w.s.CheckTicket(w.ctx(), a.Ticket)
	if err != nil || ticket.Viewer != 1 || v.Node != e.node.ID || ticket.Role != api.RoleControl {
		t.Fatalf("ticket %+v of %+v: %v", ticket, v, err)
	}
	w.until(a.Session.ID, api.StatusActive)
	if err := w.s.EndSession(w.ctx(), a.Session.ID, api.EndRequest{Wait: true}); err != nil {
		t.Fatal(err)
	}
	end := w.until(a.Session.ID, api.StatusTerminated)
	if end.Reason != api.ReasonDeleted || end.EndedAt.IsZero() {
		t.Errorf("ended as %+v", end)
	}
	n, _ := w.s.root().Node(e.node.ID)
	if used, sessions := n.Reserved(api.PoolCPU); used != 0 || sessions != 0 {
		t.Errorf("%d macroblocks/s and %d sessions are still reserved", used, sessions)
	}
	if _, over, err := w.s.CheckTicket(w.ctx(), a.Ticket); err != nil || over.Status() != api.StatusTerminated {
		t.Errorf("ticket of an ended session: %s, %v", over.Status(), err)
	}
}

func TestCommandsAreSentUntilTaken(t *testing.T) { synctest.Test(t, testCommandsAreSentUntilTaken) }

func testCommandsAreSentUntilTaken(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.edge("one", 4)
	e.mu.Lock()
	e.drop = 2
	e.mu.Unlock()
	a := w.mustCreate()
	w.until(a.Session.ID, api.StatusActive)
	if n := e.count(api.VerbStart); n != 1 {
		t.Errorf("start was taken %d times", n)
	}
	spec := e.specs[a.Session.ID]
	if spec.App.Command[0] != "xterm" || spec.Screen != a.Session.Screen || spec.Pool != api.PoolCPU || len(spec.Codecs) != 4 || spec.Codecs[0] != api.H264 {
		t.Errorf("the edge was told %+v", spec)
	}
}

func TestDeleteBeforeTheEdgeHeardOfIt(t *testing.T) {
	synctest.Test(t, testDeleteBeforeTheEdgeHeardOfIt)
}

func testDeleteBeforeTheEdgeHeardOfIt(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.edge("one", 4)
	e.mu.Lock()
	e.manual = true // takes commands, shows nothing: as if it had lost them
	e.mu.Unlock()
	a := w.mustCreate()
	w.eventually("start is sent", func() bool { return e.count(api.VerbStart) > 0 })
	// The heartbeats do not list it: after three of them it is over.
	if err := w.s.EndSession(w.ctx(), a.Session.ID, api.EndRequest{Wait: true}); err != nil {
		t.Fatal(err)
	}
	if v := w.until(a.Session.ID, api.StatusTerminated); v.Reason != api.ReasonDeleted {
		t.Errorf("ended with %q", v.Reason)
	}
}

func TestForceReachesAnEdgeThatIsStoppingAlready(t *testing.T) {
	synctest.Test(t, testForceReachesAnEdgeThatIsStoppingAlready)
}

func testForceReachesAnEdgeThatIsStoppingAlready(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.edge("one", 4)
	a := w.mustCreate()
	w.until(a.Session.ID, api.StatusActive)
	e.mu.Lock()
	e.manual = true
	e.mu.Unlock()
	if err := w.s.EndSession(w.ctx(), a.Session.ID, api.EndRequest{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("stop is sent", func() bool { return e.count(api.VerbStop) == 1 })
	if err := w.s.EndSession(w.ctx(), a.Session.ID, api.EndRequest{Force: true}); err != nil {
		t.Fatal(err)
	}
	w.eventually("a forced stop is sent", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		last := e.commands[len(e.commands)-1]
		return last.Verb == api.VerbStop && last.Force && last.Reason == api.ReasonDeleted
	})
}

func TestEndWithWaitTellsOfATimeout(t *testing.T) { synctest.Test(t, testEndWithWaitTellsOfATimeout) }

func testEndWithWaitTellsOfATimeout(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.EndTimeout = 100 * time.Millisecond })
	w.app()
	e := w.edge("one", 4)
	a := w.mustCreate()
	w.until(a.Session.ID, api.StatusActive)
	e.mu.Lock()
	e.manual = true
	e.mu.Unlock()
	if err := w.s.EndSession(w.ctx(), a.Session.ID, api.EndRequest{Wait: true}); api.CodeOf(err) != api.CodeTimeout {
		t.Errorf("an end that nobody confirms answers %v", err)
	}
	if err := w.s.EndSession(w.ctx(), "none", api.EndRequest{}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("ending what is not there answers %v", err)
	}
}

func TestJoinHandsOver(t *testing.T) { synctest.Test(t, testJoinHandsOver) }

func testJoinHandsOver(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.edge("one", 4)
	a := w.mustCreate()
	w.until(a.Session.ID, api.StatusActive)
	b, err := w.s.JoinSession(w.ctx(), a.Session.ID, api.JoinRequest{Screen: api.Screen{Width: 801, Height: 600}})
	if err != nil {
		t.Fatal(err)
	}
	if b.Session.Screen != (api.Screen{Width: 802, Height: 600, FPS: 60, Density: 240}) {
		t.Errorf("joined at %+v", b.Session.Screen)
	}
	if ticket, _, err := w.s.CheckTicket(w.ctx(), b.Ticket); err != nil || ticket.Viewer != 2 {
		t.Errorf("the new ticket is %+v: %v", ticket, err)
	}
	if _, _, err := w.s.CheckTicket(w.ctx(), a.Ticket); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("the ticket before answers %v", err)
	}
	w.eventually("the edge is told to admit", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		last := e.commands[len(e.commands)-1]
		return last.Verb == api.VerbAdmit && last.Viewer == 2 && *last.Screen == b.Session.Screen
	})
	if _, err := w.s.JoinSession(w.ctx(), a.Session.ID, api.JoinRequest{Screen: api.Screen{Width: 800}}); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a join at half a size answers %v", err)
	}
	if _, err := w.s.JoinSession(w.ctx(), a.Session.ID, api.JoinRequest{Screen: api.Screen{Width: 4000, Height: 600}}); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a join at 4000 pixels answers %v", err)
	}
	if err := w.s.EndSession(w.ctx(), a.Session.ID, api.EndRequest{Wait: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.s.JoinSession(w.ctx(), a.Session.ID, api.JoinRequest{}); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("a join to a dead session answers %v", err)
	}
	if _, err := w.s.JoinSession(w.ctx(), "none", api.JoinRequest{}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a join to nothing answers %v", err)
	}
}

func TestIdempotentCreate(t *testing.T) { synctest.Test(t, testIdempotentCreate) }

func testIdempotentCreate(t *testing.T) {
	w := newWorld(t)
	w.app()
	w.edge("one", 1)
	once := func(r *api.CreateRequest) { r.IdempotencyKey = "once" }
	a := w.mustCreate(once)
	b := w.mustCreate(once) // the node is full by now
	if a.Session.ID != b.Session.ID || b.Ticket == "" {
		t.Errorf("the same key made %s and %s", a.Session.ID, b.Session.ID)
	}
	if _, err := w.create(); api.CodeOf(err) != api.CodeNoCapacity {
		t.Errorf("a create beyond the capacity answers %v", err)
	}
}

func TestSweepEndsWhatIsOverdue(t *testing.T) { synctest.Test(t, testSweepEndsWhatIsOverdue) }

func testSweepEndsWhatIsOverdue(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.edge("one", 4)
	once := w.mustCreate(func(r *api.CreateRequest) { r.Joinable = false })
	stays := w.mustCreate(func(r *api.CreateRequest) { r.IdleMinutes = 1 })
	for _, a := range []api.Admission{once, stays} {
		w.until(a.Session.ID, api.StatusActive)
		e.tell(a.Session.ID, 1, api.ObservedRunning, "", true)
		e.tell(a.Session.ID, 1, api.ObservedRunning, "", false)
	}
	if v := w.until(once.Session.ID, api.StatusTerminated); v.Reason != api.ReasonClientLeft {
		t.Errorf("a session whose client left ended with %q", v.Reason)
	}
	if v, err := w.s.Session(w.ctx(), stays.Session.ID); err != nil || v.Status() != api.StatusActive {
		t.Errorf("a joinable session is %s after its client left: %v", v.Status(), err)
	}
}

// TestOverdueByTheClock moves the clock instead of waiting for minutes.
func TestOverdueByTheClock(t *testing.T) { synctest.Test(t, testOverdueByTheClock) }

func testOverdueByTheClock(t *testing.T) {
	var ahead atomic.Int64
	w := newWorld(t, func(c *Config) {
		c.Lease = time.Hour
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	w.app()
	e := w.edge("one", 4)
	never := w.mustCreate()
	idle := w.mustCreate(func(r *api.CreateRequest) { r.IdleMinutes = 1 })
	for _, a := range []api.Admission{never, idle} {
		w.until(a.Session.ID, api.StatusActive)
	}
	e.tell(idle.Session.ID, 1, api.ObservedRunning, "", true)
	e.tell(idle.Session.ID, 1, api.ObservedRunning, "", false)
	ahead.Store(int64(2 * time.Minute))
	if v := w.until(idle.Session.ID, api.StatusTerminated); v.Reason != api.ReasonIdle {
		t.Errorf("an idle session ended with %q", v.Reason)
	}
	if v, _ := w.s.Session(w.ctx(), never.Session.ID); v.Status() != api.StatusActive {
		t.Errorf("after two minutes without a client a session is %s", v.Status())
	}
	ahead.Store(int64(6 * time.Minute))
	if v := w.until(never.Session.ID, api.StatusTerminated); v.Reason != api.ReasonNeverConnected {
		t.Errorf("a session without a client ended with %q", v.Reason)
	}
	ahead.Store(int64(26 * time.Hour))
	w.eventually("ended sessions are forgotten", func() bool {
		_, err := w.s.Session(w.ctx(), idle.Session.ID)
		return api.CodeOf(err) == api.CodeNotFound
	})
}

func TestAppDeletedBeforeItsSessionStarts(t *testing.T) {
	synctest.Test(t, testAppDeletedBeforeItsSessionStarts)
}

func testAppDeletedBeforeItsSessionStarts(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.edge("one", 4)
	e.mu.Lock()
	e.drop = 1
	e.mu.Unlock()
	a := w.mustCreate()
	if err := w.s.DeleteApplication(w.ctx(), "xterm"); err != nil {
		t.Fatal(err)
	}
	v := w.until(a.Session.ID, api.StatusTerminated)
	if v.Reason != api.ReasonStartFailed && v.Reason != api.ReasonNone {
		t.Errorf("ended with %q", v.Reason)
	}
}
