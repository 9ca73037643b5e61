package scheduler

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/gossip/simnet"
)

// clusterBus is one bus that several replicas share: all of them hear, the
// one that leads answers.
type clusterBus struct {
	mu       sync.Mutex
	replicas map[int]handlers
	edges    *fakeBus // its edges answer to the first that asks
}

// busOf is one replica's connection to it.
type busOf struct {
	c  *clusterBus
	at int
}

func (b busOf) OnReport(h func(context.Context, api.Report) api.Ack) error {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	v := b.c.replicas[b.at]
	v.report = h
	b.c.replicas[b.at] = v
	return nil
}

func (b busOf) OnHeartbeat(h func(context.Context, api.Heartbeat) api.HeartbeatAnswer) error {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	v := b.c.replicas[b.at]
	v.heartbeat = h
	b.c.replicas[b.at] = v
	return nil
}

func (b busOf) Command(ctx context.Context, n api.NodeID, c api.Command) (api.Ack, error) {
	return b.c.edges.Command(ctx, n, c)
}

func (c *clusterBus) all() []handlers {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []handlers
	for _, h := range c.replicas {
		if h.report != nil && h.heartbeat != nil {
			out = append(out, h)
		}
	}
	return out
}

// cluster is several replicas, each on a host of its own.
type cluster struct {
	t       testing.TB
	bus     *clusterBus
	net     *simnet.Net // nil: this machine's loopback
	members map[int]*member
	peers   []string
	change  []func(*Config)
}

type member struct {
	s    *Server
	data string
	at   string // host:port of Raft
	stop func() error
}

// wire is the way between two replicas of one site.
const wire = 300 * time.Microsecond

// newCluster makes a cluster on a simulated network, for the virtual time of a
// bubble.
func newCluster(t testing.TB, n int, change ...func(*Config)) *cluster {
	t.Helper()
	network := simnet.New(1, func(string, string) simnet.Path { return simnet.Path{Delay: wire, Jitter: wire / 10} })
	t.Cleanup(network.Close)
	return newClusterOn(t, network, n, change...)
}

// host is a member's on the simulated network.
func (c *cluster) host(i int) string { return fmt.Sprintf("127.0.0.%d", i+1) }

// address gives a member's; on loopback a port that is free, as the replicas
// need to know each other's before they listen.
func (c *cluster) address(i int) string {
	if c.net != nil {
		return c.host(i) + ":7000"
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func newClusterOn(t testing.TB, on *simnet.Net, n int, change ...func(*Config)) *cluster {
	t.Helper()
	c := &cluster{t: t, net: on, bus: &clusterBus{replicas: map[int]handlers{}, edges: newBus()}, members: map[int]*member{}, change: change}
	c.bus.edges.up = handlers{
		report: func(ctx context.Context, r api.Report) api.Ack {
			for _, h := range c.bus.all() {
				if a := h.report(ctx, r); a != (api.Ack{}) {
					return a
				}
			}
			return api.Ack{}
		},
		heartbeat: func(ctx context.Context, h api.Heartbeat) (answer api.HeartbeatAnswer) {
			for _, to := range c.bus.all() {
				if a := to.heartbeat(ctx, h); a.OK || a.Refused != "" {
					answer = a
				}
			}
			return answer
		},
	}
	for i := range n {
		c.peers = append(c.peers, c.address(i))
	}
	for i := range n {
		c.members[i] = &member{data: dataDir(t), at: c.peers[i]}
		c.start(i, func(cfg *Config) { cfg.Peers, cfg.Expect = c.peers, n })
	}
	for i := range n {
		c.ready(i)
	}
	return c
}

// start runs a member, again or for the first time.
func (c *cluster) start(i int, change ...func(*Config)) {
	c.t.Helper()
	m := c.members[i]
	cfg := testConfig(c.t, nil, m.data)
	cfg.Bus, cfg.RaftListen, cfg.Settle = busOf{c.bus, i}, m.at, 200*time.Millisecond
	if c.net != nil {
		cfg.Network = c.net.Host(c.host(i))
	}
	for _, f := range append(c.change, change...) {
		f(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	var failed error
	m.s = s
	m.stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case failed = <-done:
			case <-time.After(10 * time.Second):
				failed = fmt.Errorf("member %d did not end within 10 s", i)
			}
			c.bus.mu.Lock()
			delete(c.bus.replicas, i)
			c.bus.mu.Unlock()
		})
		return failed
	}
	c.t.Cleanup(func() {
		if err := m.stop(); err != nil {
			c.t.Errorf("member %d: %v", i, err)
		}
	})
}

