package place

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

type everywhere struct{}

func (everywhere) Alive(*state.Node) bool                    { return true }
func (everywhere) Headroom(*state.Node) (api.Headroom, bool) { return api.Headroom{}, false }
func hd(fps int) api.Screen                                  { return api.Screen{Width: 1280, Height: 720, FPS: fps} }
func at(latitude, longitude float64, radius float64) api.Location {
	return api.Location{Known: true, Latitude: latitude, Longitude: longitude, RadiusKM: radius}
}

// roots builds states by commands, as a replica does.
type roots struct {
	t   testing.TB
	now *state.State
	n   int
}

func newRoots(t testing.TB) *roots {
	r := &roots{t: t, now: state.New()}
	r.apply(&state.PutApp{Doc: []byte(`{"name":"xterm","kind":"program","command":["xterm"]}`)})
	return r
}

func (r *roots) apply(cmds ...state.Command) []state.Result {
	r.t.Helper()
	next, results, err := r.now.Apply(state.EncodeAs(state.EntryVersion, time.Unix(1_790_000_000, 0), cmds...))
	if err != nil {
		r.t.Fatal(err)
	}
	r.now = next
	return results
}

func (r *roots) put(n api.Node) {
	r.t.Helper()
	doc, err := json.Marshal(n)
	if err != nil {
		r.t.Fatal(err)
	}
	if res := r.apply(&state.PutNode{Doc: doc}); res[0].Err != nil {
		r.t.Fatal(res[0].Err)
	}
}

func (r *roots) create(c Choice) error {
	r.n++
	return r.apply(&state.Create{ID: api.SessionID(fmt.Sprint("s", r.n)), Generation: 1, App: "xterm", AppVersion: 1, Node: c.Node, Region: c.Region,
		Pool: c.Pool, Codec: c.Codec, Reserved: c.Cost, Parts: c.Parts, Screen: hd(c.FPS)})[0].Err
}

func randomNode(rnd *rand.Rand, i int) api.Node {
	n := api.Node{ID: api.NodeID(fmt.Sprintf("n%04d", i)), Boot: "b", Region: [...]string{"eu", "us", "ap"}[rnd.IntN(3)], Labels: map[string]string{"rack": fmt.Sprint(rnd.IntN(3))}}
	if rnd.IntN(20) > 0 {
		n.Location = at(rnd.Float64()*180-90, rnd.Float64()*360-180, float64(rnd.IntN(50)))
	}
	n.Pools = []api.Capacity{{Pool: api.PoolCPU, Macroblocks: uint64(1+rnd.IntN(4)) * 216_000, Codecs: []api.Codec{api.H264, api.VP8}}}
	if rnd.IntN(2) == 0 {
		n.Pools = append(n.Pools, api.Capacity{Pool: api.PoolNVENC, Macroblocks: uint64(1+rnd.IntN(8)) * 216_000, Sessions: 2, Codecs: []api.Codec{api.H264, api.AV1}})
	}
	if rnd.IntN(3) > 0 {
		n.Machine = &api.Machine{CPUMillis: uint64(rnd.IntN(9)) * 1000, UplinkKbps: uint64(rnd.IntN(9)) * 3000}
		for i := range rnd.IntN(3) {
			n.Machine.GPUs = append(n.Machine.GPUs, api.GPUMemory{Device: fmt.Sprint(i), VRAMMiB: uint64(rnd.IntN(4)) * 2048})
		}
	}
	return n
}

// slowly finds the best score among all nodes by looking at each of them with
// the same rules, written down again from the documentation.
func slowly(root *state.State, q *Query) (best float64, found bool) {
	best = math.Inf(1)
	for n := range root.Nodes() {
		if n.Lost || n.Drain || q.Need.Region != "" && n.Region != q.Need.Region {
			continue
		}
		room := false
		for _, codec := range q.Need.Codecs {
			for _, p := range n.Pools {
				_, fits := n.Fits(p.Pool, codec, api.Cost(p.Pool, codec, q.Need.Screen), 0, 0)
				room = room || fits
			}
		}
		if _, carries := n.Carries(n.OnGPU(Takes(&q.Need, q.Need.Screen.FPS))); !room || !carries {
			continue
		}
		score := float64(scoreUnknown)
		if km := geo.Distance(q.Need.Client, n.Location); km >= 0 {
			score, _ = geo.Estimate(km, 0)
		}
		for _, p := range q.Need.Probes {
			if p.Node == n.ID {
				score = p.RoundTripMS
			}
		}
		best, found = min(best, score), true
	}
	return best, found
}

