package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/gossip"
	"github.com/perigee-cloud/perigee/gossip/simnet"
)

// What the simulated rings are like: a region's hosts, 10 ms apart one way.
const (
	// After a mass join the rumours of who is there go before headroom for a while.
	settle          = 8 * time.Second
	simSettle       = 40 * time.Second
	simDelay        = 10 * time.Millisecond
	simJitter       = 2 * time.Millisecond
	simLoss         = 0.001
	simLarge        = 1000
	simMembers      = 500
	simChange       = 5 * time.Second // between two changes of one node
	simChanges      = 20
	simLargeChanges = 8
	gossipRole      = "PERIGEE_BENCH_GOSSIP" // names the file for the results
)

// encodersSpread measures how fast headroom spreads among 100 members on loopback.
func encodersSpread(ctx context.Context, runs int) ([]Result, error) {
	var p95, last []float64
	for range runs {
		s, err := spreadOnLoopback(ctx, 100)
		if err != nil {
			return nil, err
		}
		p95, last = append(p95, s.P95), append(last, s.Last)
	}
	return []Result{
		Result{Name: "headroom_spread_ms_p95_100", Value: round(median(p95)), Unit: "ms", Runs: runs}.atMost(400),
		{Name: "headroom_spread_ms_last_100", Value: round(median(last)), Unit: "ms", Runs: runs},
	}, nil
}

// encodersSpreadLarge measures the same among 1,000 simulated members. One run
// takes minutes of processor time, and virtual time has no noise: one is enough.
func encodersSpreadLarge(ctx context.Context, _ int) ([]Result, error) {
	sim, err := simulated(ctx, "large")
	if err != nil {
		return nil, err
	}
	return []Result{
		Result{Name: "headroom_spread_ms_p95_1000", Value: round(sim.Large.P95), Unit: "ms (virtual)", Runs: 1}.atMost(1500),
		{Name: "headroom_spread_missed_percent_1000", Value: round(sim.Large.Missed), Unit: "% of views, until the next change", Runs: 1},
	}, nil
}

// encodersGossip measures the traffic of 500 simulated members and how soon they
// see each other when all join at once.
func encodersGossip(ctx context.Context, _ int) ([]Result, error) {
	sim, err := simulated(ctx, "busy")
	if err != nil {
		return nil, err
	}
	return []Result{
		Result{Name: "gossip_bytes_per_node_per_s", Value: round(sim.BytesPerNode), Unit: "B/s (500 nodes, virtual)", Runs: 1}.atMost(40_000),
		Result{Name: "gossip_mass_join_s_500", Value: round(sim.JoinSeconds), Unit: "s (virtual)", Runs: 1}.atMost(10),
	}, nil
}

type spread struct {
	P95, Last float64 // ms: over all views of all changes; the median change's last view
	Missed    float64 // percent of views that never heard of their change
}

type simResult struct {
	Large        spread
	BytesPerNode float64
	JoinSeconds  float64
}

