package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// warmEdge is an edge that hands started instances to sessions.
func (w *world) warmEdge(name string, streams uint64, change ...func(*api.Node)) *fakeEdge {
	return w.edge(name, streams, append(change, func(n *api.Node) {
		k, v, _ := strings.Cut(api.LabelWarm, "=")
		n.Labels = map[string]string{k: v}
	})...)
}

func (w *world) setPool(p api.WarmPool) {
	w.t.Helper()
	if p.App == "" {
		p.App = "xterm"
	}
	p.Region = "eu"
	if err := w.s.SetWarmPool(w.ctx(), p); err != nil {
		w.t.Fatal(err)
	}
}

// ready gives the instances that can be had, once there are so many and no others
// are starting.
func (w *world) ready(n int) []api.SessionID {
	w.t.Helper()
	var ids []api.SessionID
	w.eventually("instances are ready", func() bool {
		ids = nil
		all := 0
		w.s.root().Warm("", func(v *state.Session) bool {
			if all++; v.Claimable() {
				ids = append(ids, v.ID)
			}
			return true
		})
		return len(ids) == n && all == n
	})
	return ids
}

func TestPoolHandsOver(t *testing.T) { synctest.Test(t, testPoolHandsOver) }

func testPoolHandsOver(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.warmEdge("one", 3)
	w.edge("old", 3) // hands none over: none is started there
	w.setPool(api.WarmPool{TargetIdle: 1, AlwaysOn: 1})
	id := w.ready(1)[0]
	if list, n, err := w.s.ListSessions(w.ctx(), api.SessionQuery{}); err != nil || n != 0 {
		t.Errorf("sessions are listed while nobody has one: %+v, %v", list, err)
	}
	if list, n, err := w.s.ListInstances(w.ctx(), api.InstanceQuery{}); err != nil || n != 1 || !list[0].Session.Warm {
		t.Errorf("the started instance is listed as %+v, %v", list, err)
	}
	if spec := e.spec(id); !spec.Warm || len(spec.ExtraData) != 0 {
		t.Errorf("it was started as %+v", spec)
	}
	a := w.mustCreate(func(r *api.CreateRequest) {
		r.Screen = api.Screen{Width: 640, Height: 360, FPS: 30}
		r.ExtraData = json.RawMessage(`{"level":7}`)
	})
	v := a.Session
	if v.ID != id || v.Status() != api.StatusActive || v.Account != "alice" || !v.FromPool || v.Screen.Width != 640 {
		t.Fatalf("the create got %+v, not the started %s", v, id)
	}
	if _, got, err := w.s.CheckTicket(w.ctx(), a.Ticket); err != nil || got.ID != id {
		t.Errorf("its ticket opens %+v, %v", got, err)
	}
	w.eventually("the edge knows the session", func() bool { return e.count(api.VerbClaim) == 1 })
	if c := e.last(api.VerbClaim); string(c.Spec.ExtraData) != `{"level":7}` || c.Spec.Screen.Width != 640 || !c.Spec.Claimed || c.Spec.Warm {
		t.Errorf("the edge was told %+v", c.Spec)
	}
	next := w.ready(1)[0]
	if next == id {
		t.Error("the pool did not refill")
	}
	x, err := w.s.Placement(w.ctx(), id)
	if err != nil || x.Warm != e.node.ID {
		t.Errorf("explained as %+v, %v", x, err)
	}
	states, err := w.s.WarmPools(w.ctx())
	if err != nil || len(states) != 1 || states[0].Ready != 1 || states[0].Wanted != 1 || states[0].Sessions != 1 {
		t.Errorf("the pool is %+v, %v", states, err)
	}
	w.setPool(api.WarmPool{AlwaysOn: 1}) // the session counts: no idle one is wanted
	w.ready(0)
	if err := w.s.DropWarmPool(w.ctx(), "xterm", "eu"); err != nil {
		t.Fatal(err)
	}
	if b := w.mustCreate(); b.Session.FromPool {
		t.Error("a session came from a pool that is not there")
	}
	if w.s.root().LiveCount() != 2 {
		t.Errorf("%d sessions live", w.s.root().LiveCount())
	}
}

