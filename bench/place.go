package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"syscall"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/bench/fleet"
	"github.com/perigee-cloud/perigee/scheduler/place"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

const (
	placeCities  = 200
	placeClients = 512
	placeFor     = time.Second
	placeBlocks  = 216_000 // macroblocks per second of 1280x720@60
)

// schedulerPlacement measures how many sessions one core places a second among
// nodes of which nine in ten are full.
func schedulerPlacement(ctx context.Context, runs int) ([]Result, error) {
	var out []Result
	for _, c := range []struct {
		name  string
		nodes int
		least float64
	}{{"placements_per_s_10k_nodes", 10_000, 200_000}, {"placements_per_s_100k_nodes", 100_000, 100_000}} {
		rnd := rand.New(rand.NewPCG(1, uint64(c.nodes)))
		f, clients, err := placeFleet(rnd, c.nodes)
		if err != nil {
			return nil, err
		}
		var rates []float64
		for range runs {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			rate, err := placeRate(f, clients)
			if err != nil {
				return nil, err
			}
			rates = append(rates, rate)
		}
		out = append(out, Result{Name: c.name, Value: median(rates), Unit: "1/s", Runs: runs}.atLeast(c.least))
	}
	return out, nil
}

// atLeast judges a result against a lower bound.
func (r Result) atLeast(bound float64) Result {
	met := r.Value >= bound
	r.Target, r.Met = &bound, &met
	return r
}

type everyNode struct{}

func (everyNode) Alive(*state.Node) bool                    { return true }
func (everyNode) Headroom(*state.Node) (api.Headroom, bool) { return api.Headroom{}, false }

// placeFleet joins nodes around cities to a real state.
func placeFleet(rnd *rand.Rand, nodes int) (*place.Fleet, []place.Query, error) {
	centres := make([][2]float64, placeCities)
	for i := range centres {
		centres[i] = [2]float64{rnd.Float64()*120 - 55, rnd.Float64()*340 - 170}
	}
	around := func() api.Location {
		c := centres[rnd.IntN(len(centres))]
		return api.Location{Known: true, Latitude: c[0] + rnd.NormFloat64()*0.5, Longitude: c[1] + rnd.NormFloat64()*0.5}
	}
	var cmds []state.Command
	for i := range nodes {
		streams := uint64(rnd.IntN(10) + 1)
		if rnd.IntN(10) > 0 {
			streams = 0 // full: what is left is less than a stream
		}
		doc, err := json.Marshal(api.Node{ID: api.NodeID(fmt.Sprintf("n%06d", i)), Region: "earth", Boot: "b", Location: around(),
			Pools: []api.Capacity{{Pool: api.PoolCPU, Macroblocks: streams*placeBlocks + placeBlocks/2, Codecs: api.Codecs()}}})
		if err != nil {
			return nil, nil, fmt.Errorf("write node: %w", err)
		}
		cmds = append(cmds, &state.PutNode{Doc: doc})
	}
	root := state.New()
	for from := 0; from < len(cmds); from += 1024 {
		next, _, err := root.Apply(state.Encode(time.Unix(1_790_000_000, 0), cmds[from:min(from+1024, len(cmds))]...))
		if err != nil {
			return nil, nil, fmt.Errorf("join nodes: %w", err)
		}
		root = next
	}
	f := place.NewFleet()
	f.Sync(root)
	var clients []place.Query
	for range placeClients {
		clients = append(clients, place.Query{Need: api.Need{Client: around(), Codecs: api.Codecs(), Screen: api.Screen{Width: 1280, Height: 720, FPS: 60}}})
	}
	return f, clients, nil
}

// placeRate counts placements by the time of one core, not of the wall: other
// work on the machine does not count.
func placeRate(f *place.Fleet, clients []place.Query) (float64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n := 0
	began, until := threadTime(), time.Now().Add(placeFor)
	for ; n%1024 != 0 || time.Now().Before(until); n++ {
		c, ok := f.Place(&clients[n%len(clients)], place.Operator{}, everyNode{})
		if !ok {
			return 0, fmt.Errorf("place: no room where there is some")
		}
		f.Hold(c.Node, c.Pool, c.Cost, c.Parts)
		f.Drop(c.Node, c.Pool, c.Cost, c.Parts)
	}
	return float64(n) / (threadTime() - began).Seconds(), nil
}

