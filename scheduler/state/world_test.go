package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
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

func node(t testing.TB, id string, streams uint64) *PutNode {
	return &PutNode{
		Doc: doc(t, api.Node{ID: api.NodeID(id), Name: id, Region: "eu", Boot: "b1", Pools: []api.Capacity{
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
	want, sessions, hosted := map[key]uint64{}, map[key]int{}, map[api.NodeID]int{}
	for v := range s.Sessions() {
		if v.Wait != nil && (v.Node != "" || v.Reserved != 0) {
			t.Fatalf("%s waits and holds %d on %q", v.ID, v.Reserved, v.Node)
		}
		if v.Node == "" {
			continue
		}
		want[key{v.Node, v.Pool}] += v.Reserved
		sessions[key{v.Node, v.Pool}]++
		hosted[v.Node]++
	}
	for n := range s.Nodes() {
		for _, h := range n.Held {
			want[key{n.ID, h.Pool}] += h.Reserved
			sessions[key{n.ID, h.Pool}]++
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

// randomCommand draws any command with names from a small world, so that they
// meet.
func randomCommand(t testing.TB, r *rand.Rand, s *State) Command {
	pick := func(prefix string, n int) string { return fmt.Sprintf("%s%d", prefix, r.IntN(n)) }
	nodeID, session := pick("n", 4), pick("s", 60)
	running := func() (out []api.Running) {
		for v := range s.Sessions() {
			if r.IntN(2) == 0 {
				out = append(out, api.Running{Session: v.ID, Generation: v.Generation, Observed: api.ObservedRunning, Connected: r.IntN(2) == 0})
			}
		}
		return out
	}
	kinds := 22
	if s.EntryVersion() >= 2 {
		kinds = 29
	}
	if s.EntryVersion() >= 3 {
		kinds = 31
	}
	switch r.IntN(kinds) {
	case 29:
		return &PutShare{ID: api.SessionID(session), Number: uint32(r.IntN(3)), Seat: api.Seat{Role: api.RoleViewer}, Description: pick("d", 3), Expires: s.Now().Add(time.Hour)}
	case 30:
		return &DropShare{ID: api.SessionID(session), Number: 1 + uint32(r.IntN(3))}
	case 22, 23, 24:
		c := creation(session, "")
		c.App, c.Account, c.Pool, c.Codec, c.Reserved = pick("app", 3), pick("acc", 3), "", "", 0
		if r.IntN(3) == 0 {
			c.Token = pick("tok", 4)
		}
		return &Queue{Create: *c, Until: s.Now().Add(time.Hour), Limit: 12, AccountLimit: 8, Ask: Ask{Region: "eu"}}
	case 25, 26, 27:
		m := &Place{ID: api.SessionID(session), From: 1, Generation: 1, Node: api.NodeID(nodeID), Pool: api.PoolCPU, Codec: api.H264, Region: "eu", Reserved: oneHD(), Screen: hd}
		for v := range s.Waiting {
			m.ID = v.ID // the first one
			break
		}
		if v, ok := s.Live(m.ID); ok && r.IntN(4) > 0 {
			m.From, m.Generation = v.Generation, v.Generation
			if v.Observed == api.ObservedLost {
				m.Generation++
			}
		}
		return m
	case 28:
		if r.IntN(2) == 0 {
			return &PutPolicy{Account: pick("acc", 3), Doc: []byte(`{"trunk":true}`)}
		}
		return &Routes{Routes: []Route{{Network: pick("net", 5), Node: api.NodeID(nodeID), Tenths: r.Uint64N(500), At: s.Now().Unix() / 60}}}
	case 0, 1, 2, 3, 4, 5:
		c := creation(session, nodeID)
		c.App, c.Account = pick("app", 3), pick("acc", 3)
		c.AppVersion = 1 + r.IntN(2)
		c.Pool = []api.Pool{api.PoolCPU, api.PoolNVENC}[r.IntN(2)]
		c.Reserved = api.Cost(c.Pool, c.Codec, hd)
		if r.IntN(3) == 0 {
			c.Key = pick("key", 10)
		}
		if r.IntN(3) == 0 {
			c.Token = pick("tok", 4)
		}
		if r.IntN(12) == 0 {
			c.Node = ""
		}
		return c
	case 6, 7:
		return &End{ID: api.SessionID(session), Reason: api.ReasonDeleted, Force: r.IntN(2) == 0}
	case 8:
		j := &Join{ID: api.SessionID(session)}
		if r.IntN(2) == 0 {
			j.Screen = api.Screen{Width: 640 * (1 + r.IntN(3)), Height: 360, FPS: 30, Density: 240}
		}
		return j
	case 9, 10, 11, 12, 13:
		m := &Report{ID: api.SessionID(session), Generation: 1, Node: api.NodeID(nodeID), Boot: pick("b", 2), Seq: r.Uint64N(1000), Connected: r.IntN(2) == 0}
		if v, ok := s.Live(m.ID); ok && r.IntN(4) > 0 {
			m.Node, m.Generation = v.Node, v.Generation
		}
		m.Observed = []api.Observed{api.ObservedStarting, api.ObservedRunning, api.ObservedRunning, api.ObservedStopped, api.ObservedFailed}[r.IntN(5)]
		if r.IntN(8) == 0 {
			m.Pool, m.Codec = api.PoolCPU, api.VP9
		}
		return m
	case 14:
		return &Missing{ID: api.SessionID(session), Generation: 1, Node: api.NodeID(nodeID)}
	case 15:
		return node(t, nodeID, 1+r.Uint64N(8))
	case 16:
		if r.IntN(3) == 0 {
			return &RemoveNode{ID: api.NodeID(nodeID)}
		}
		return &LoseNode{ID: api.NodeID(nodeID)}
	case 17:
		return &BackNode{ID: api.NodeID(nodeID), Running: running()}
	case 18:
		if r.IntN(4) == 0 {
			return &DeleteApp{Name: pick("app", 3)}
		}
		return app(t, pick("app", 3), pick("cmd", 2))
	case 19:
		return &PutToken{Account: pick("acc", 3), ID: pick("tok", 4), Rights: []api.Right{api.RightCreate}, Expires: epoch.Add(time.Duration(r.IntN(100)) * time.Hour), Uses: r.IntN(5) - 1}
	case 20:
		switch r.IntN(4) {
		case 0:
			return &RevokeToken{Account: pick("acc", 3)}
		case 1:
			return &DeleteAccount{Name: pick("acc", 3)}
		case 2:
			return &DrainNode{ID: api.NodeID(nodeID), Drain: r.IntN(2) == 0}
		default:
			return &Secrets{TicketSeed: []byte(pick("seed", 9)), RingKey: []byte("ring")}
		}
	default:
		if r.IntN(2) == 0 {
			return &Tick{}
		}
		return &Demand{Cells: []api.DemandCell{{Minute: s.Now().Unix() / 60, App: "xterm", Codec: api.H264, Size: "1280x720@60", Reason: api.RefusedEncoder, Count: 3}}}
	}
}
