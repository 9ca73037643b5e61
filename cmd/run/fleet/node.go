package fleet

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/gossip"
	"github.com/perigee-cloud/perigee/gossip/simnet"
)

const (
	ringPort = 7946
	hubPort  = 4222
	raftPort = 7000
	// joinPause is between two tries to join, and before a daemon starts again.
	joinPause = time.Second
)

// node is one edge: a machine with its daemon.
type node struct {
	f      *Fleet
	name   string
	region int
	host   *simnet.Host
	dir    string
	token  string
	kids   *kids

	mu     sync.Mutex // guards the fields below
	id     api.NodeID
	told   map[heard]time.Time // when each headroom was published
	newest heard
	cancel context.CancelFunc
	ended  chan struct{}
}

// heard names one headroom of a node.
type heard struct {
	boot string
	seq  uint64
}

// blocks is what one 1280x720@60 stream takes of the pool of processors.
func blocks() uint64 {
	return api.Cost(api.PoolCPU, api.H264, api.Screen{Width: 1280, Height: 720, FPS: 60})
}

func (n *node) pools() []api.Capacity {
	return []api.Capacity{{Pool: api.PoolCPU, Macroblocks: uint64(n.f.cfg.Streams) * blocks(), Codecs: api.SoftwareCodecs()}}
}

// start runs the daemon, again and again when it is refused, until stop.
func (n *node) start(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	n.mu.Lock()
	n.cancel, n.ended = cancel, ended
	n.mu.Unlock()
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if err := n.daemon(ctx); err != nil && ctx.Err() == nil {
				n.f.cfg.Log.Info("daemon ended", "name", n.name, "error", err)
				n.f.count(func(r *Result) { r.DaemonEnds++ })
			}
			pause(ctx, joinPause)
		}
	}()
}

// stop ends the daemon as an upgrade does: its sessions go on.
func (n *node) stop() {
	n.mu.Lock()
	cancel, ended := n.cancel, n.ended
	n.mu.Unlock()
	if cancel != nil {
		cancel()
		<-ended
	}
}

// lose takes the machine's power.
func (n *node) lose() {
	n.host.Crash()
	n.kids.killAll()
	n.stop()
	n.host.Crash() // what the daemon opened meanwhile
}

// daemon is what cmd/run/node runs, on this network.
func (n *node) daemon(ctx context.Context) (err error) {
	id, err := edge.OpenIdentity(filepath.Join(n.dir, "data"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, id.Close()) }()
	joined, err := n.join(ctx, id)
	if err != nil {
		return err
	}
	transport, err := n.host.Transport(ringPort)
	if err != nil {
		return fmt.Errorf("open gossip: %w", err)
	}
	ring, err := gossip.New(gossip.Config{
		Listen: fmt.Sprintf("%s:%d", n.host.IP(), ringPort), Key: joined.RingKey, Log: n.f.cfg.Log, Meta: gossip.MetaOf(joined.Node), Transport: transport,
	})
	if err != nil {
		return errors.Join(err, transport.Shutdown())
	}
	bus := &link{host: n.host, node: id.ID, hubs: joined.NATS}
	agent, err := edge.New(edge.Config{
		Identity: id, Run: local.Run(filepath.Join(n.dir, "run")), Pools: joined.Node.Pools, Bus: bus, Publish: publisher{n, ring},
		Start: func(edge.Role, local.Session) *exec.Cmd { return nil }, Children: n.kids, Log: n.f.cfg.Log,
		Measure:        func() (edge.Load, error) { return edge.Load{CPU: 20, Memory: 30}, nil },
		HeartbeatEvery: time.Duration(joined.HeartbeatMS) * time.Millisecond,
	})
	if err != nil {
		return errors.Join(err, transport.Shutdown())
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ring.Run(gctx) })
	g.Go(func() error { ring.Join(gctx, joined.Gossip); return nil })
	g.Go(func() error { bus.run(gctx); return nil })
	g.Go(func() error { return agent.Run(gctx) })
	return g.Wait()
}

// join asks one scheduler after the other.
func (n *node) join(ctx context.Context, id *edge.Identity) (api.NodeJoined, error) {
	r := n.f.regions[n.region]
	doc := api.Node{
		Name: n.name, Region: r.Name, Addresses: []string{n.host.IP()}, RelayPort: 3478, Pools: n.pools(),
		Location: api.Location{Known: true, Latitude: r.Latitude, Longitude: r.Longitude, Source: "operator"},
	}
	n.mu.Lock()
	n.id = id.ID
	n.mu.Unlock()
	for i := n.region; ; i++ {
		j, err := n.joinAt(ctx, n.f.replicas[i%len(n.f.replicas)], id.Join(doc, n.token))
		if err == nil {
			return j, nil
		}
		if !pause(ctx, joinPause) {
			return j, fmt.Errorf("join: %w", ctx.Err())
		}
	}
}

// joinAt reaches a scheduler as its HTTP client would, and asks it.
func (n *node) joinAt(ctx context.Context, r *replica, j api.NodeJoin) (api.NodeJoined, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := n.host.Dial(ctx, r.hubAddress())
	if err != nil {
		return api.NodeJoined{}, fmt.Errorf("reach scheduler: %w", err)
	}
	defer func() { _ = c.Close() }() // it was to see whether there is a way
	s := r.server()
	if s == nil {
		return api.NodeJoined{}, api.Errorf(api.CodeUnavailable, "the scheduler is not there")
	}
	return s.JoinNode(ctx, j, n.host.IP()+":1")
}

// publisher notes what an edge publishes, and when.
type publisher struct {
	n    *node
	ring *gossip.Ring
}

// Publish spreads a headroom.
func (p publisher) Publish(h api.Headroom) {
	k := heard{h.Boot, h.Seq}
	p.n.mu.Lock()
	p.n.told[k], p.n.newest = time.Now(), k
	p.n.mu.Unlock()
	p.ring.Publish(h)
}

// age says how old the knowledge of a headroom is: for how long there has been
// a newer one. Not ok when it is of another start of the daemon.
func (n *node) age(k heard, now time.Time) (time.Duration, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next, ok := n.told[heard{k.boot, k.seq + 1}]
	switch {
	case k.boot != n.newest.boot:
		return 0, false
	case k == n.newest || !ok:
		return 0, true
	default:
		return now.Sub(next), true
	}
}

// toldAt is when a headroom was published.
func (n *node) toldAt(k heard) (time.Time, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, ok := n.told[k]
	return at, ok
}

func (n *node) nodeID() api.NodeID {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.id
}
