package state

import (
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestCreateReservesAndCountsTheTokenDownInOneStep(t *testing.T) {
	r := newRig(t)
	r.do(&PutToken{Account: "alice", ID: "tok", Rights: []api.Right{api.RightCreate}, Expires: epoch.Add(time.Hour), Uses: 1})
	uses := func() int {
		tok, _ := r.s.Token("tok")
		return tok.Uses
	}
	full := creation("s0", "n1")
	full.Token, full.Reserved = "tok", 3*oneHD()
	if e := r.refused(api.CodeNoCapacity, full); len(e.Refusals) != 1 || e.Refusals[0].Code != api.RefusedEncoder {
		t.Errorf("refused as %+v", e.Refusals)
	}
	if uses() != 1 {
		t.Errorf("a refused create left %d uses of 1", uses())
	}
	c := creation("s1", "n1")
	c.Token = "tok"
	if res := r.do(c); res.Viewer != 1 || res.Session.Status() != api.StatusCreated || !res.Session.CreatedAt.Equal(r.now) {
		t.Errorf("created as %+v", res.Session)
	}
	if used, n := r.reserved("n1", api.PoolCPU); used != oneHD() || n != 1 || uses() != 0 {
		t.Errorf("%d in %d sessions reserved, %d uses left", used, n, uses())
	}
	c.ID = "s2"
	r.refused(api.CodeForbidden, c)
	if used, n := r.reserved("n1", api.PoolCPU); used != oneHD() || n != 1 {
		t.Errorf("a spent token's create left %d in %d sessions", used, n)
	}
	checkLedger(t, r.s)
}

func TestCreateRefusals(t *testing.T) {
	r := newRig(t)
	r.do(creation("s1", "n1"), &PutToken{Account: "alice", ID: "old", Expires: epoch, Uses: -1},
		node(t, "drained", 2), &DrainNode{ID: "drained", Drain: true}, node(t, "lost", 2), &LoseNode{ID: "lost"})
	for name, x := range map[string]struct {
		change func(*Create)
		code   api.Code
		reason api.RefusalCode
	}{
		"a taken id":       {func(c *Create) { c.ID = "s1" }, api.CodeConflict, ""},
		"no id":            {func(c *Create) { c.ID = "" }, api.CodeConflict, ""},
		"no application":   {func(c *Create) { c.App = "none" }, api.CodeNotFound, ""},
		"no such version":  {func(c *Create) { c.AppVersion = 9 }, api.CodeNotFound, ""},
		"no such node":     {func(c *Create) { c.Node = "gone" }, api.CodeNoCapacity, api.RefusedNoNodes},
		"a drained node":   {func(c *Create) { c.Node = "drained" }, api.CodeNoCapacity, api.RefusedDrain},
		"a lost node":      {func(c *Create) { c.Node = "lost" }, api.CodeNoCapacity, api.RefusedLost},
		"a pool not there": {func(c *Create) { c.Pool = api.PoolVAAPI }, api.CodeNoCapacity, api.RefusedCodec},
		"a codec it lacks": {func(c *Create) { c.Pool, c.Codec = api.PoolNVENC, api.AV1 }, api.CodeNoCapacity, api.RefusedCodec},
		"an expired token": {func(c *Create) { c.Token = "old" }, api.CodeUnauthorized, ""},
		"an unknown token": {func(c *Create) { c.Token = "none" }, api.CodeUnauthorized, ""},
	} {
		c := creation("s9", "n1")
		x.change(c)
		e := r.refused(x.code, c)
		if x.reason != "" && (len(e.Refusals) != 1 || e.Refusals[0].Code != x.reason) {
			t.Errorf("%s: refused as %+v, want %s", name, e.Refusals, x.reason)
		}
	}
	if r.s.LiveCount() != 1 {
		t.Errorf("%d sessions live, want 1", r.s.LiveCount())
	}
	checkLedger(t, r.s)
}

func TestEncoderSessionsAreLimited(t *testing.T) {
	r := newRig(t)
	small := func(id string) *Create {
		c := creation(id, "n2")
		c.Pool, c.Reserved = api.PoolNVENC, 1
		return c
	}
	r.do(small("a"), small("b"), small("c"))
	if e := r.refused(api.CodeNoCapacity, small("d")); e.Refusals[0].Code != api.RefusedSessions {
		t.Errorf("the fourth of three was refused as %+v", e.Refusals)
	}
	r.report("a", api.ObservedStopped, 1)
	r.do(small("d"))
}

func TestIdempotencyKeyFindsTheSession(t *testing.T) {
	r := newRig(t)
	c := creation("s1", "n1")
	c.Key = "once"
	r.do(c)
	again := creation("s2", "n1")
	again.Key = "once"
	if res := r.do(again); !res.Duplicate || res.Session.ID != "s1" || r.s.LiveCount() != 1 {
		t.Errorf("the same key made %+v", res)
	}
	again.Account = "bob"
	if res := r.do(again); res.Duplicate || res.Session.ID != "s2" {
		t.Errorf("another account's key made %+v", res)
	}
	r.report("s1", api.ObservedStopped, 1)
	again.Account, again.ID = "alice", "s3"
	if res := r.do(again); !res.Duplicate || res.Session.ID != "s1" {
		t.Errorf("the key of an ended session made %+v", res.Session)
	}
	r.now = r.now.Add(Keep + time.Hour)
	r.do(&Tick{})
	if res := r.do(again); res.Duplicate || res.Session.ID != "s3" {
		t.Errorf("a forgotten key made %+v", res.Session)
	}
}

func TestReportsMoveASession(t *testing.T) {
	r := newRig(t)
	r.do(creation("s1", "n1"))
	status := func(want api.Status) {
		t.Helper()
		v, _ := r.s.Session("s1")
		if v.Status() != want {
			t.Fatalf("the session is %s, want %s", v.Status(), want)
		}
	}
	r.report("s1", api.ObservedStarting, 1)
	status(api.StatusCreated)
	r.report("s1", api.ObservedRunning, 3)
	status(api.StatusActive)
	r.report("s1", api.ObservedFailed, 2) // overtaken
	status(api.StatusActive)
	r.report("s1", api.ObservedStarting, 4) // never goes back
	status(api.StatusActive)
	r.report("s1", api.ObservedRunning, 5, func(m *Report) { m.Connected = true })
	v, _ := r.s.Live("s1")
	if !v.Connected || !v.ViewerAt.Equal(r.now) {
		t.Errorf("a viewer came: %v at %s", v.Connected, v.ViewerAt)
	}
	if res := r.do(&Report{ID: "s1", Generation: 0, Node: "n1", Boot: "b1", Seq: 9, Observed: api.ObservedRunning}); !res.Stop {
		t.Error("an older generation is not told to stop")
	}
	if res := r.do(&Report{ID: "s1", Generation: 1, Node: "n2", Boot: "b1", Seq: 9, Observed: api.ObservedRunning}); !res.Stop {
		t.Error("another node's copy is not told to stop")
	}
	r.report("s1", api.ObservedFailed, 6, func(m *Report) { m.Reason, m.Message = api.ReasonAppCrashed, "signal 11" })
	status(api.StatusError)
	end, _ := r.s.Session("s1")
	if end.Reason != api.ReasonAppCrashed || end.Message != "signal 11" || !end.EndedAt.Equal(r.now) || end.Connected {
		t.Errorf("ended as %+v", end)
	}
	if used, _ := r.reserved("n1", api.PoolCPU); used != 0 {
		t.Errorf("%d still reserved", used)
	}
}

func TestEndAndItsReason(t *testing.T) {
	r := newRig(t)
	r.do(creation("s1", "n1"))
	r.report("s1", api.ObservedRunning, 1)
	if res := r.do(&End{ID: "s1", Reason: api.ReasonIdle}); res.Session.Status() != api.StatusTerminating {
		t.Errorf("ending is %s", res.Session.Status())
	}
	r.do(&End{ID: "s1", Reason: api.ReasonDeleted, Force: true}) // the first reason stays, force is added
	v, _ := r.s.Live("s1")
	if v.Reason != api.ReasonIdle || !v.Force {
		t.Errorf("wanted as %s, force %v", v.Reason, v.Force)
	}
	if used, _ := r.reserved("n1", api.PoolCPU); used != oneHD() {
		t.Error("capacity was freed before the edge confirmed")
	}
	r.report("s1", api.ObservedStopped, 2, func(m *Report) { m.Reason = api.ReasonAppExited })
	if end, _ := r.s.Session("s1"); end.Status() != api.StatusTerminated || end.Reason != api.ReasonIdle {
		t.Errorf("ended as %s, %s", end.Status(), end.Reason)
	}
	if res := r.do(&End{ID: "s1"}); res.Session.Status() != api.StatusTerminated {
		t.Error("ending an ended session is no success")
	}
	r.refused(api.CodeNotFound, &End{ID: "none"})
}

func TestJoin(t *testing.T) {
	r := newRig(t)
	r.do(creation("s1", "n1"), creation("s2", "n1"))
	r.refused(api.CodeConflict, &Join{ID: "s1"})
	r.refused(api.CodeNotFound, &Join{ID: "none"})
	r.report("s1", api.ObservedRunning, 1)
	if res := r.do(&Join{ID: "s1"}); res.Viewer != 2 || res.Session.Screen != hd {
		t.Errorf("joined as viewer %d at %+v", res.Viewer, res.Session.Screen)
	}
	big := api.Screen{Width: 3840, Height: 2160, FPS: 60, Density: 240}
	if e := r.refused(api.CodeNoCapacity, &Join{ID: "s1", Screen: big}); len(e.Refusals) != 1 {
		t.Errorf("refused as %+v", e.Refusals)
	}
	v, _ := r.s.Live("s1")
	if v.Viewer != 2 || v.Screen != hd || v.Reserved != oneHD() {
		t.Errorf("a refused join left viewer %d, %+v, %d", v.Viewer, v.Screen, v.Reserved)
	}
	small := api.Screen{Width: 640, Height: 360, FPS: 30, Density: 240}
	if res := r.do(&Join{ID: "s1", Screen: small}); res.Viewer != 3 || res.Session.Reserved != api.Cost(api.PoolCPU, api.H264, small) {
		t.Errorf("joined as %+v", res.Session)
	}
	checkLedger(t, r.s)
	r.report("s1", api.ObservedStopped, 2)
	r.refused(api.CodeConflict, &Join{ID: "s1"})

	c := creation("s3", "n2")
	c.Joinable = false
	r.do(c)
	r.report("s3", api.ObservedRunning, 1)
	if e := r.refused(api.CodeConflict, &Join{ID: "s3"}); !strings.Contains(e.Message, "joinable") {
		t.Errorf("refused as %q", e.Message)
	}
}

func TestExternalSessionsHoldNothing(t *testing.T) {
	r := newRig(t)
	c := creation("s1", "")
	if res := r.do(c); res.Session.Status() != api.StatusActive {
		t.Errorf("an external session is %s", res.Session.Status())
	}
	checkLedger(t, r.s)
	if res := r.do(&Join{ID: "s1"}); res.Viewer != 2 {
		t.Errorf("joined as %d", res.Viewer)
	}
	if res := r.do(&End{ID: "s1", Reason: api.ReasonDeleted}); res.Session.Status() != api.StatusTerminated {
		t.Errorf("ended as %s", res.Session.Status())
	}
}
