package state

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// epoch is the test's first stamp.
var epoch = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func doc(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var hd = api.Screen{Width: 1280, Height: 720, FPS: 60, Density: 240}

// oneHD is what one 1280x720@60 H.264 stream takes.
func oneHD() uint64 { return api.Cost(api.PoolCPU, api.H264, hd) }

func node(t testing.TB, id string, streams uint64) *PutNode { return nodeWith(t, id, streams, nil) }

// nodeWith is a node that also says what it has beside its encoders.
func nodeWith(t testing.TB, id string, streams uint64, m *api.Machine) *PutNode {
	return &PutNode{
		Doc: doc(t, api.Node{ID: api.NodeID(id), Name: id, Region: "eu", Boot: "b1", Machine: m, Pools: []api.Capacity{
			{Pool: api.PoolCPU, Macroblocks: streams * oneHD(), Codecs: api.SoftwareCodecs()},
			{Pool: api.PoolNVENC, Macroblocks: streams * oneHD(), Sessions: 3, Codecs: []api.Codec{api.H264}},
		}}),
		RelaySecret: []byte("0123456789abcdef"),
	}
}

func app(t testing.TB, name, cmd string) *PutApp {
	return &PutApp{Doc: doc(t, api.App{Name: name, Kind: api.AppProgram, Command: []string{cmd}})}
}

func creation(id, node string) *Create {
	return &Create{
		ID: api.SessionID(id), Generation: 1, Account: "alice", App: "xterm", AppVersion: 1, Region: "eu",
		Node: api.NodeID(node), Pool: api.PoolCPU, Codec: api.H264, Codecs: api.SoftwareCodecs(), Reserved: oneHD(), Screen: hd,
		Joinable: true, IdleMinutes: api.IdleUnset,
		Placement: api.Placement{Rank: 1, DistanceKM: 312.5, EstimateMS: 5.25, ErrorMS: 1.5, Source: "distance"},
	}
}

// rig applies commands and keeps the present root.
type rig struct {
	t   testing.TB
	s   *State
	now time.Time
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, s: New(), now: epoch}
	r.do(node(t, "n1", 2), node(t, "n2", 4), app(t, "xterm", "xterm"))
	return r
}

// try applies commands a second later and gives their results.
func (r *rig) try(cmds ...Command) []Result {
	r.t.Helper()
	r.now = r.now.Add(time.Second)
	next, results, err := r.s.Apply(EncodeAs(EntryVersion, r.now, cmds...))
	if err != nil {
		r.t.Fatal(err)
	}
	r.s = next
	return results
}

// do applies commands that must succeed and gives the last result.
func (r *rig) do(cmds ...Command) Result {
	r.t.Helper()
	results := r.try(cmds...)
	for i, res := range results {
		if res.Err != nil {
			r.t.Fatalf("%T: %v", cmds[i], res.Err)
		}
	}
	return results[len(results)-1]
}

func (r *rig) refused(code api.Code, c Command) *api.Error {
	r.t.Helper()
	res := r.try(c)[0]
	if api.CodeOf(res.Err) != code {
		r.t.Fatalf("%T answered %v, want %s", c, res.Err, code)
	}
	return res.Err.(*api.Error)
}

func (r *rig) report(id string, o api.Observed, seq uint64, change ...func(*Report)) Result {
	r.t.Helper()
	s, ok := r.s.Live(api.SessionID(id))
	if !ok {
		r.t.Fatalf("no live session %s", id)
	}
	m := &Report{ID: s.ID, Generation: s.Generation, Node: s.Node, Boot: "b1", Seq: seq, Observed: o, Connected: s.Connected}
	for _, f := range change {
		f(m)
	}
	return r.do(m)
}

func (r *rig) reserved(n string, p api.Pool) (uint64, int) {
	r.t.Helper()
	v, ok := r.s.Node(api.NodeID(n))
	if !ok {
		r.t.Fatalf("no node %s", n)
	}
	return v.Reserved(p)
}

func dump(t testing.TB, s *State) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := s.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// checkLedger recounts the ledger from the sessions and what nodes hold.
func checkLedger(t testing.TB, s *State) {
	t.Helper()
	type key struct {
		node api.NodeID
		pool api.Pool
	}
	want, sessions, hosted, beside := map[key]uint64{}, map[key]int{}, map[api.NodeID]int{}, map[api.NodeID]*partsUsed{}
	count := func(n api.NodeID, p api.Parts) {
		if beside[n] == nil {
			beside[n] = &partsUsed{}
		}
		beside[n].add(p)
	}
	for v := range s.Sessions() {
		if v.Wait != nil && (v.Node != "" || v.Reserved != 0 || v.Takes() != api.Parts{}) {
			t.Fatalf("%s waits and holds %d and %+v on %q", v.ID, v.Reserved, v.Takes(), v.Node)
		}
		if v.Node == "" {
			continue
		}
		want[key{v.Node, v.Pool}] += v.Reserved
		sessions[key{v.Node, v.Pool}]++
		hosted[v.Node]++
		count(v.Node, v.Takes())
	}
	warm := 0
	for v := range s.Sessions() {
		if v.Warm {
			warm++
		}
	}
	if known := s.WarmCount(); known != warm {
		t.Fatalf("%d instances are known to be nobody's, and %d are", known, warm)
	}
	for n := range s.Nodes() {
		for _, h := range n.Held {
			want[key{n.ID, h.Pool}] += h.Reserved
			sessions[key{n.ID, h.Pool}]++
			count(n.ID, h.Parts)
		}
		count(n.ID, api.Parts{})
		if got, want := n.parts.clone(), *beside[n.ID]; !sameParts(got, want) {
			t.Fatalf("the ledger of %s shows %+v beside the pools, the sessions sum to %+v", n.ID, got, want)
		}
		for _, p := range []api.Pool{api.PoolCPU, api.PoolNVENC, api.PoolVAAPI} {
			used, k := n.Reserved(p)
			if used != want[key{n.ID, p}] || k != sessions[key{n.ID, p}] {
				t.Fatalf("the ledger of %s/%s shows %d in %d sessions, the sessions sum to %d in %d",
					n.ID, p, used, k, want[key{n.ID, p}], sessions[key{n.ID, p}])
			}
		}
		if n.SessionCount() != hosted[n.ID] {
			t.Fatalf("%s lists %d sessions and hosts %d", n.ID, n.SessionCount(), hosted[n.ID])
		}
	}
}

// checkQueue holds that the queue is exactly the sessions that wait, in order.
func checkQueue(t testing.TB, s *State) {
	t.Helper()
	n := 0
	for v := range s.Sessions() {
		if v.Wait != nil {
			n++
		}
	}
	var last *Session
	for v := range s.Waiting {
		n--
		if v.Wait == nil || last != nil && !(last.Wait.Turn < v.Wait.Turn || last.Wait.Turn == v.Wait.Turn && last.Wait.Seq < v.Wait.Seq) {
			t.Fatalf("%s stands in the queue out of order", v.ID)
		}
		last = v
	}
	if n != 0 || s.WaitingCount() > 12 {
		t.Fatalf("the queue of %d lacks %d waiting sessions", s.WaitingCount(), n)
	}
}

// sameParts compares two sums; a processor that nobody uses may stand or not.
func sameParts(a, b partsUsed) bool {
	whole := func(u partsUsed) partsUsed {
		for len(u.vram) > 0 && u.vram[len(u.vram)-1] == 0 {
			u.vram = u.vram[:len(u.vram)-1]
		}
		u.vram = slices.Clip(append([]uint64{}, u.vram...))
		return u
	}
	return reflect.DeepEqual(whole(a), whole(b))
}
