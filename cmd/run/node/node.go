package node

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/bus"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/edge/engines"
)

// Run joins and serves until ctx ends or the schedulers refuse the node. The
// cause edge.ErrEndSessions ends the sessions too; else they go on.
func Run(ctx context.Context, cfg Config) (err error) {
	cfg, err = cfg.check()
	if err != nil {
		return err
	}
	id, err := edge.OpenIdentity(cfg.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, id.Close()) }()
	relay, err := relayAddress(cfg.Data, cfg.RelayListen)
	if err != nil {
		return err
	}
	served := false
	defer func() { // what an earlier daemon left is ours to end, though we never served it
		if !served && errors.Is(context.Cause(ctx), edge.ErrEndSessions) {
			err = errors.Join(err, edge.EndSessions(edge.Config{Identity: id, Run: runDir(cfg), Start: starter(cfg, id, relay), Log: cfg.Log}))
		}
	}()
	p := &presence{cfg: cfg, id: id, relay: relay, ring: newRing(cfg), encoders: takeEncoders(ctx, cfg, id)}
	defer p.encoders.release()
	joined, err := p.enter(ctx)
	if err != nil {
		return err
	}
	cfg.Log.Info("joined", "node", id.ID, "region", joined.Node.Region, "addresses", joined.Node.Addresses)
	secured, err := busTLS(cfg, joined.NATS)
	if err != nil {
		return err
	}
	// Not with ctx: what ends at its end is told on the bus.
	if p.conn, err = bus.Dial(context.WithoutCancel(ctx), bus.Config{URLs: joined.NATS, Seed: id.Key.Seed(), TLS: secured, Log: cfg.Log}); err != nil {
		return err
	}
	defer p.conn.Close()
	agent, err := edge.New(edge.Config{
		Identity: id, Run: runDir(cfg), Pools: joined.Node.Pools, Bus: heartbeats{p.conn, p}, Publish: p.ring,
		Start: starter(cfg, id, relay), Log: cfg.Log,
		Graphics: p.encoders.sample(engines.Open(runDir(cfg))), Uplink: cfg.Uplink,
		HeartbeatEvery: time.Duration(joined.HeartbeatMS) * time.Millisecond,
	})
	if err != nil {
		return err
	}
	p.pools = func(c []api.Capacity) { p.encoders.settle(cfg, agent, c) }
	p.pools(joined.Node.Pools)
	served = true
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.ring.run(gctx, joined) })
	g.Go(func() error { return p.run(gctx) })
	g.Go(func() error { return agent.Run(gctx) })
	if w := p.encoders.watcher; w != nil {
		g.Go(func() error { w.Run(gctx); return nil })
	}
	if cfg.Certify == certifyIdle {
		g.Go(func() error { p.encoders.keep(gctx, cfg, id, agent.Busy); return nil })
	}
	return g.Wait()
}

// busTLS gives how the bus's certificate is checked; nil where it is plain.
func busTLS(cfg Config, urls []string) (*tls.Config, error) {
	if !slices.ContainsFunc(urls, func(u string) bool { return strings.HasPrefix(u, "tls://") }) {
		return nil, nil
	}
	roots, err := client.Roots(cfg.CA)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, nil
}

func joinAt(ctx context.Context, base, ca string, j api.NodeJoin) (api.NodeJoined, error) {
	c, err := client.New(client.Config{URL: base, CA: ca, Timeout: 5 * time.Second})
	if err != nil {
		return api.NodeJoined{}, api.Invalidf("--join", "%v", err)
	}
	defer c.Close()
	return c.JoinNode(ctx, j)
}

// checkJoined makes sure that the answer has what the node cannot do without.
func checkJoined(j api.NodeJoined) error {
	switch {
	case len(j.NATS) == 0:
		return errors.New("join: the scheduler named no NATS address")
	case len(j.Node.Addresses) == 0:
		return api.Invalidf("--advertise", "the scheduler saw no address of this node: give its public one")
	case len(j.TicketKey) != ed25519.PublicKeySize:
		return errors.New("join: the scheduler gave no ticket key")
	}
	return nil
}

// describe says what the node is.
func describe(ctx context.Context, cfg Config, relay string, addresses []string) (api.Node, error) {
	where, err := cfg.location()
	if err != nil {
		return api.Node{}, err
	}
	_, text, err := net.SplitHostPort(relay)
	if err != nil {
		return api.Node{}, fmt.Errorf("split relay address: %w", err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return api.Node{}, api.Invalidf("--relay-listen", "%q has no port number", relay)
	}
	labels, err := marks(ctx, cfg)
	if err != nil {
		return api.Node{}, err
	}
	return api.Node{
		Name: cfg.Name, Region: cfg.Region, Labels: labels, Location: where, Addresses: addresses,
		RelayPort: port, Relay: append(relayURLs(addresses, text), cfg.RelayTLS.urls()...), Version: cfg.Version,
	}, nil
}

// relayURLs are the TURN addresses of the node's relay, UDP first.
func relayURLs(addresses []string, port string) []string {
	var out []string
	for _, transport := range []string{"udp", "tcp"} {
		for _, a := range addresses {
			out = append(out, "turn:"+net.JoinHostPort(a, port)+"?transport="+transport)
		}
	}
	return out
}
