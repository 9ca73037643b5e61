package ledger

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler"
)

// beatEvery is the heartbeat of the simulated edges, boot their daemons' start.
const (
	beatEvery = time.Second
	boot      = "boot-1"
)

// edges is the bus of all replicas with simulated nodes on it: they take each
// command at once and report nothing until Settle, as an instance takes longer
// to start than a round of the bench does.
type edges struct {
	nodes []node
	cost  uint64 // of one stream, macroblocks per second

	mu      sync.Mutex
	up      map[int]handlers // by replica
	started []start
	running [][]api.Running // by node; what its heartbeats list
	seq     uint64
}

type node struct {
	api.Node
	key    ed25519.PrivateKey
	secret []byte
}

type start struct {
	node       int
	session    api.SessionID
	generation api.Generation
}

type handlers struct {
	report    func(context.Context, api.Report) api.Ack
	heartbeat func(context.Context, api.Heartbeat) api.HeartbeatAnswer
}

// wire is one replica's connection to the bus.
type wire struct {
	*edges
	replica int
	index   map[api.NodeID]int
}

var _ scheduler.Bus = wire{}

// OnReport keeps the replica's handler.
func (w wire) OnReport(h func(context.Context, api.Report) api.Ack) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := w.up[w.replica]
	v.report = h
	w.up[w.replica] = v
	return nil
}

// OnHeartbeat keeps the replica's handler.
func (w wire) OnHeartbeat(h func(context.Context, api.Heartbeat) api.HeartbeatAnswer) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := w.up[w.replica]
	v.heartbeat = h
	w.up[w.replica] = v
	return nil
}

// Command takes a command.
func (w wire) Command(_ context.Context, id api.NodeID, c api.Command) (api.Ack, error) {
	i, ok := w.index[id]
	if !ok {
		return api.Ack{}, api.Errorf(api.CodeUnavailable, "nobody listens")
	}
	if c.Verb == api.VerbStart {
		w.mu.Lock()
		w.started = append(w.started, start{i, c.Session, c.Generation})
		w.mu.Unlock()
	}
	return api.Ack{OK: true}, nil
}

// newEdges draws nodes around the globe, each with room for so many streams of
// 1280x720 at 60 frames a second.
func newEdges(rnd *rand.Rand, n int, streams uint64) (*edges, map[api.NodeID]int) {
	e := &edges{up: map[int]handlers{}}
	index := map[api.NodeID]int{}
	one := api.Cost(api.PoolCPU, api.H264, api.Screen{Width: 1280, Height: 720, FPS: 60})
	e.cost = one
	for i := range n {
		seed := make([]byte, ed25519.SeedSize)
		for k := range seed {
			seed[k] = byte(rnd.UintN(256))
		}
		key := ed25519.NewKeyFromSeed(seed)
		public := key.Public().(ed25519.PublicKey)
		id := api.NodeIDFromKey(public)
		e.nodes = append(e.nodes, node{key: key, secret: seed, Node: api.Node{
			ID: id, Name: fmt.Sprint("edge", i), PublicKey: public, Region: "earth", Boot: boot, RelayPort: 3478,
			Location:  api.Location{Known: true, Latitude: rnd.Float64()*120 - 55, Longitude: rnd.Float64()*360 - 180},
			Addresses: []string{fmt.Sprintf("192.0.2.%d", i%250+1)},
			Pools:     []api.Capacity{{Pool: api.PoolCPU, Macroblocks: one * streams, Codecs: api.Codecs()}},
		}})
		index[id] = i
		e.running = append(e.running, nil)
	}
	return e, index
}

// join lets every node join through a replica.
func (e *edges) join(ctx context.Context, s *scheduler.Server) error {
	token, _, err := s.CreateToken(ctx, api.TokenSpec{Account: "ops", Rights: []api.Right{api.RightNode}, Uses: len(e.nodes)})
	if err != nil {
		return fmt.Errorf("make token of the nodes: %w", err)
	}
	return each(ctx, len(e.nodes), 64, func(ctx context.Context, i int) error {
		n := e.nodes[i]
		_, err := s.JoinNode(ctx, api.NodeJoin{Node: n.Node, RelaySecret: n.secret, Signature: ed25519.Sign(n.key, api.JoinPayload(n.Node)), Token: token}, "192.0.2.1:1")
		if err != nil {
			return fmt.Errorf("join node: %w", err)
		}
		return nil
	})
}

func (e *edges) handlers() []handlers {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]handlers, 0, len(e.up))
	for _, h := range e.up {
		if h.report != nil && h.heartbeat != nil {
			out = append(out, h)
		}
	}
	return out
}

// beat sends every node's heartbeat to every replica, until ctx ends.
func (e *edges) beat(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for seq := uint64(1); ; seq++ {
		up := e.handlers()
		for i := range e.nodes {
			n := &e.nodes[i]
			for _, h := range up {
				h.heartbeat(ctx, api.Heartbeat{Node: n.ID, Boot: n.Boot, Seq: seq, Running: e.running[i], Headroom: api.Headroom{Boot: n.Boot, Seq: seq}})
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Settle reports every session that was started as ended, so that nothing of a
// round is left to do in the next.
func (e *edges) Settle(ctx context.Context) error {
	e.mu.Lock()
	starts := e.started
	e.started = nil
	e.mu.Unlock()
	seen := map[api.SessionID]bool{}
	return each(ctx, len(starts), 256, func(ctx context.Context, i int) error {
		st := starts[i]
		e.mu.Lock()
		again := seen[st.session]
		seen[st.session] = true
		e.seq++
		seq := e.seq
		e.mu.Unlock()
		if again {
			return nil
		}
		n := &e.nodes[st.node]
		for ctx.Err() == nil {
			for _, h := range e.handlers() {
				if h.report(ctx, api.Report{Node: n.ID, Boot: n.Boot, Seq: seq, Session: st.session, Generation: st.generation, Observed: api.ObservedStopped}).OK {
					return nil
				}
			}
			time.Sleep(5 * time.Millisecond) // an election
		}
		return ctx.Err()
	})
}

// each calls do for 0 to n-1 by so many callers; the first error ends it.
func each(ctx context.Context, n, callers int, do func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	next := 0
	for range min(callers, n) {
		wg.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= n {
					return
				}
				if err := do(ctx, i); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
