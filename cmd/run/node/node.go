package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/bus"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/gossip"
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
	joined, err := joinWithAddress(ctx, cfg, id, relay)
	if err != nil {
		return err
	}
	cfg.Log.Info("joined", "node", id.ID, "region", joined.Node.Region, "addresses", joined.Node.Addresses)
	conn, err := bus.Dial(ctx, bus.Config{URLs: joined.NATS, Seed: id.Key.Seed(), Log: cfg.Log})
	if err != nil {
		return err
	}
	defer conn.Close()
	ring, err := gossip.New(gossip.Config{
		Listen: cfg.GossipListen, Advertise: joined.Node.Addresses[0], Key: joined.RingKey, Log: cfg.Log,
		Meta: gossip.MetaOf(joined.Node),
	})
	if err != nil {
		return err
	}
	agent, err := edge.New(edge.Config{
		Identity: id, Run: runDir(cfg), Pools: joined.Node.Pools, Bus: conn, Publish: ring,
		Start: starter(cfg, id, joined.Node, relay), Log: cfg.Log,
		HeartbeatEvery: time.Duration(joined.HeartbeatMS) * time.Millisecond,
	})
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ring.Run(gctx) })
	g.Go(func() error { ring.Join(gctx, joined.Gossip); return nil })
	g.Go(func() error { return agent.Run(gctx) })
	return g.Wait()
}

// joinWithAddress joins; without --advertise it takes the address that the
// scheduler saw, and joins again with it, so that the node's record has it.
func joinWithAddress(ctx context.Context, cfg Config, id *edge.Identity, relay string) (api.NodeJoined, error) {
	joined, err := join(ctx, cfg, id, relay)
	if err != nil || len(cfg.Advertise) > 0 {
		return joined, err
	}
	if _, err := netip.ParseAddr(joined.PublicAddress); err != nil {
		return joined, api.Invalidf("--advertise", "the scheduler saw no address of this node (%q): give its public address", joined.PublicAddress)
	}
	cfg.Advertise = []string{joined.PublicAddress}
	return join(ctx, cfg, id, relay)
}

const joinPause = 5 * time.Second // the longest between two tries

// join asks one scheduler after the other, for as long as ctx lasts, unless
// they refuse for a reason that waiting does not mend.
func join(ctx context.Context, cfg Config, id *edge.Identity, relay string) (api.NodeJoined, error) {
	n, err := describe(cfg, relay)
	if err != nil {
		return api.NodeJoined{}, err
	}
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, joinPause
	for said := ""; ; {
		for _, base := range cfg.Join {
			j, err := joinAt(ctx, base, id.Join(n, cfg.Token))
			if err == nil {
				j.NATS = natsURLs(j.NATS, base)
				return j, checkJoined(j)
			}
			switch api.CodeOf(err) {
			case api.CodeInvalid, api.CodeUnauthorized, api.CodeForbidden:
				return j, fmt.Errorf("join %s: %w", base, err)
			}
			if err.Error() != said { // once, not at every try
				cfg.Log.Warn("cannot join yet", "scheduler", base, "error", err)
				said = err.Error()
			}
		}
		select {
		case <-ctx.Done():
			return api.NodeJoined{}, fmt.Errorf("join: %w", ctx.Err())
		case <-time.After(wait.NextBackOff()):
		}
	}
}

func joinAt(ctx context.Context, base string, j api.NodeJoin) (api.NodeJoined, error) {
	c, err := client.New(client.Config{URL: base, Timeout: 5 * time.Second})
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
	case len(j.TicketKey) != ed25519.PublicKeySize:
		return errors.New("join: the scheduler gave no ticket key")
	}
	return nil
}

// describe says what the node is.
func describe(cfg Config, relay string) (api.Node, error) {
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
	labels, err := cfg.labels()
	if err != nil {
		return api.Node{}, err
	}
	return api.Node{
		Name: cfg.Name, Region: cfg.Region, Labels: labels, Location: where, Addresses: cfg.Advertise,
		RelayPort: port, Relay: relayURLs(cfg.Advertise, text), Pools: cfg.pools(), Version: cfg.Version,
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