// TestPoolTakesNoOther holds what does not fit: another version, a farther node,
// a codec the node has not, a screen there is no room for.
func TestPoolTakesNoOther(t *testing.T) { synctest.Test(t, testPoolTakesNoOther) }

func testPoolTakesNoOther(t *testing.T) {
	w := newWorld(t)
	w.app()
	w.warmEdge("far", 1, func(n *api.Node) { n.Location = api.Location{Latitude: 52.5, Longitude: 13.4, Known: true} })
	w.setPool(api.WarmPool{AlwaysOn: 1})
	w.ready(1)
	near := w.edge("near", 4, func(n *api.Node) { n.Location = api.Location{Latitude: 48.1, Longitude: 11.6, Known: true} })
	here := func(r *api.CreateRequest) { r.Client.Location = near.node.Location }
	for name, change := range map[string]func(*api.CreateRequest){
		"a larger screen than its node has room for": func(r *api.CreateRequest) { r.Screen = api.Screen{Width: 1920, Height: 1080, FPS: 60} },
		"another version": func(r *api.CreateRequest) {
			if _, err := w.s.StageApplication(w.ctx(), api.App{Name: "xterm", Command: []string{"xterm", "-b"}}); err != nil {
				t.Fatal(err)
			}
			r.AppVersion = 2
		},
	} {
		if a := w.mustCreate(change); a.Session.FromPool || a.Session.Node != near.node.ID {
			t.Errorf("%s: got %+v", name, a.Session)
		}
	}
	w.setPool(api.WarmPool{AlwaysOn: 4, WithinMS: 1}) // its node is 5 ms farther
	w.ready(1)
	if a := w.mustCreate(here, func(r *api.CreateRequest) { r.Screen = api.Screen{Width: 320, Height: 180, FPS: 30} }); a.Session.FromPool {
		t.Error("an instance farther than its pool allows was taken")
	}
	w.setPool(api.WarmPool{AlwaysOn: 5, WithinMS: 20})
	if a := w.mustCreate(here); !a.Session.FromPool {
		t.Error("an instance within what its pool allows was left")
	}
}

// TestPoolYields holds that started instances are in nobody's way: a create that
// finds no room, and one that waits, get theirs.
func TestPoolYields(t *testing.T) { synctest.Test(t, testPoolYields) }

func testPoolYields(t *testing.T) {
	w := newWorld(t)
	w.app()
	if _, err := w.s.PutApplication(w.ctx(), api.App{Name: "other", Command: []string{"xclock"}}); err != nil {
		t.Fatal(err)
	}
	w.warmEdge("one", 2)
	w.setPool(api.WarmPool{AlwaysOn: 2})
	w.ready(2)
	other := func(r *api.CreateRequest) { r.App = "other" }
	a := w.mustCreate(other)
	w.until(a.Session.ID, api.StatusActive)
	w.ready(1) // there is room for one only
	b := w.mustCreate(other, waits(60))
	w.until(b.Session.ID, api.StatusActive)
	w.ready(0)
	time.Sleep(3 * poolRest)
	w.ready(0)
	if _, err := w.create(other); refusal(err) != api.RefusedEncoder {
		t.Errorf("a third session where two fit: %v", err)
	}
	states, err := w.s.WarmPools(w.ctx())
	if err != nil || states[0].Message != "no node has room for another one" || states[0].Wanted != 2 {
		t.Errorf("the pool is %+v, %v", states, err)
	}
	// While somebody waits the pool takes no room that comes free.
	c := w.mustCreate(waits(60), of("bob"))
	if err := w.s.EndSession(w.ctx(), a.Session.ID, api.EndRequest{Wait: true}); err != nil {
		t.Fatal(err)
	}
	w.until(c.Session.ID, api.StatusActive)
	if err := w.s.EndSession(w.ctx(), b.Session.ID, api.EndRequest{Wait: true}); err != nil {
		t.Fatal(err)
	}
	w.ready(1)
}