// TestPlaceAgainstLookingAtAll follows a fleet that changes in every way and
// compares each placement with the best of all nodes. What is placed fits the
// ledger: the state refuses none.
func TestPlaceAgainstLookingAtAll(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	r, f := newRoots(t), NewFleet()
	placed, refused := 0, 0
	for i := range 3000 {
		id := api.NodeID(fmt.Sprintf("n%04d", rnd.IntN(600)))
		switch k := rnd.IntN(10); {
		case k < 4 || i < 500:
			r.put(randomNode(rnd, rnd.IntN(600)))
		case k == 4:
			r.apply(&state.RemoveNode{ID: id})
		case k == 5:
			r.apply(&state.DrainNode{ID: id, Drain: rnd.IntN(2) == 0})
		case k == 6:
			r.apply(&state.LoseNode{ID: id})
		}
		f.Sync(r.now)
		q := &Query{Need: api.Need{Screen: hd(60), Codecs: []api.Codec{api.H264, api.VP8}}}
		if rnd.IntN(8) > 0 {
			q.Need.Client = at(rnd.Float64()*180-90, rnd.Float64()*360-180, 0)
		}
		if rnd.IntN(3) == 0 {
			q.Need.Region = [...]string{"eu", "us", "ap", "none"}[rnd.IntN(4)]
		}
		if q.Need.Counted = rnd.IntN(4) > 0; q.Need.Counted {
			q.Need.Parts = api.Parts{CPUMillis: uint64(rnd.IntN(3)) * 1000}
			if rnd.IntN(4) == 0 {
				q.Need.Parts.VRAMMiB = uint64(1+rnd.IntN(4)) * 1024
			}
		}
		want, ok := slowly(r.now, q)
		choice, found := f.Place(q, Operator{}, everywhere{})
		if found != ok {
			t.Fatalf("step %d: found is %v, want %v", i, found, ok)
		}
		lines := f.Explain(q, Operator{}, everywhere{}, 32)
		if !found {
			refused++
			if len(lines) > 0 && lines[0].Rank != 0 {
				t.Fatalf("step %d: nobody was chosen and the first line says %+v", i, lines[0])
			}
			continue
		}
		placed++
		got := choice.Placement.EstimateMS
		if got < 0 {
			got = scoreUnknown
		}
		if got < want-1e-6 || got > want+tieMost {
			t.Fatalf("step %d: placed at %v ms, the best is %v", i, got, want)
		}
		if lines[0].Node != choice.Node || len(lines) > 32 {
			t.Fatalf("step %d: placed on %s, %d lines, the first is %+v", i, choice.Node, len(lines), lines[0])
		}
		if err := r.create(choice); err != nil {
			t.Fatalf("step %d: the ledger refused what was placed: %v", i, err)
		}
	}
	if placed < 1000 || refused < 50 {
		t.Errorf("%d placed, %d refused: the test has lost its point", placed, refused)
	}
}

// TestHeldRoomIsNotGivenTwice places a herd between two roots.
func TestHeldRoomIsNotGivenTwice(t *testing.T) {
	rnd := rand.New(rand.NewPCG(8, 8))
	r, f := newRoots(t), NewFleet()
	for i := range 200 {
		r.put(randomNode(rnd, i))
	}
	f.Sync(r.now)
	q := &Query{Need: api.Need{Screen: hd(60), Codecs: []api.Codec{api.H264}, Client: at(50, 10, 0), Parts: api.Parts{CPUMillis: 1000}, Counted: true}}
	var all []Choice
	for {
		c, ok := f.Place(q, Operator{}, everywhere{})
		if !ok {
			break
		}
		f.Hold(c.Node, c.Pool, c.Cost, c.Parts)
		all = append(all, c)
	}
	if len(all) < 250 {
		t.Fatalf("only %d placed", len(all))
	}
	for _, c := range all {
		if err := r.create(c); err != nil {
			t.Fatalf("the ledger refused what was placed: %v", err)
		}
	}
	f.Sync(r.now)
	for _, c := range all {
		f.Drop(c.Node, c.Pool, c.Cost, c.Parts)
		f.Drop(c.Node, c.Pool, c.Cost, c.Parts) // once too often gives nothing away
	}
	if c, ok := f.Place(q, Operator{}, everywhere{}); ok {
		t.Errorf("a full fleet took one more on %s", c.Node)
	}
}

