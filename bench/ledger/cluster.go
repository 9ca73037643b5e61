package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/gateway"
	"github.com/perigee-cloud/perigee/cmd/run/control"
	"github.com/perigee-cloud/perigee/scheduler"
)

// Replicas of a cluster, and what it is given to start and to end.
const (
	Replicas     = 3
	startTimeout = 30 * time.Second
)

// App is the application that the bench creates sessions of.
const App = "game"

// Config of a Cluster.
type Config struct {
	Dir      string // its replicas' data, on a real disk
	Nodes    int
	Streams  uint64 // 1280x720@60 of each node
	Headroom scheduler.Headroom
	Seed     uint64
}

// Cluster is three replicas with their gateways in this process.
type Cluster struct {
	*edges
	Servers  []*scheduler.Server
	URLs     []string // host:port of each gateway
	Token    string
	cancel   context.CancelFunc
	owned    sync.WaitGroup
	mu       sync.Mutex
	err      error
	fronts   []*http.Server
	gateways []*gateway.Server
}

// Start founds a cluster and lets its nodes join. The caller closes it.
func Start(ctx context.Context, cfg Config) (_ *Cluster, err error) {
	e, index := newEdges(newRand(cfg.Seed), cfg.Nodes, cfg.Streams)
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &Cluster{edges: e, cancel: cancel}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	peers := make([]string, Replicas)
	for i := range peers {
		if peers[i], err = freeAddress(); err != nil {
			return nil, err
		}
	}
	for i := range Replicas {
		s, err := scheduler.New(scheduler.Config{
			Data: filepath.Join(cfg.Dir, strconv.Itoa(i)), Log: slog.New(slog.DiscardHandler), Bus: wire{e, i, index},
			Headroom: cfg.Headroom, RaftListen: peers[i], Peers: peers, Expect: Replicas, HeartbeatEvery: beatEvery, Settle: time.Second,
		})
		if err != nil {
			return nil, fmt.Errorf("make replica: %w", err)
		}
		c.Servers = append(c.Servers, s)
		c.owned.Go(func() {
			if err := s.Run(run); err != nil {
				c.fail(err)
			}
		})
	}
	ctx, stop := context.WithTimeout(ctx, startTimeout)
	defer stop()
	for i, s := range c.Servers {
		if err := s.Ready(ctx); err != nil {
			return nil, fmt.Errorf("start replica %d: %w", i, err)
		}
	}
	c.owned.Go(func() { control.TuneCollector(run) }) // as the program does
	if err := c.serve(); err != nil {
		return nil, err
	}
	return c, c.furnish(ctx, run)
}

// furnish puts the application, a token and the nodes.
func (c *Cluster) furnish(ctx, run context.Context) (err error) {
	if _, err := c.Servers[0].PutApplication(ctx, api.App{Name: App, Command: []string{"game"}}); err != nil {
		return fmt.Errorf("put application: %w", err)
	}
	if c.Token, _, err = c.Servers[0].CreateToken(ctx, api.TokenSpec{Account: "bench"}); err != nil {
		return fmt.Errorf("make token: %w", err)
	}
	if err := c.join(ctx, c.Servers[0]); err != nil {
		return err
	}
	c.owned.Go(func() { c.beat(run) })
	for _, s := range c.Servers {
		if err := s.Consistent(ctx); err != nil {
			return fmt.Errorf("wait for replica: %w", err)
		}
	}
	return nil
}

func (c *Cluster) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errors.Join(c.err, err)
}

// serve puts a gateway before each replica.
func (c *Cluster) serve() error {
	for _, s := range c.Servers {
		g, err := gateway.New(gateway.Config{Sessions: s, Catalog: s, Accounts: s, Nodes: s, Cluster: s, Replicas: s,
			Signals: noSignals{}, Locator: nowhere{}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return fmt.Errorf("make gateway: %w", err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		front := g.HTTPServer(g.Handler())
		c.URLs, c.fronts, c.gateways = append(c.URLs, l.Addr().String()), append(c.fronts, front), append(c.gateways, g)
		c.owned.Go(func() {
			if err := front.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				c.fail(err)
			}
		})
	}
	return nil
}

// Leader gives the replica that leads.
func (c *Cluster) Leader(ctx context.Context) (int, error) {
	for ctx.Err() == nil {
		for i, s := range c.Servers {
			if s.Staleness() == 0 { // only the leader's state is never stale
				return i, nil
			}
		}
		time.Sleep(time.Millisecond)
	}
	return 0, fmt.Errorf("find leader: %w", ctx.Err())
}

// Create makes a session through a replica, for a client somewhere.
func (c *Cluster) Create(ctx context.Context, replica int, at api.Location) (api.Admission, error) {
	return c.Servers[replica].CreateSession(ctx, api.CreateRequest{
		App: App, IdleMinutes: api.IdleUnset, Screen: api.Screen{Width: 1280, Height: 720, FPS: 60}, Client: api.Client{Location: at},
		Grant: api.Grant{Account: "bench", Rights: []api.Right{api.RightSessions}},
	})
}

// Somewhere draws a client's place.
func Somewhere(rnd *rand.Rand) api.Location {
	return api.Location{Known: true, Latitude: rnd.Float64()*120 - 55, Longitude: rnd.Float64()*360 - 180}
}

// Close ends the cluster.
func (c *Cluster) Close() error {
	for _, f := range c.fronts {
		c.fail(f.Close())
	}
	c.cancel()
	c.owned.Wait()
	return c.err
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

type nowhere struct{}

// Locate knows no place.
func (nowhere) Locate(string) api.Location { return api.Location{} }

type noSignals struct{}

// OpenSignal refuses: nothing streams here.
func (noSignals) OpenSignal(context.Context, api.Session, api.Ticket) (gateway.SignalLink, error) {
	return nil, api.Errorf(api.CodeUnavailable, "the bench streams nothing")
}
