package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/bus"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/scheduler"
)

const (
	// routeSecret is no secret: the certificates admit a server to the bus, or
	// it listens on loopback only.
	routeSecret    = "replicas"
	defaultRoute   = "6222"
	meetEvery      = 250 * time.Millisecond
	joinTimeout    = 10 * time.Second
	defaultProfile = scheduler.ProfileSite
	routePatience  = 10 * time.Second
)

// clustered says whether other replicas may reach this one.
func (c Config) clustered() bool { return c.RaftListen != "" }

// checkCluster fills what the other replicas' way here leaves open. The rest
// is the scheduler's to refuse.
func (c Config) checkCluster() (Config, error) {
	if !c.clustered() {
		return c, nil
	}
	c.Profile = cmp.Or(c.Profile, defaultProfile)
	host, _, err := net.SplitHostPort(c.RaftListen)
	if err != nil {
		return c, api.Invalidf("--raft-listen", "%q is not host:port, for example 10.0.0.1:7000", c.RaftListen)
	}
	if c.NATSCluster == "" {
		c.NATSCluster = net.JoinHostPort(host, defaultRoute)
	}
	routeHost, _, err := net.SplitHostPort(c.NATSCluster)
	if err != nil {
		return c, api.Invalidf("--nats-cluster-listen", "%q is not host:port, for example 10.0.0.1:6222", c.NATSCluster)
	}
	if ip := net.ParseIP(routeHost); c.TLSCert == "" && routeHost != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return c, api.Invalidf("--nats-cluster-listen", "%q is open to the network: give --tls-cert, --tls-key and --tls-ca, or listen on 127.0.0.1", c.NATSCluster)
	}
	if c.RaftAdvertise != "" {
		if host, _, err = net.SplitHostPort(c.RaftAdvertise); err != nil {
			return c, api.Invalidf("--raft-advertise", "%q is not host:port, for example 10.0.0.1:7000", c.RaftAdvertise)
		}
	}
	c.Advertise = cmp.Or(c.Advertise, host) // an edge joins by one replica and uses all
	c.peerHost = host
	return c, nil
}

// self is what this replica tells the others of itself, as far as it is known.
type self struct {
	mu    sync.Mutex
	doc   api.Replica
	rings *rings
}

func (s *self) set(change func(*api.Replica)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.doc)
}

// describe completes what the scheduler says.
func (s *self) describe(r *api.Replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.API, r.NATS, r.STUN, r.Route, r.Bus, r.Version = s.doc.API, s.doc.NATS, s.doc.STUN, s.doc.Route, s.doc.Bus, s.doc.Version
	r.Gossip = s.rings.all()
}

// stun is where this replica tells edges their address.
func (s *self) stun() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.doc.STUN == "" {
		return nil
	}
	return []string{s.doc.STUN}
}

// join asks the members in turn to let this replica in.
func join(cfg Config) func(context.Context, api.Replica) error {
	if len(cfg.Join) == 0 {
		return nil
	}
	return func(ctx context.Context, r api.Replica) error {
		var errs []error
		for _, base := range cfg.Join {
			c, err := client.New(client.Config{URL: base, Token: cfg.JoinToken, Timeout: joinTimeout, CA: cfg.TLSCA})
			if err != nil {
				return api.Invalidf("--join", "%v", err)
			}
			err = c.AddReplica(ctx, r)
			c.Close()
			if err == nil {
				return nil
			}
			errs = append(errs, fmt.Errorf("join %s: %w", base, err))
		}
		return errors.Join(errs...)
	}
}

// meet keeps the bus and the rings connected with those of the other replicas.
func meet(ctx context.Context, cfg Config, sched *scheduler.Server, server *bus.Server, rings *rings) error {
	r := router{server: server, missing: map[string]time.Time{}}
	tick := time.NewTicker(meetEvery)
	defer tick.Stop()
	for {
		buses := map[string]string{}  // ids by route
		others := map[string]string{} // regions of rings by address
		for _, m := range sched.Members() {
			if m.ID == sched.ID() {
				continue
			}
			if m.Route != "" {
				buses[m.Route] = m.Bus
			}
			for region, address := range m.Gossip {
				others[address] = region
			}
		}
		rings.meet(others)
		if server != nil {
			if err := r.tend(buses, time.Now()); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// router names the other replicas' servers to this one's. That makes every
// connection to it anew, so it is done when this one has no way at all, or has
// lacked one for a while: else the servers find each other by themselves.
type router struct {
	server  *bus.Server
	named   []string
	missing map[string]time.Time // routes by when they were first not there
}

func (r *router) tend(buses map[string]string, now time.Time) error {
	routed, err := r.server.Routed()
	if err != nil {
		return err
	}
	late := false
	for route, id := range buses {
		if routed[id] {
			delete(r.missing, route)
			continue
		}
		if _, known := r.missing[route]; !known {
			r.missing[route] = now
		}
		late = late || len(routed) == 0 || now.Sub(r.missing[route]) >= routePatience
	}
	routes := slices.Sorted(maps.Keys(buses))
	if !late || slices.Equal(routes, r.named) {
		return nil // the server goes on trying what was named
	}
	r.named = routes
	clear(r.missing)
	return r.server.SetRoutes(routes)
}