// simulated runs this program again as a test: virtual time is a test's affair.
func simulated(ctx context.Context, which string) (r simResult, err error) {
	file := filepath.Join(os.TempDir(), fmt.Sprintf("perigee-gossip-%d.json", os.Getpid()))
	defer os.Remove(file)
	self, err := os.Executable()
	if err != nil {
		return r, fmt.Errorf("find own program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), gossipRole+"="+which+","+file)
	if out, err := cmd.CombinedOutput(); err != nil {
		return r, fmt.Errorf("simulate gossip: %w: %s", err, out[max(0, len(out)-2000):])
	}
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read simulation: %w", err)
	}
	return r, nil
}

// gossipMain is this program as a test of one simulation; it does not return.
// The program ends within the simulation: a thousand members that take leave of
// each other take longer than all the rest.
func gossipMain(role string) {
	which, file, _ := strings.Cut(role, ",")
	simulation := func(t *testing.T) {
		var r any
		if which == "large" {
			r = map[string]spread{"Large": simulateLarge(t)}
		} else {
			bytes, seconds := simulateBusy(t)
			r = map[string]float64{"BytesPerNode": bytes, "JoinSeconds": seconds}
		}
		b, err := json.Marshal(r)
		if err == nil {
			err = os.WriteFile(file, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		os.Exit(0)
	}
	testing.Main(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{
		{Name: which, F: func(t *testing.T) { synctest.Test(t, simulation) }},
	}, nil, nil)
}

// herd is a ring of members.
type herd struct {
	rings []*gossip.Ring
	stop  func()
}

// newHerd starts members; all join the first at once. way gives each its
// transport; nil: the loopback.
func newHerd(ctx context.Context, n int, way func(i int) gossip.Config) (*herd, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	h := &herd{stop: func() { cancel(); wg.Wait() }}
	for i := range n {
		c := way(i)
		c.Key, c.Log = make([]byte, 32), slog.New(slog.DiscardHandler)
		c.Meta = gossip.Meta{ID: memberID(i), Region: "bench", Encoders: []gossip.Encoder{{Pool: api.PoolCPU, Codecs: api.SoftwareCodecs()}}}
		r, err := gossip.New(c)
		if err != nil {
			h.stop()
			return nil, err
		}
		h.rings = append(h.rings, r)
		wg.Go(func() { _ = r.Run(ctx) }) // one that does not start is missed below
		if err := r.Ready(ctx); err != nil {
			h.stop()
			return nil, err
		}
		wg.Go(func() { r.Join(ctx, []string{h.rings[0].Addr()}) })
	}
	return h, nil
}

func memberID(i int) api.NodeID { return api.NodeID(fmt.Sprintf("%016d", i)) }

// gathered waits until all see all.
func (h *herd) gathered(ctx context.Context, most, poll time.Duration) (time.Duration, error) {
	began := time.Now()
	for {
		all := true
		for _, r := range h.rings {
			all = all && len(r.Members()) == len(h.rings)
		}
		switch took := time.Since(began); {
		case all:
			return took, nil
		case took > most || ctx.Err() != nil:
			return took, fmt.Errorf("%d members do not see each other after %s", len(h.rings), took)
		}
		time.Sleep(poll)
	}
}

// load is what a node of two pools says.
func load(seq uint64) api.Headroom {
	return api.Headroom{
		Boot: "0123456789abcdef", Seq: seq, CPU: int(seq % 100), Memory: 40, Saturation: int(seq % 100), Binding: "cpu", Foreign: 3,
		Pools: []api.PoolHeadroom{{Pool: api.PoolNVENC, Free: 3600 * seq, Sessions: 3}, {Pool: api.PoolCPU, Free: 720_000, Sessions: 1}},
	}
}

// changes has members change one after the other and times every other's view.
func (h *herd) changes(n int, most, poll time.Duration, r *rand.Rand) (s spread) {
	var all, last []float64
	missed, views := 0, 0
	for k := range n {
		who := r.IntN(len(h.rings))
		seq := uint64(k + 1)
		seen := make([]bool, len(h.rings))
		left := len(h.rings) - 1
		began := time.Now()
		h.rings[who].Publish(load(seq))
		for left > 0 && time.Since(began) < most {
			time.Sleep(poll)
			at := float64(time.Since(began).Microseconds()) / 1000
			for i, ring := range h.rings {
				if seen[i] || i == who {
					continue
				}
				if l, _, ok := ring.Latest(memberID(who)); ok && l.Seq == seq {
					seen[i] = true
					left--
					all = append(all, at)
				}
			}
		}
		missed, views = missed+left, views+len(h.rings)-1
		last = append(last, float64(time.Since(began).Microseconds())/1000)
		for range left {
			all = append(all, float64(most.Milliseconds()))
		}
	}
	return spread{P95: quantile(all, 0.95), Last: median(last), Missed: 100 * float64(missed) / float64(views)}
}

func spreadOnLoopback(ctx context.Context, n int) (spread, error) {
	h, err := newHerd(ctx, n, func(int) gossip.Config { return gossip.Config{Listen: "127.0.0.1:0"} })
	if err != nil {
		return spread{}, err
	}
	defer h.stop()
	if _, err := h.gathered(ctx, time.Minute, 20*time.Millisecond); err != nil {
		return spread{}, err
	}
	if err := pause(ctx, settle); err != nil {
		return spread{}, err
	}
	return h.changes(simChanges, 5*time.Second, 2*time.Millisecond, rand.New(rand.NewPCG(1, 2))), nil
}

// simWay makes a simulated region; sent counts the bytes of all packets and streams.
func simWay(t *testing.T) (way func(i int) gossip.Config, sent *atomic.Int64) {
	network := simnet.New(1, func(string, string) simnet.Path {
		return simnet.Path{Delay: simDelay, Jitter: simJitter, Drop: simLoss}
	})
	sent = new(atomic.Int64)
	return func(i int) gossip.Config {
		tr, err := network.Host(fmt.Sprintf("10.0.%d.%d", i/250, i%250+1)).Transport(7946)
		if err != nil {
			t.Fatal(err)
		}
		return gossip.Config{Listen: "10.0.0.1:7946", Transport: &counting{tr, sent}}
	}, sent
}

// counting counts what a member sends.
type counting struct {
	*simnet.Transport
	sent *atomic.Int64
}

const udpHeader = 28 // IPv4 and UDP

func (c *counting) WriteTo(b []byte, to string) (time.Time, error) {
	c.sent.Add(int64(len(b) + udpHeader))
	return c.Transport.WriteTo(b, to)
}

func (c *counting) DialTimeout(to string, limit time.Duration) (net.Conn, error) {
	conn, err := c.Transport.DialTimeout(to, limit)
	if err != nil {
		return nil, err
	}
	return &countedConn{conn, c.sent}, nil
}

// countedConn counts both ways: whoever answers sends, too.
type countedConn struct {
	net.Conn
	sent *atomic.Int64
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.sent.Add(int64(n))
	return n, err
}

func simulateLarge(t *testing.T) spread {
	way, _ := simWay(t)
	h, err := newHerd(t.Context(), simLarge, way)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = h.gathered(t.Context(), time.Minute, 500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	time.Sleep(simSettle)
	return h.changes(simLargeChanges, 2*time.Second, 10*time.Millisecond, rand.New(rand.NewPCG(3, 4)))
}

// simulateBusy has each member change every simChange, and counts what all send.
func simulateBusy(t *testing.T) (bytesPerNode, joinSeconds float64) {
	way, sent := simWay(t)
	h, err := newHerd(t.Context(), simMembers, way)
	if err != nil {
		t.Fatal(err)
	}
	took, err := h.gathered(t.Context(), time.Minute, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range h.rings {
		go func() { // until the program ends
			time.Sleep(simChange * time.Duration(i) / simMembers)
			for seq := uint64(1); ; seq++ {
				r.Publish(load(seq))
				time.Sleep(simChange)
			}
		}()
	}
	const span = 10 * time.Second
	time.Sleep(simSettle)
	before := sent.Load()
	time.Sleep(span)
	return float64(sent.Load()-before) / span.Seconds() / simMembers, took.Seconds()
}