// threadTime is the processor time that this thread has used.
func threadTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_THREAD, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// The worlds of the fleet measurements: over a thousand edges, one day.
const (
	fleetSites, fleetPerSite, fleetStreams = 100, 12, 6
	fleetNetworks, fleetSessions           = 2000, 120_000
	fleetFlash                             = 25
	erlangServers, erlangSessions          = 100, 200_000
	erlangLoad                             = 100.0
	// 10,000 creates at once on room for 9,000, all on knowledge from before.
	herdNodes, herdStreams, herdCreates = 900, 10, 10_000
)

// fleetModel measures what placement is worth, each run another seed.
func fleetModel(ctx context.Context, runs int) ([]Result, error) {
	var probed50, probed95, storm95, ratio, geoip95, atlas95, blocking []float64
	doubles, lost := 0, 0
	for seed := range uint64(runs) {
		var p95 [3]float64
		for k := fleet.GeoIP; k <= fleet.Probed; k++ {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			r, err := fleet.Run(fleet.Config{Seed: seed + 1, Knowledge: k, Sites: fleetSites, PerSite: fleetPerSite, Streams: fleetStreams,
				Networks: fleetNetworks, Sessions: fleetSessions, Span: 24 * time.Hour, Flash: fleetFlash,
				Delays: fleet.Measured()})
			if err != nil {
				return nil, err
			}
			p95[k] = r.Regret(0.95)
			doubles, lost = doubles+r.DoubleReservations, lost+r.Lost
			if k == fleet.Probed {
				probed50, probed95 = append(probed50, r.Regret(0.5)), append(probed95, p95[k])
			}
		}
		storm, err := fleet.Run(fleet.Config{Seed: seed + 1, Knowledge: fleet.Probed, Sites: fleetSites, PerSite: fleetPerSite, Streams: fleetStreams,
			Networks: fleetNetworks, Sessions: fleetSessions, Span: 24 * time.Hour, Flash: fleetFlash, Delays: fleet.Stormy()})
		if err != nil {
			return nil, err
		}
		storm95 = append(storm95, storm.Regret(0.95))
		doubles, lost = doubles+storm.DoubleReservations, lost+storm.Lost
		geoip95, atlas95 = append(geoip95, p95[fleet.GeoIP]), append(atlas95, p95[fleet.Atlas])
		ratio = append(ratio, p95[fleet.Atlas]/p95[fleet.GeoIP])
		share, r, err := fleet.Blocking(seed+1, erlangServers, erlangSessions, erlangLoad)
		if err != nil {
			return nil, err
		}
		herd, err := fleet.Herd(seed+1, herdNodes, herdStreams, herdCreates)
		if err != nil {
			return nil, err
		}
		doubles, lost = doubles+r.DoubleReservations+herd.Double, lost+r.Lost
		blocking = append(blocking, 100*abs(share-fleet.ErlangB(erlangLoad, erlangServers)))
	}
	number := func(name, unit string, v []float64) Result {
		return Result{Name: name, Value: round(median(v)), Unit: unit, Runs: runs}
	}
	return []Result{
		number("regret_ms_p50_probed", "ms", probed50),
		number("regret_ms_p95_probed", "ms", probed95).atMost(5),
		number("regret_ms_p95_probed_storm", "ms", storm95),
		number("regret_ms_p95_atlas", "ms", atlas95),
		number("regret_ms_p95_geoip", "ms", geoip95),
		number("regret_ratio_atlas_to_geoip", "", ratio).atMost(0.5),
		number("blocking_error_points", "%", blocking).atMost(1),
		number("fleet_double_reservations", "", []float64{float64(doubles)}).atMost(0),
		number("fleet_lost_sessions", "", []float64{float64(lost)}).atMost(0),
	}, nil
}

func abs(v float64) float64 { return max(v, -v) }
