package state

import (
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// pool keeps instances of an application started.
func (d *drawer) pool() Command {
	if d.oneIn(4) {
		return &DropPool{App: d.pick("app", 3), Region: "eu"}
	}
	return &PutPool{Doc: doc(d.t, api.WarmPool{App: d.pick("app", 3), Region: "eu", AlwaysOn: 1})}
}

func (d *drawer) prepare() Command {
	m := &Prepare{Create: *d.create().(*Create)}
	m.Create.Account, m.Create.Key, m.Create.Token = "", "", ""
	return m
}

func (d *drawer) claim() Command {
	m := &Claim{Create: *d.create().(*Create), Warm: d.session()}
	var starting *Session
	d.s.Warm("", func(v *Session) bool {
		m.Warm, m.Create.App, m.Create.AppVersion, m.Create.Node, m.Create.Pool = v.ID, v.App, v.AppVersion, v.Node, v.Pool
		m.Create.Reserved, m.Create.Parts = api.Cost(v.Pool, m.Create.Codec, hd), v.Parts
		if starting = nil; !v.Claimable() {
			starting = v
		}
		return starting != nil
	})
	if starting != nil { // it can be had once it runs
		return &Report{ID: starting.ID, Generation: starting.Generation, Node: starting.Node, Boot: "b1", Seq: starting.Seq + 1, Observed: api.ObservedRunning}
	}
	return m
}

// newWarmRig has a pool and one started instance, "w1" on n1.
func newWarmRig(t testing.TB) *rig {
	r := newRig(t)
	w := creation("w1", "n1")
	w.Joinable = false
	r.do(&Raise{Version: WarmSince}, &PutPool{Doc: doc(t, api.WarmPool{App: "xterm", Region: "eu", AlwaysOn: 1})}, &Prepare{Create: *w})
	return r
}

func claimOf(id, warm string) *Claim {
	c := creation(id, "n1")
	c.ExtraData = []byte(`{"k":1}`)
	return &Claim{Create: *c, Warm: api.SessionID(warm)}
}

// TestClaim follows a started instance to its session: the same id and node, the
// client's owner, size and time, and one reservation throughout.
func TestClaim(t *testing.T) {
	r := newWarmRig(t)
	w, ok := r.s.Live("w1")
	if !ok || !w.Warm || w.Account != "" || w.Claimable() || !r.s.HasWarm("xterm") || r.s.HasWarm("other") {
		t.Fatalf("prepared %+v", w)
	}
	if e := r.refused(api.CodeNoCapacity, claimOf("s1", "w1")); len(e.Refusals) != 1 {
		t.Errorf("one that does not run yet was refused as %+v", e)
	}
	r.report("w1", api.ObservedRunning, 1)
	c := claimOf("s1", "w1")
	c.Create.Screen.Width, c.Create.Screen.Height = 640, 360
	c.Create.Reserved = api.Cost(api.PoolCPU, api.H264, c.Create.Screen)
	res := r.do(c)
	v := res.Session
	if v.ID != "w1" || v.Warm || !v.FromPool || v.Account != "alice" || v.Screen.Width != 640 || string(v.ExtraData) != `{"k":1}` || !v.Joinable ||
		v.Status() != api.StatusActive || !v.CreatedAt.Equal(r.now) || res.Viewer != 1 || !v.ViewerAt.IsZero() {
		t.Errorf("claimed as %+v", v)
	}
	if n, k := r.reserved("n1", api.PoolCPU); n != c.Create.Reserved || k != 1 {
		t.Errorf("the ledger holds %d in %d sessions, not %d in 1", n, k, c.Create.Reserved)
	}
	if r.s.HasWarm("xterm") || r.s.WarmCount() != 0 {
		t.Error("it is still nobody's")
	}
	checkLedger(t, r.s)
	// The same create again, as under another leader, and by its own id.
	again := claimOf("s1", "w2")
	if res := r.do(again); !res.Duplicate || res.Session.ID != "w1" {
		t.Errorf("the same create again: %+v", res)
	}
	if v, _, ok := r.s.ByKey("alice", ClaimKey("s1")); !ok || v.ID != "w1" {
		t.Errorf("the create's id finds %+v", v)
	}
	r.refused(api.CodeNoCapacity, claimOf("s2", "w1"))
	r.report("w1", api.ObservedStopped, 2)
	if v, ok := r.s.Session("w1"); !ok || v.Account != "alice" || v.EndedAt.IsZero() {
		t.Errorf("ended as %+v", v)
	}
	if res := r.do(claimOf("s1", "w3")); !res.Duplicate {
		t.Error("the same create after the end made another session")
	}
}

// TestClaimTakesWhatIsFree holds that a larger screen needs room, and that a
// refusal leaves instance and token as they were.
func TestClaimTakesWhatIsFree(t *testing.T) {
	r := newWarmRig(t)
	r.do(&PutToken{Account: "alice", ID: "t", Rights: []api.Right{api.RightCreate}, Expires: epoch.Add(time.Hour), Uses: 1}, creation("s0", "n1"))
	r.report("w1", api.ObservedRunning, 1)
	c := claimOf("s1", "w1")
	c.Create.Token, c.Create.Reserved = "t", oneHD()+1
	r.refused(api.CodeNoCapacity, c)
	if v, _ := r.s.Live("w1"); !v.Claimable() {
		t.Errorf("left as %+v", v)
	}
	if tok, _ := r.s.Token("t"); tok.Uses != 1 {
		t.Errorf("the token has %d uses", tok.Uses)
	}
	checkLedger(t, r.s)
	c.Create.Reserved = oneHD()
	r.do(c)
	c = claimOf("s2", "w1")
	c.Create.Token = "t"
	r.refused(api.CodeNoCapacity, c)
	r.do(&DrainNode{ID: "n1", Drain: true})
	checkLedger(t, r.s)
}

// TestGivenUpTooLate holds that a pool's end that was proposed before a client
// claimed the instance leaves the client's session.
func TestGivenUpTooLate(t *testing.T) {
	r := newWarmRig(t)
	r.report("w1", api.ObservedRunning, 1)
	r.do(claimOf("s1", "w1"))
	released := &End{ID: "w1", Reason: api.ReasonReleased, Force: true}
	r.do(released)
	if v, ok := r.s.Live("w1"); !ok || v.Desired != api.DesiredRun || v.Force || v.Reason != api.ReasonNone || v.Account != "alice" {
		t.Errorf("left as %+v", v)
	}
	r.do(&End{ID: "w1", Reason: api.ReasonDeleted})
	r.do(released)
	if v, ok := r.s.Live("w1"); !ok || v.Desired != api.DesiredStop || v.Force || v.Reason != api.ReasonDeleted {
		t.Errorf("its owner's end became %+v", v)
	}
	checkLedger(t, r.s)
}

// TestWarmInstanceIsLeftAlone holds that nothing given to an instance of nobody's
// reaches the client that claims it.
func TestWarmInstanceIsLeftAlone(t *testing.T) {
	r := newWarmRig(t)
	r.report("w1", api.ObservedRunning, 1)
	r.refused(api.CodeConflict, &EditInstance{ID: "w1", HasProtect: true, Protected: true})
	r.refused(api.CodeConflict, &EditInstance{ID: "w1", HasTags: true, Tags: []string{"a"}})
	r.refused(api.CodeConflict, &EditInstance{ID: "w1", HasJoinable: true, Joinable: true})
	r.refused(api.CodeConflict, &Join{ID: "w1"})
	if v, _ := r.s.Live("w1"); v.Joinable || v.Viewer != 1 {
		t.Errorf("left as %+v", v)
	}
	r.do(claimOf("s1", "w1"))
	v, _ := r.s.Session("w1")
	if i := r.s.Instance(v); i.Protected || len(i.Tags) != 0 {
		t.Errorf("claimed as %+v", i)
	}
	r.do(&End{ID: "w1", Reason: api.ReasonDeleted}) // its owner may delete it
}

func TestWarmInstanceEnds(t *testing.T) {
	for name, end := range map[string]func(r *rig){
		"given up": func(r *rig) {
			r.do(&End{ID: "w1", Reason: api.ReasonReleased, Force: true})
			r.report("w1", api.ObservedStopped, 2)
		},
		"crashed": func(r *rig) { r.report("w1", api.ObservedFailed, 2) },
		"node lost": func(r *rig) {
			r.do(&LoseNode{ID: "n1"}, &End{ID: "w1", Reason: api.ReasonReleased})
			r.do(&BackNode{ID: "n1"}, &Missing{ID: "w1", Generation: 1, Node: "n1"})
		},
		"node removed": func(r *rig) { r.do(&RemoveNode{ID: "n1"}) },
	} {
		r := newWarmRig(t)
		r.report("w1", api.ObservedRunning, 1)
		end(r)
		if _, known := r.s.Session("w1"); known || r.s.WarmCount() != 0 || r.s.LiveCount() != 0 {
			t.Errorf("%s: it is still known", name)
		}
		if _, ok := r.s.Node("n1"); ok {
			if n, k := r.reserved("n1", api.PoolCPU); n != 0 || k != 0 {
				t.Errorf("%s: %d in %d sessions are still reserved", name, n, k)
			}
		}
		checkLedger(t, r.s)
	}
}

func TestPools(t *testing.T) {
	r := newWarmRig(t)
	if p, ok := r.s.Pool("xterm", "eu"); !ok || p.AlwaysOn != 1 {
		t.Fatalf("the pool is %+v", p)
	}
	r.refused(api.CodeNotFound, &PutPool{Doc: doc(t, api.WarmPool{App: "other", Region: "eu"})})
	r.refused(api.CodeInvalid, &PutPool{Doc: []byte(`{`)})
	r.refused(api.CodeNotFound, &DropPool{App: "xterm", Region: "us"})
	w := creation("w2", "n2")
	w.Region = "us"
	r.refused(api.CodeNotFound, &Prepare{Create: *w})
	r.refused(api.CodeConflict, &Join{ID: "w1"})
	r.refused(api.CodeConflict, &PutShare{ID: "w1", Seat: api.Seat{Role: api.RoleViewer}, Expires: r.now.Add(time.Hour)})
	r.do(&DropPool{App: "xterm", Region: "eu"})
	r.do(&PutPool{Doc: doc(t, api.WarmPool{App: "xterm", Region: "us", AlwaysOn: 1})}, &DeleteApp{Name: "xterm"})
	if r.s.PoolCount() != 0 || len(r.s.Pools()) != 0 {
		t.Errorf("pools of a deleted application: %+v", r.s.Pools())
	}
}

// TestSnapshotV5 holds the bytes of a snapshot with all that version 5 brought.
func TestSnapshotV5(t *testing.T) {
	r := newWarmRig(t)
	w := creation("w2", "n2")
	w.Joinable = false
	r.do(&Prepare{Create: *w})
	r.report("w1", api.ObservedRunning, 1)
	r.do(claimOf("s1", "w1"))
	s := keptSnapshot(t, "testdata/snapshot_v5.txt", r.s)
	if v, ok := s.Live("w1"); !ok || !v.FromPool || v.Warm {
		t.Errorf("the session from the pool came back as %+v", v)
	}
	if v, ok := s.Live("w2"); !ok || !v.Warm || !s.HasWarm("xterm") || s.PoolCount() != 1 {
		t.Errorf("the started instance came back as %+v", v)
	}
}