// TestKeepLeavesRoomToOne keeps a node for a large session: smaller ones find none
// there, it finds it, also when the node says something new or moves.
func TestKeepLeavesRoomToOne(t *testing.T) {
	r, f := newRoots(t), NewFleet()
	n := api.Node{ID: "large", Boot: "b", Region: "eu", Location: at(50, 10, 0), Pools: []api.Capacity{{Pool: api.PoolCPU, Macroblocks: 4 * 216_000, Codecs: []api.Codec{api.H264}}}}
	r.put(n)
	tiny := n
	tiny.ID, tiny.Pools = "tiny", []api.Capacity{{Pool: api.PoolCPU, Macroblocks: 216_000, Codecs: []api.Codec{api.H264}}}
	r.put(tiny)
	f.Sync(r.now)
	q := func(fps int) *Query {
		return &Query{Need: api.Need{Screen: hd(fps), Codecs: []api.Codec{api.H264}, Client: at(50, 10, 0)}}
	}
	c, ok := f.Place(q(60), Operator{}, everywhere{})
	if !ok || c.Node != "large" || r.create(c) != nil {
		t.Fatalf("the first went to %+v", c)
	}
	f.Sync(r.now)
	if _, ok := f.Place(q(240), Operator{}, everywhere{}); ok {
		t.Fatal("a session of a whole node was placed beside another")
	}
	if node, ok := f.Keep("s", "", q(240), Operator{}, everywhere{}); !ok || node != "large" {
		t.Fatalf("kept is %q", node)
	}
	if _, ok := f.Keep("other", "", q(240), Operator{}, everywhere{}); ok {
		t.Error("of two nodes two are kept")
	}
	for range 2 {
		if c, ok := f.Place(q(60), Operator{}, everywhere{}); !ok || c.Node != "tiny" {
			t.Errorf("a small one goes to %+v", c)
		}
		lines := f.Explain(q(60), Operator{}, everywhere{}, 8)
		if last := lines[len(lines)-1]; last.Refusal == nil || last.Refusal.Code != api.RefusedKept {
			t.Errorf("the kept node is explained by %+v", last)
		}
		n.Location = at(51, 11, 0) // it moves
		r.put(n)
		f.Sync(r.now)
	}
	if _, ok := f.Keep("s", "large", q(480), Operator{}, everywhere{}); ok {
		t.Error("a node is kept for what is larger than it")
	}
	if node, ok := f.Keep("s", "large", q(240), Operator{}, everywhere{}); !ok || node != "large" {
		t.Errorf("kept again is %q", node)
	}
	if node := f.Release("s"); node != "large" {
		t.Errorf("released is %q", node)
	}
	if c, ok := f.Place(q(120), Operator{}, everywhere{}); !ok || c.Node != "large" {
		t.Errorf("when nothing is kept, one goes to %+v", c)
	}
}

// cities are where the benchmark's nodes and clients are: around 200 places.
func cities(rnd *rand.Rand, n int) []api.Location {
	out := make([]api.Location, n)
	centres := make([]api.Location, 200)
	for i := range centres {
		centres[i] = at(rnd.Float64()*120-55, rnd.Float64()*360-180, 0)
	}
	for i := range out {
		c := centres[rnd.IntN(len(centres))]
		out[i] = at(max(min(c.Latitude+rnd.NormFloat64()*0.5, 90), -90), max(min(c.Longitude+rnd.NormFloat64()*0.5, 180), -180), 0)
	}
	return out
}

// bigFleet is one in which nine of ten nodes are full.
func bigFleet(rnd *rand.Rand, n int) *Fleet {
	f := NewFleet()
	for i, place := range cities(rnd, n) {
		h := host{id: api.NodeID(fmt.Sprintf("n%06d", i)), region: "eu", place: place, node: &state.Node{}}
		used := uint64(rnd.IntN(5)) * 216_000
		if rnd.IntN(10) > 0 {
			used = 10 * 216_000
		}
		h.beside = &beside{most: amounts{64_000, 65_536, 1_000_000}, used: amounts{16_000, 16_384, 50_000}}
		h.pools[2] = poolOf(api.Capacity{Pool: api.PoolCPU, Macroblocks: 10 * 216_000, Codecs: api.SoftwareCodecs()}, used, 0)
		f.put(h)
	}
	f.ready()
	return f
}

func queries(rnd *rand.Rand) []Query {
	var out []Query
	for _, place := range cities(rnd, 512) {
		out = append(out, Query{Need: api.Need{Screen: hd(60), Codecs: api.SoftwareCodecs(), Client: place, Parts: api.Parts{CPUMillis: 2000, MemoryMiB: 1024}, Counted: true}})
	}
	return out
}

func BenchmarkPlace(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			rnd := rand.New(rand.NewPCG(1, 1))
			f, q := bigFleet(rnd, n), queries(rnd)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				c, ok := f.Place(&q[i%len(q)], Operator{}, everywhere{})
				if !ok {
					b.Fatal("no room")
				}
				// What a placement changes is part of it; the room stays the same.
				f.Hold(c.Node, c.Pool, c.Cost, c.Parts)
				f.Drop(c.Node, c.Pool, c.Cost, c.Parts)
				i++
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "placements/s")
		})
	}
}

func TestPlaceAllocatesNothing(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	f, q := bigFleet(rnd, 5000), queries(rnd)
	i := 0
	if n := testing.AllocsPerRun(200, func() {
		c, _ := f.Place(&q[i%len(q)], Operator{}, everywhere{})
		f.Hold(c.Node, c.Pool, c.Cost, c.Parts)
		f.Drop(c.Node, c.Pool, c.Cost, c.Parts)
		i++
	}); n > 0 {
		t.Errorf("%v allocations a placement", n)
	}
}
