package fleet

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/place"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// HerdResult is what became of a herd.
type HerdResult struct {
	Placed  int
	Refused int // by the ledger, of what was placed on stale knowledge
	Double  int // reservations above a node's capacity
}

// entryCreates is how many creates the scheduler writes as one entry.
const entryCreates = 1024

// Herd places creates that all come at once, on what was known before the first
// of them: nobody sees what another takes, and every node's measurement still
// says that it is empty. Only the ledger stands between them and a node given
// twice. Those that it refuses are placed again, on the next look at the ledger.
func Herd(seed uint64, nodes, streams, creates int) (HerdResult, error) {
	rnd := rand.New(rand.NewPCG(seed, 3))
	var r HerdResult
	var cmds []state.Command
	cmds = append(cmds, &state.PutApp{Doc: []byte(`{"name":"game","kind":"program","command":["game"]}`)})
	towns := cities()
	for i := range nodes {
		c := towns[i%len(towns)]
		doc, err := json.Marshal(api.Node{ID: api.NodeID(fmt.Sprint("n", i)), Region: "earth", Boot: "b",
			Location: api.Location{Known: true, Latitude: c.latitude, Longitude: c.longitude},
			Pools:    []api.Capacity{{Pool: api.PoolCPU, Macroblocks: uint64(streams) * streamBlocks, Codecs: []api.Codec{api.H264}}}})
		if err != nil {
			return r, fmt.Errorf("write node: %w", err)
		}
		cmds = append(cmds, &state.PutNode{Doc: doc})
	}
	s := &sim{root: state.New(), fleet: place.NewFleet()}
	if _, err := s.apply(cmds...); err != nil {
		return r, err
	}
	waiting := make([]city, creates)
	for i := range waiting {
		waiting[i] = towns[rnd.IntN(len(towns))]
	}
	empty := stale{free: uint64(streams) * streamBlocks}
	for len(waiting) > 0 {
		var again []city
		var batch []state.Command
		for i, c := range waiting {
			q := place.Query{Need: api.Need{App: "game", Codecs: []api.Codec{api.H264}, Screen: api.Screen{Width: 1280, Height: 720, FPS: 60},
				Client: api.Location{Known: true, Latitude: c.latitude, Longitude: c.longitude}}}
			choice, ok := s.fleet.Place(&q, place.Operator{}, empty)
			if !ok {
				continue // full: refused for good
			}
			batch = append(batch, &state.Create{ID: api.SessionID(fmt.Sprintf("s%d-%d", s.now, i)), Generation: 1, App: "game", AppVersion: 1, Node: choice.Node,
				Region: choice.Region, Pool: choice.Pool, Codec: choice.Codec, Reserved: choice.Cost, Screen: api.Screen{Width: 1280, Height: 720, FPS: 60}})
			again = append(again, c)
		}
		s.now += 2 * time.Second
		var results []state.Result
		for part := range slices.Chunk(batch, entryCreates) {
			some, err := s.apply(part...)
			if err != nil {
				return r, err
			}
			results = append(results, some...)
		}
		waiting = waiting[:0]
		for i, res := range results {
			if res.Err != nil {
				r.Refused++
				waiting = append(waiting, again[i])
			} else {
				r.Placed++
			}
		}
	}
	for n := range s.root.Nodes() {
		if used, _ := n.Reserved(api.PoolCPU); used > n.Pools[0].Macroblocks {
			r.Double += int((used - n.Pools[0].Macroblocks) / streamBlocks)
		}
	}
	return r, nil
}

// stale is gossip from before the herd.
type stale struct{ free uint64 }

// Alive says yes.
func (stale) Alive(*state.Node) bool { return true }

// Headroom says that the node is empty.
func (s stale) Headroom(*state.Node) (api.Headroom, bool) {
	return api.Headroom{Pools: []api.PoolHeadroom{{Pool: api.PoolCPU, Free: s.free}}}, true
}