func (c *cluster) ready(i int) {
	c.t.Helper()
	if err := c.members[i].s.Ready(deadline(c.t, 15*time.Second)); err != nil {
		c.t.Fatalf("member %d: %v", i, err)
	}
}

// world gives the tools of one member's tests.
func (c *cluster) world(i int) *world { return &world{t: c.t, bus: c.bus.edges, s: c.members[i].s} }

func (c *cluster) leader() int {
	c.t.Helper()
	at := -1
	c.eventually("somebody leads", func() bool {
		for i, m := range c.members {
			if m.s.leads() && m.s.serving() == nil {
				at = i
				return true
			}
		}
		return false
	})
	return at
}

// follower gives a member that does not lead.
func (c *cluster) follower() int {
	lead := c.leader()
	for i := range c.members {
		if i != lead {
			return i
		}
	}
	c.t.Fatal("there is no follower")
	return 0
}

func (c *cluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	(&world{t: c.t}).eventually(what, ok)
}

func TestEveryReplicaServesEveryCall(t *testing.T) { synctest.Test(t, testEveryReplicaServesEveryCall) }

func testEveryReplicaServesEveryCall(t *testing.T) {
	c := newCluster(t, 3)
	w := c.world(c.follower())
	w.app()
	e := w.edge("one", 100)
	a := w.mustCreate()
	if v := w.until(a.Session.ID, api.StatusActive); v.Node != e.node.ID {
		t.Errorf("the session runs on %q", v.Node)
	}
	for i := range c.members {
		o := c.world(i)
		if _, _, err := o.s.CheckTicket(o.ctx(), a.Ticket); err != nil {
			t.Errorf("member %d does not take the ticket: %v", i, err)
		}
		if err := o.s.Consistent(o.ctx()); err != nil {
			t.Errorf("member %d: %v", i, err)
		}
		list, total, err := o.s.ListSessions(o.ctx(), api.SessionQuery{})
		if err != nil || total != 1 || list[0].ID != a.Session.ID {
			t.Errorf("member %d lists %v of %d: %v", i, list, total, err)
		}
		if old := o.s.Staleness(); old > time.Second {
			t.Errorf("member %d is %s old", i, old)
		}
	}
	if _, err := w.create(func(r *api.CreateRequest) { r.App = "absent" }); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("an application that is not there: %v", err)
	}
	if _, err := w.s.JoinSession(w.ctx(), a.Session.ID, api.JoinRequest{}); err != nil {
		t.Errorf("join: %v", err)
	}
	if err := w.s.EndSession(w.ctx(), a.Session.ID, api.EndRequest{Wait: true}); err != nil {
		t.Errorf("end: %v", err)
	}
	if n := e.count(api.VerbStart); n != 1 {
		t.Errorf("the edge was told to start %d times", n)
	}
	if err := w.s.SetDrain(w.ctx(), e.node.ID, true); err != nil {
		t.Error(err)
	}
	if _, err := w.create(); refusal(err) != api.RefusedDrain {
		t.Errorf("a refusal through a follower: %v", err)
	}
	if cells, err := w.s.Demand(w.ctx()); err != nil || len(cells) != 1 {
		t.Errorf("demand through a follower: %v %v", cells, err)
	}
	if err := w.s.DeleteApplication(w.ctx(), "xterm"); err != nil {
		t.Error(err)
	}
	if apps, err := w.s.Applications(w.ctx()); err != nil || len(apps) != 0 {
		t.Errorf("a follower does not show what it was asked to do: %v %v", apps, err)
	}
}
