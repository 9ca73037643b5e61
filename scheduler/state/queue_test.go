package state

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// newQueueRig is a cluster of version 2 with room for six sessions.
func newQueueRig(t testing.TB) *rig {
	r := newRig(t)
	r.do(&Raise{Version: 2})
	return r
}

func asks(id, account string, change ...func(*Queue)) *Queue {
	c := creation(id, "")
	c.Account, c.Pool, c.Codec, c.Reserved = account, "", "", 0
	q := &Queue{Create: *c, Until: epoch.Add(time.Hour), Limit: 10, AccountLimit: 5, Ask: Ask{Region: "eu"}}
	for _, f := range change {
		f(q)
	}
	return q
}

func order(s *State) string {
	var ids []string
	for v := range s.Waiting {
		ids = append(ids, string(v.ID))
	}
	return strings.Join(ids, " ")
}

func give(id, node string) *Place {
	return &Place{ID: api.SessionID(id), From: 1, Generation: 1, Node: api.NodeID(node), Pool: api.PoolCPU, Codec: api.H264, Region: "eu", Reserved: oneHD(), Screen: hd}
}

func TestQueueTakesTurns(t *testing.T) {
	r := newQueueRig(t)
	r.do(asks("a1", "alice"), asks("a2", "alice"), asks("a3", "alice"), asks("b1", "bob"), asks("b2", "bob"))
	if got := order(r.s); got != "a1 b1 a2 b2 a3" {
		t.Fatalf("the queue is %s", got)
	}
	r.do(give("a1", "n1"), asks("c1", "carol"))
	if got := order(r.s); got != "b1 a2 b2 c1 a3" {
		t.Fatalf("after one was placed and another account came, the queue is %s", got)
	}
	v, _ := r.s.Session("a3")
	if v.Status() != api.StatusCreated || v.Queue == nil || v.Queue.Position != 5 || v.Queue.Length != 5 || v.Queue.EtaS != 0 {
		t.Errorf("the last one is %s with %+v", v.Status(), v.Queue)
	}
	if v, _ := r.s.Session("a1"); v.Queue != nil || v.Node != "n1" || v.PlacedAt.IsZero() {
		t.Errorf("the placed one is %+v", v)
	}
	again := r.do(asks("a9", "alice", func(q *Queue) { q.Create.Key = "k" }))
	if dup := r.do(asks("a10", "alice", func(q *Queue) { q.Create.Key = "k" })); !dup.Duplicate || dup.Session.ID != again.Session.ID || dup.Session.Queue == nil {
		t.Errorf("asked again by the same key: %+v", dup)
	}
	checkLedger(t, r.s)
	back, err := Read(bytes.NewReader(dump(t, r.s)))
	if err != nil {
		t.Fatal(err)
	}
	if order(back) != order(r.s) || !bytes.Equal(dump(t, back), dump(t, r.s)) {
		t.Errorf("the queue came back as %s, want %s", order(back), order(r.s))
	}
}

func TestQueueIsBounded(t *testing.T) {
	r := newQueueRig(t)
	for i := range 5 {
		r.do(asks(fmt.Sprintf("a%d", i), "alice"))
	}
	if e := r.refused(api.CodeNoCapacity, asks("a5", "alice")); !strings.Contains(e.Message, "this account") {
		t.Errorf("an account over its bound is told %q", e.Message)
	}
	for i := range 5 {
		r.do(asks(fmt.Sprintf("b%d", i), "bob"))
	}
	if e := r.refused(api.CodeNoCapacity, asks("c0", "carol")); !strings.Contains(e.Message, "queue is full") {
		t.Errorf("a full queue says %q", e.Message)
	}
}

func TestLeavingTheQueue(t *testing.T) {
	r := newQueueRig(t)
	r.do(&PutToken{Account: "alice", ID: "tok", Expires: epoch.Add(time.Hour), Uses: 2})
	paid := func(q *Queue) { q.Create.Token = "tok" }
	r.do(asks("a1", "alice", paid), asks("a2", "alice", paid))
	r.refused(api.CodeForbidden, asks("a3", "alice", paid))
	if res := r.do(&End{ID: "a1", Reason: api.ReasonDeleted}); res.Session.Status() != api.StatusTerminated {
		t.Errorf("one that was deleted is %s", res.Session.Status())
	}
	if res := r.do(&End{ID: "a2", Reason: api.ReasonNoCapacity}); res.Session.Status() != api.StatusError || res.Session.Reason != api.ReasonNoCapacity {
		t.Errorf("one that waited in vain is %s, %s", res.Session.Status(), res.Session.Reason)
	}
	if tok, _ := r.s.Token("tok"); tok.Uses != 2 || r.s.WaitingCount() != 0 {
		t.Errorf("%d uses are left and %d sessions wait, want 2 and none", tok.Uses, r.s.WaitingCount())
	}
	r.refused(api.CodeConflict, give("a1", "n1"))
	if used, _ := r.reserved("n1", api.PoolCPU); used != 0 {
		t.Errorf("%d is reserved for one that had left", used)
	}
}

// TestEtaFollowsTheEnds holds that the estimate is the position times the time
// between ends, and never beyond the wait's own end.
func TestEtaFollowsTheEnds(t *testing.T) {
	r := newQueueRig(t)
	for i := range 4 {
		id := fmt.Sprintf("s%d", i)
		r.do(creation(id, "n2"))
		r.now = r.now.Add(9 * time.Second)
		r.report(id, api.ObservedStopped, 1)
	}
	r.do(asks("a1", "alice"), asks("a2", "alice"))
	v, _ := r.s.Session("a2")
	if v.Queue.EtaS < 15 || v.Queue.EtaS > 25 {
		t.Errorf("the second of a queue where one ends each 11 s is to wait for %d s", v.Queue.EtaS)
	}
	r.do(asks("b1", "bob", func(q *Queue) { q.Until = r.now.Add(5 * time.Second) }))
	if v, _ := r.s.Session("b1"); v.Queue.EtaS > 6 {
		t.Errorf("one that waits for 5 s is to wait for %d s", v.Queue.EtaS)
	}
}

