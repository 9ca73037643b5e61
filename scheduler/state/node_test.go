package state

import (
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

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
