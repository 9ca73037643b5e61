package state

import (
	"fmt"
	"slices"
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

func TestMoveToAnotherPoolOverchargesAndAdmitsNothingMore(t *testing.T) {
	r := newRig(t)
	hard := func(id string) *Create {
		c := creation(id, "n1")
		c.Pool = api.PoolNVENC
		return c
	}
	r.do(hard("a"), creation("b", "n1"), creation("c", "n1"))
	r.report("a", api.ObservedRunning, 1, func(m *Report) { m.Pool, m.Codec = api.PoolCPU, api.VP8 })
	want := 2*oneHD() + api.Cost(api.PoolCPU, api.VP8, hd)
	if used, n := r.reserved("n1", api.PoolCPU); used != want || n != 3 {
		t.Errorf("the pool holds %d in %d sessions, want %d in 3", used, n, want)
	}
	if used, _ := r.reserved("n1", api.PoolNVENC); used != 0 {
		t.Errorf("the pool that was left still holds %d", used)
	}
	tiny := creation("d", "n1")
	tiny.Reserved = 1
	r.refused(api.CodeNoCapacity, tiny)
	checkLedger(t, r.s)
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

func TestLostAndBack(t *testing.T) {
	r := newRig(t)
	r.do(creation("stays", "n1"), creation("goes", "n1"))
	r.report("stays", api.ObservedRunning, 1, func(m *Report) { m.Connected = true })
	r.report("goes", api.ObservedRunning, 2)
	r.do(&LoseNode{ID: "n1"})
	if v, _ := r.s.Session("stays"); v.Status() != api.StatusError || v.Reason != api.ReasonNodeLost {
		t.Errorf("on a lost node it is %s, %s", v.Status(), v.Reason)
	}
	if used, _ := r.reserved("n1", api.PoolCPU); used != 2*oneHD() {
		t.Errorf("a lost node holds %d, want %d", used, 2*oneHD())
	}
	// Deleted while its node is lost: it has ended for the API, the capacity has not.
	if res := r.do(&End{ID: "goes", Reason: api.ReasonDeleted}); res.Session.Status() != api.StatusTerminated {
		t.Errorf("deleted on a lost node it is %s", res.Session.Status())
	}
	if used, _ := r.reserved("n1", api.PoolCPU); used != 2*oneHD() {
		t.Errorf("after the delete a lost node holds %d, want %d", used, 2*oneHD())
	}
	checkLedger(t, r.s)
	r.do(&BackNode{ID: "n1", Running: []api.Running{
		{Session: "stays", Generation: 1, Observed: api.ObservedRunning, Connected: true},
		{Session: "goes", Generation: 1, Observed: api.ObservedRunning},
	}})
	if v, _ := r.s.Session("stays"); v.Status() != api.StatusActive || v.Reason != "" || !v.Connected {
		t.Errorf("back it is %s, %q, connected %v", v.Status(), v.Reason, v.Connected)
	}
	if res := r.do(&Report{ID: "goes", Generation: 1, Node: "n1", Boot: "b1", Seq: 9, Observed: api.ObservedRunning}); !res.Stop {
		t.Error("what was deleted meanwhile is not told to stop")
	}
	r.do(&Report{ID: "goes", Generation: 1, Node: "n1", Boot: "b1", Seq: 10, Observed: api.ObservedStopped})
	if used, _ := r.reserved("n1", api.PoolCPU); used != oneHD() {
		t.Errorf("after the reconcile the node holds %d, want %d", used, oneHD())
	}
	checkLedger(t, r.s)
}

func TestMissingFreesWhatIsGone(t *testing.T) {
	r := newRig(t)
	r.do(creation("run", "n1"), creation("held", "n1"))
	r.report("run", api.ObservedRunning, 1)
	r.do(&LoseNode{ID: "n1"}, &End{ID: "held"}, &BackNode{ID: "n1"})
	if v, _ := r.s.Session("run"); v.Status() != api.StatusError {
		t.Errorf("a session that the node does not list came back as %s", v.Status())
	}
	r.do(&Missing{ID: "run", Generation: 2, Node: "n1"}) // of another generation: nothing
	if r.s.LiveCount() != 1 {
		t.Fatal("another generation's absence ended the session")
	}
	r.do(&Missing{ID: "run", Generation: 1, Node: "n1"}, &Missing{ID: "held", Generation: 1, Node: "n1"})
	if v, _ := r.s.Session("run"); v.Status() != api.StatusError || v.Reason != api.ReasonNodeLost || v.EndedAt.IsZero() {
		t.Errorf("gone it is %+v", v)
	}
	if used, n := r.reserved("n1", api.PoolCPU); used != 0 || n != 0 {
		t.Errorf("%d in %d sessions still held", used, n)
	}
}

func TestNodesComeAndGo(t *testing.T) {
	r := newRig(t)
	joined, _ := r.s.Node("n1")
	r.do(creation("s1", "n1"), creation("s2", "n1"), &DrainNode{ID: "n1", Drain: true}, &LoseNode{ID: "n1"})
	r.do(node(t, "n1", 1)) // a new start with less room
	n, _ := r.s.Node("n1")
	if n.Lost || !n.Drain || !n.JoinedAt.Equal(joined.JoinedAt) || string(n.RelaySecret) != "0123456789abcdef" {
		t.Errorf("joined again as %+v", n.Node)
	}
	if used, _ := r.reserved("n1", api.PoolCPU); used != 2*oneHD() {
		t.Errorf("joining again left %d reserved, want %d", used, 2*oneHD())
	}
	r.do(&RemoveNode{ID: "n1"})
	for _, id := range []api.SessionID{"s1", "s2"} {
		if v, _ := r.s.Session(id); v.Status() != api.StatusError || v.Reason != api.ReasonNodeLost || v.EndedAt.IsZero() {
			t.Errorf("on a removed node %s is %+v", id, v)
		}
	}
	for _, c := range []Command{&RemoveNode{ID: "n1"}, &DrainNode{ID: "n1"}, &LoseNode{ID: "n1"}, &BackNode{ID: "n1"}} {
		r.refused(api.CodeNotFound, c)
	}
	r.refused(api.CodeInvalid, &PutNode{Doc: []byte("{")})
	r.refused(api.CodeInvalid, &PutNode{Doc: []byte("{}")})
	checkLedger(t, r.s)
}

func TestAppVersionsAreImmutable(t *testing.T) {
	r := newRig(t)
	if res := r.do(app(t, "xterm", "xterm")); res.App.Version != 1 {
		t.Errorf("putting the same made version %d", res.App.Version)
	}
	if res := r.do(app(t, "xterm", "uxterm")); res.App.Version != 2 {
		t.Errorf("putting another made version %d", res.App.Version)
	}
	first, _ := r.s.App("xterm", 1)
	newest, _ := r.s.App("xterm", 0)
	if first.Command[0] != "xterm" || newest.Command[0] != "uxterm" || newest.Version != 2 {
		t.Errorf("versions are %v and %v", first, newest)
	}
	r.do(&DeleteApp{Name: "xterm"})
	if _, ok := r.s.App("xterm", 0); ok || len(r.s.Apps()) != 0 {
		t.Error("a deleted application is in the catalogue")
	}
	r.refused(api.CodeNotFound, &DeleteApp{Name: "xterm"})
	if res := r.do(app(t, "xterm", "xterm")); res.App.Version != 3 {
		t.Errorf("after a delete the version is %d: a number was given twice", res.App.Version)
	}
	for i := range keepVersions + 5 {
		r.do(app(t, "xterm", strings.Repeat("x", i+1)))
	}
	a, _ := r.s.apps.Get("xterm")
	if len(a.Versions) != keepVersions {
		t.Errorf("%d versions are kept, want %d", len(a.Versions), keepVersions)
	}
	r.refused(api.CodeInvalid, &PutApp{Doc: []byte(`{"name":"no spaces"}`)})
}

func TestTokensAndAccounts(t *testing.T) {
	r := newRig(t)
	put := func(account, id string, ttl time.Duration) *PutToken {
		return &PutToken{Account: account, ID: id, Rights: []api.Right{api.RightSessions}, Expires: r.now.Add(ttl), Uses: -1}
	}
	r.do(put("alice", "a1", time.Hour), put("alice", "a2", 100*time.Hour), put("bob", "b1", 100*time.Hour))
	r.refused(api.CodeConflict, put("bob", "a1", time.Hour))
	r.refused(api.CodeInvalid, put("", "x", time.Hour))
	r.refused(api.CodeNotFound, &RevokeToken{Account: "bob", ID: "a1"})
	r.refused(api.CodeNotFound, &RevokeToken{Account: "none"})
	r.do(&RevokeToken{Account: "bob", ID: "b1"})
	if _, ok := r.s.Token("b1"); ok {
		t.Error("a revoked token is known")
	}
	r.now = r.now.Add(Keep + 2*time.Hour)
	r.do(&Tick{})
	accounts := r.s.Accounts()
	if len(accounts) != 2 || accounts[0].Name != "alice" || len(accounts[0].Tokens) != 1 || accounts[0].Tokens[0].TokenID != "a2" || len(accounts[1].Tokens) != 0 {
		t.Errorf("accounts are %+v", accounts)
	}
	r.do(&DeleteAccount{Name: "alice"})
	if _, ok := r.s.Token("a2"); ok || len(r.s.Accounts()) != 1 {
		t.Error("a deleted account's token is known")
	}
	r.refused(api.CodeNotFound, &DeleteAccount{Name: "alice"})
}

func TestTheFirstSecretsStay(t *testing.T) {
	r := newRig(t)
	r.do(&Secrets{TicketSeed: []byte("one"), RingKey: []byte("r1")})
	r.do(&Secrets{TicketSeed: []byte("two"), RingKey: []byte("r2")})
	if got := r.s.Secrets(); string(got.TicketSeed) != "one" || string(got.RingKey) != "r1" {
		t.Errorf("the keys are %q and %q", got.TicketSeed, got.RingKey)
	}
}

func TestFinishedSessionsAreKeptADay(t *testing.T) {
	r := newRig(t)
	for i := range 3 * chunkSize {
		c := creation(string(rune('A'+i%26))+strings.Repeat("x", i/26), "n1")
		r.do(c)
		r.report(string(c.ID), api.ObservedStopped, 1)
	}
	count := func() int {
		n := 0
		for range r.s.Finished() {
			n++
		}
		return n
	}
	if count() != 3*chunkSize || len(r.s.finished.chunks) != 3 {
		t.Fatalf("%d finished sessions in %d chunks", count(), len(r.s.finished.chunks))
	}
	r.now = r.now.Add(Keep - time.Duration(3*chunkSize)*time.Second) // the first chunk is older than a day
	r.do(&Tick{})
	if count() != 2*chunkSize {
		t.Errorf("%d finished sessions are left, want %d", count(), 2*chunkSize)
	}
	if _, ok := r.s.Session("A"); ok {
		t.Error("a session of yesterday is still known")
	}
	r.now = r.now.Add(Keep)
	r.do(&Tick{})
	if count() != 0 || r.s.finished.records.Len() != 0 {
		t.Errorf("%d finished sessions and %d records are left", count(), r.s.finished.records.Len())
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

func TestDemandIsBounded(t *testing.T) {
	r := newRig(t)
	minute := epoch.Unix() / 60
	for i := range maxDemand + 10 {
		r.do(&Demand{Cells: []api.DemandCell{{Minute: minute + int64(i), App: "xterm", Count: 1}}})
	}
	cells := r.s.Demand()
	if len(cells) != maxDemand || cells[0].Minute != minute+10 {
		t.Errorf("%d cells from minute %d are kept, want %d from %d", len(cells), cells[0].Minute, maxDemand, minute+10)
	}
	r.now = r.now.Add(3 * Keep)
	r.do(&Tick{})
	if left := len(r.s.Demand()); left != 0 {
		t.Errorf("%d cells of days ago are left", left)
	}
}

// TestFinishedSessionsAreBounded forgets the oldest before a day is over when
// there are too many.
func TestFinishedSessionsAreBounded(t *testing.T) {
	var f finished
	var forgotten []string
	for i := range 3*chunkSize + 10 {
		s := &Session{Session: api.Session{ID: api.SessionID(fmt.Sprint("s", i)), Account: "a", EndedAt: epoch}, Key: fmt.Sprint("k", i)}
		forgotten = append(forgotten, f.add(uint64(1+i/7), s, 2*chunkSize)...)
	}
	left := slices.Collect(f.ids())
	if len(left) != chunkSize+10 || left[0] != api.SessionID(fmt.Sprint("s", 2*chunkSize)) || len(forgotten) != 2*chunkSize || forgotten[0] != idemKey("a", "k0") {
		t.Errorf("%d are left from %s on, %d keys are forgotten", len(left), left[0], len(forgotten))
	}
	if old, young := (&tx{entry: 1}).maxFinished(), (&tx{entry: 2}).maxFinished(); old != 200_000 || young < 1_000_000 {
		t.Errorf("entries of version 1 keep %d, of version 2 %d", old, young)
	}
	newest := slices.Collect(f.newest())
	slices.Reverse(newest)
	if !slices.Equal(newest, left) {
		t.Error("from the newest on there are others")
	}
}
