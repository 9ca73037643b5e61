package place

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
)

// TestReplayOfTheSamePolicyChangesNothing records random placements, carries
// them through their JSON and places them again.
func TestReplayOfTheSamePolicyChangesNothing(t *testing.T) {
	rnd := rand.New(rand.NewPCG(21, 22))
	r, f := newRoots(t), NewFleet()
	for i := range 150 {
		r.put(randomNode(rnd, i))
	}
	f.Sync(r.now)
	placed, moved := 0, 0
	for range 300 {
		q := Query{Need: api.Need{Screen: hd(60), Codecs: []api.Codec{api.VP8, api.H264}, Client: at(rnd.Float64()*180-90, rnd.Float64()*360-180, 20),
			Parts: api.Parts{CPUMillis: 1000, VRAMMiB: uint64(rnd.IntN(2)) * 1024}, Counted: true}}
		if rnd.IntN(2) == 0 {
			q.Learned = []geo.Learned{{Node: "n0003", MS: float64(rnd.IntN(60)), ErrorMS: 3, Samples: 5}}
		} else {
			q.Need.Probes = []api.Probe{{Node: "n0007", RoundTripMS: 1 + float64(rnd.IntN(60))}}
		}
		q.Policy = &api.PlacementPolicy{MaxRoundTripMS: 80, Labels: api.Choice{Preferred: []string{"rack=1"}}}
		x := api.Explanation{Session: "s", Policy: q.Policy, Candidates: f.Explain(&q, Operator{}, everywhere{}, 32),
			Request: api.PlacementAsk{Screen: q.Need.Screen, Codecs: q.Need.Codecs, Client: q.Need.Client, Probes: q.Need.Probes,
				Parts: q.Need.Parts, Counted: q.Need.Counted}}
		b, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		var read api.Explanation
		if err := json.Unmarshal(b, &read); err != nil {
			t.Fatal(err)
		}
		if got := Replay(read, read.Policy, Operator{}); got.Changed() {
			t.Fatalf("the same policy moves %+v to %+v", got.Was, got.Now)
		}
		c, ok := f.Place(&q, Operator{}, everywhere{})
		if !ok {
			continue
		}
		placed++
		if got := Replay(read, &api.PlacementPolicy{Regions: api.Choice{Forbidden: []string{c.Region}}}, Operator{}); got.Changed() {
			moved++
		}
		if r.create(c) == nil {
			f.Sync(r.now)
		}
	}
	if placed < 100 || moved != placed {
		t.Errorf("%d placed, %d moved when their region was forbidden", placed, moved)
	}
}

func TestReplayOfNothing(t *testing.T) {
	if r := Replay(api.Explanation{}, nil, Operator{}); r.Changed() || len(r.Candidates) > 0 {
		t.Errorf("an empty record gave %+v", r)
	}
}