// TestPoolFollows holds that instances go with what they are of: a version, a
// node, an application, a schedule.
func TestPoolFollows(t *testing.T) { synctest.Test(t, testPoolFollows) }

func testPoolFollows(t *testing.T) {
	w := newWorld(t)
	w.app()
	one, two := w.warmEdge("one", 1), w.warmEdge("two", 1)
	w.setPool(api.WarmPool{AlwaysOn: 1})
	id := w.ready(1)[0]
	if _, err := w.s.PutApplication(w.ctx(), api.App{Name: "xterm", Command: []string{"xterm", "-bg", "black"}}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the old version's instance is replaced", func() bool { return w.ready(1)[0] != id })
	id = w.ready(1)[0]
	v, _ := w.s.root().Live(id)
	if v.AppVersion != 2 {
		t.Errorf("version %d is kept started", v.AppVersion)
	}
	home, away := one, two
	if v.Node == two.node.ID {
		home, away = two, one
	}
	if err := w.s.SetDrain(w.ctx(), home.node.ID, true); err != nil {
		t.Fatal(err)
	}
	w.eventually("a draining node's instance is replaced", func() bool {
		v, ok := w.s.root().Live(w.ready(1)[0])
		return ok && v.Node == away.node.ID
	})
	if err := w.s.SetDrain(w.ctx(), home.node.ID, false); err != nil {
		t.Fatal(err)
	}
	away.mute(true)
	w.eventually("a lost node's instance is replaced", func() bool {
		found := false
		w.s.root().Warm("xterm", func(v *state.Session) bool {
			found = found || v.Node == home.node.ID && v.Claimable()
			return true
		})
		return found
	})
	now := time.Now().UTC()
	w.setPool(api.WarmPool{AlwaysOn: 1, Schedule: []api.PoolWindow{{From: now.Add(-time.Hour).Format("15:04"), To: now.Add(time.Hour).Format("15:04")}}})
	w.ready(0)
	time.Sleep(61 * time.Minute)
	w.ready(1)
	if err := w.s.DeleteApplication(w.ctx(), "xterm"); err != nil {
		t.Fatal(err)
	}
	w.ready(0)
	if states, err := w.s.WarmPools(w.ctx()); err != nil || len(states) != 0 {
		t.Errorf("pools of a deleted application: %+v, %v", states, err)
	}
}

// TestPoolOfBrokenApplication holds that an application which ends by itself is
// started again ever more slowly, and that the pool says so.
func TestPoolOfBrokenApplication(t *testing.T) { synctest.Test(t, testPoolOfBrokenApplication) }

func testPoolOfBrokenApplication(t *testing.T) {
	w := newWorld(t)
	w.app()
	e := w.warmEdge("one", 4)
	e.mu.Lock()
	e.manual = true
	e.mu.Unlock()
	w.setPool(api.WarmPool{AlwaysOn: 1})
	crash := time.NewTicker(10 * time.Millisecond)
	defer crash.Stop()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-crash.C {
		w.s.root().Warm("xterm", func(v *state.Session) bool {
			if v.Desired == api.DesiredRun {
				e.tell(v.ID, v.Generation, api.ObservedFailed, api.ReasonAppCrashed, false)
			}
			return true
		})
	}
	if n := e.count(api.VerbStart); n < 4 || n > 8 {
		t.Errorf("it was started %d times in a minute", n)
	}
	states, err := w.s.WarmPools(w.ctx())
	if err != nil || !strings.Contains(states[0].Message, "app_crashed") {
		t.Errorf("the pool says %+v, %v", states, err)
	}
}

// TestPoolSurvivesItsLeader holds that started instances are found by the next
// leader, and that a create which comes again takes no second one.
func TestPoolSurvivesItsLeader(t *testing.T) { synctest.Test(t, testPoolSurvivesItsLeader) }

func testPoolSurvivesItsLeader(t *testing.T) {
	c := newCluster(t, 3)
	w := c.world(0)
	w.app()
	e := w.warmEdge("one", 4)
	w.setPool(api.WarmPool{AlwaysOn: 2, TargetIdle: 2})
	ids := w.ready(2)
	at := c.leader()
	call := createCall{ID: "c25k8fh3pn6a8q46taug", Request: api.CreateRequest{App: "xterm", IdleMinutes: api.IdleUnset, Grant: api.Grant{Account: "alice", Rights: []api.Right{api.RightSessions}}}}
	first, err := c.members[at].s.create(w.ctx(), call)
	if err != nil || !slices.Contains(ids, first.Session.ID) {
		t.Fatalf("created %+v, %v", first.Session, err)
	}
	if err := c.members[at].stop(); err != nil {
		t.Fatal(err)
	}
	left := c.world((at + 1) % 3)
	again, err := onLeader(left.ctx(), left.s, "create", call, left.s.create)
	if err != nil || again.Session.ID != first.Session.ID {
		t.Errorf("the same create again: %+v, %v", again.Session, err)
	}
	left.eventually("the pool is full again", func() bool { return len(left.ready(2)) == 2 })
	claims := e.count(api.VerbClaim)
	if claims == 0 {
		t.Error("the edge does not know the session")
	}
	a := left.mustCreate()
	if !a.Session.FromPool || a.Session.ID == first.Session.ID {
		t.Errorf("the next create got %+v", a.Session)
	}
}

// TestPoolHerd holds that of many creates at once each gets an instance of its
// own, and that those who find none start cold.
func TestPoolHerd(t *testing.T) { synctest.Test(t, testPoolHerd) }

func testPoolHerd(t *testing.T) {
	w := newWorld(t)
	w.app()
	w.warmEdge("one", 40)
	w.setPool(api.WarmPool{AlwaysOn: 10, Maximum: 10})
	w.ready(10)
	got := make(chan api.Session, 30)
	for range 30 {
		go func() {
			a, err := w.create()
			if err != nil {
				t.Error(err)
			}
			got <- a.Session
		}()
	}
	seen, warm := map[api.SessionID]bool{}, 0
	for range 30 {
		v := <-got
		if seen[v.ID] {
			t.Errorf("%s was given twice", v.ID)
		}
		seen[v.ID] = true
		if v.FromPool {
			warm++
		}
	}
	if warm != 10 {
		t.Errorf("%d of 30 came from a pool of 10", warm)
	}
	w.ready(0)
}

func TestPoolRefuses(t *testing.T) { synctest.Test(t, testPoolRefuses) }

func testPoolRefuses(t *testing.T) {
	w := newWorld(t)
	w.app()
	if _, err := w.s.PutApplication(w.ctx(), api.App{Name: "theirs", Kind: api.AppExternal}); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]api.WarmPool{
		"time_zone": {App: "xterm", Region: "eu", TimeZone: "Europe/Nowhere"},
		"always_on": {App: "xterm", Region: "eu", AlwaysOn: -1},
		"app":       {App: "theirs", Region: "eu"},
	} {
		err := w.s.SetWarmPool(context.Background(), p)
		var e *api.Error
		if !errors.As(err, &e) || e.Field != name {
			t.Errorf("%+v: %v", p, err)
		}
	}
	if err := w.s.SetWarmPool(w.ctx(), api.WarmPool{App: "nothing", Region: "eu"}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a pool of no application: %v", err)
	}
	if err := w.s.DropWarmPool(w.ctx(), "xterm", "eu"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a pool that is not there: %v", err)
	}
	if err := w.s.SetWarmPool(w.ctx(), api.WarmPool{App: "xterm", Region: "eu", TimeZone: "Europe/Berlin"}); err != nil {
		t.Error(err)
	}
}

// spec gives what an instance was started as.
func (e *fakeEdge) spec(id api.SessionID) api.Spec {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.specs[id]
}

// last gives the latest command of a verb.
func (e *fakeEdge) last(v api.Verb) (c api.Command) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.commands {
		if x.Verb == v {
			c = x
		}
	}
	return c
}