func TestLostSessionIsPlacedAgain(t *testing.T) {
	r := newQueueRig(t)
	r.do(creation("s1", "n1"))
	r.report("s1", api.ObservedRunning, 1)
	again := give("s1", "n2")
	again.Generation = 2
	r.refused(api.CodeConflict, again) // its node is heard
	r.do(&LoseNode{ID: "n1"})
	stale := give("s1", "n2")
	r.refused(api.CodeConflict, stale) // a new place needs a new generation
	res := r.do(again)
	if res.Session.Status() != api.StatusCreated || res.Session.Generation != 2 || res.Session.Node != "n2" || res.Session.Reason != "" {
		t.Errorf("placed again it is %+v", res.Session)
	}
	checkLedger(t, r.s)
	if used, _ := r.reserved("n1", api.PoolCPU); used != oneHD() {
		t.Errorf("the lost node holds %d, want what it may still run", used)
	}
	r.do(&BackNode{ID: "n1", Running: []api.Running{{Session: "s1", Generation: 1, Observed: api.ObservedRunning}}})
	if res := r.do(&Report{ID: "s1", Generation: 1, Node: "n1", Boot: "b1", Seq: 9, Observed: api.ObservedRunning}); !res.Stop {
		t.Error("the earlier generation may go on")
	}
	r.do(&Report{ID: "s1", Generation: 1, Node: "n1", Boot: "b1", Seq: 10, Observed: api.ObservedStopped})
	if used, _ := r.reserved("n1", api.PoolCPU); used != 0 {
		t.Errorf("the node is back, has stopped it and still holds %d", used)
	}
	if v, _ := r.s.Live("s1"); v.Node != "n2" {
		t.Errorf("it runs on %s", v.Node)
	}
}

func TestPoliciesAndRoutesAreKept(t *testing.T) {
	r := newQueueRig(t)
	r.refused(api.CodeNotFound, &PutPolicy{Account: "alice", Doc: []byte(`{}`)})
	r.do(&PutToken{Account: "alice", ID: "tok", Expires: epoch.Add(time.Hour), Uses: -1},
		&PutPolicy{Account: "alice", Doc: []byte(`{"trunk":true,"later":1}`)})
	r.refused(api.CodeInvalid, &PutPolicy{Account: "alice", Doc: []byte(`[]`)})
	for i := range MaxRoutes + 4 {
		r.do(&Routes{Routes: []Route{{Network: "AS64500", Node: api.NodeID(fmt.Sprintf("n%d", i)), Tenths: uint64(i), At: int64(i)}}})
	}
	r.do(&Routes{Routes: []Route{{Network: "192.0.2.0/24", Node: "n1", Tenths: 123, At: 5}}})
	back, err := Read(bytes.NewReader(dump(t, r.s)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(dump(t, back), dump(t, r.s)) {
		t.Error("the snapshot does not come back the same")
	}
	if p, ok := back.Policy("alice"); !ok || !p.Trunk {
		t.Errorf("the policy came back as %+v", p)
	}
	if got := back.Routes("192.0.2.0/24"); len(got) != 1 || got[0].Tenths != 123 {
		t.Errorf("the route came back as %+v", got)
	}
	all := back.Routes("AS64500")
	if len(all) != MaxRoutes {
		t.Fatalf("a network keeps %d routes, want %d", len(all), MaxRoutes)
	}
	for _, x := range all {
		if x.At < 4 {
			t.Errorf("the route of minute %d stayed where later ones came", x.At)
		}
	}
	r.do(&PutPolicy{Account: "alice"})
	if _, ok := r.s.Policy("alice"); ok {
		t.Error("a policy that was taken away is there")
	}
}

func TestNetworksAreBounded(t *testing.T) {
	s := New()
	m := &Routes{}
	for i := range maxNetworks + 1 {
		m.Routes = append(m.Routes, Route{Network: fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255), Node: "n", At: int64(i)})
	}
	tx := &tx{State: *s}
	m.apply(tx)
	if n := tx.networks.Len(); n > maxNetworks || n < maxNetworks-maxNetworks/leaveShare {
		t.Errorf("%d networks are kept", n)
	}
	if tx.Routes("10.0.0.0/24") != nil || tx.Routes(m.Routes[maxNetworks].Network) == nil {
		t.Error("not the network that was silent longest has left")
	}
}

// TestSnapshotV2 holds the bytes of a snapshot with all that version 2 brought.
func TestSnapshotV2(t *testing.T) {
	r := newQueueRig(t)
	c := creation("s1", "n1")
	c.Placement.Step, c.Placement.ExtraMS, c.Preset = api.StepPreset, 2.5, api.PresetFast
	r.do(c, creation("s2", "n1"), asks("a1", "alice"), asks("b1", "bob"),
		&PutToken{Account: "alice", ID: "tok", Expires: epoch.Add(time.Hour), Uses: 5},
		&PutPolicy{Account: "alice", Doc: []byte(`{"trunk":true}`)},
		&Routes{Routes: []Route{{Network: "192.0.2.0/24", Node: "n1", Tenths: 123, Spread: 15, Weight: 42, Samples: 7, At: 29700000}}})
	r.do(&LoseNode{ID: "n1"})
	again := give("s2", "n2")
	again.Generation = 2
	r.do(again)
	keptSnapshot(t, "testdata/snapshot_v2.txt", r.s)
}
