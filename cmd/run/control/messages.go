package control

import (
	"context"
	"fmt"
	"net"
	"net/url"

	"golang.org/x/sync/errgroup"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/bus"
	"github.com/perigee-cloud/perigee/api/gateway"
)

// messages is NATS: embedded, or somebody else's.
type messages struct {
	conn   *bus.Conn
	server *bus.Server     // nil when it is somebody else's
	urls   func() []string // told to edges that join
	kick   func(api.NodeID) error
}

func startBus(ctx context.Context, g *errgroup.Group, cfg Config, certs *certificates, known func([]byte) bool) (*messages, error) {
	if cfg.NATSURL != "" {
		conn, err := bus.Dial(ctx, bus.Config{URLs: []string{cfg.NATSURL}, Log: cfg.Log})
		if err != nil {
			return nil, fmt.Errorf("connect to --nats-url: %w", err)
		}
		return &messages{
			conn: conn, urls: func() []string { return []string{nodeURL(cfg)} },
			kick: func(api.NodeID) error { return nil }, // the operator's server, the operator's accounts
		}, nil
	}
	sc := bus.ServerConfig{Listen: cfg.NATSListen, Known: known, Log: cfg.Log}
	if cfg.clustered() {
		sc.Cluster, sc.ClusterSecret = cfg.NATSCluster, routeSecret
	}
	if cfg.clustered() && certs != nil {
		sc.ClusterTLS = certs.both()
	}
	scheme := "nats"
	if cfg.front != nil {
		if cfg.clustered() && certs == nil {
			return nil, api.Invalidf("--api-cert", "with other replicas needs --tls-cert, --tls-key and --tls-ca too: they would speak in the clear")
		}
		sc.TLS, scheme = cfg.front.Front(), "tls"
	}
	server, err := bus.NewServer(sc)
	if err != nil {
		return nil, err
	}
	g.Go(func() error { return server.Run(ctx) })
	ready, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := server.Ready(ready); err != nil {
		return nil, fmt.Errorf("start NATS (--nats-listen %s): %w", cfg.NATSListen, err)
	}
	in := server.InProcess()
	in.Log = cfg.Log
	conn, err := bus.Dial(ctx, in)
	if err != nil {
		return nil, err
	}
	own := scheme + "://" + reachable(server.Addr().String(), cfg.Advertise)
	return &messages{conn: conn, server: server, urls: func() []string { return []string{own} }, kick: server.Kick}, nil
}

// route is where the other replicas' servers reach this one's; "" without a cluster.
func (m *messages) route(cfg Config) string {
	if m.server == nil || m.server.ClusterAddr() == nil {
		return ""
	}
	return reachable(m.server.ClusterAddr().String(), cfg.peerHost)
}

// nodeURL is where nodes reach an external NATS: never with the schedulers' own
// password, which may speak for everybody.
func nodeURL(cfg Config) string {
	if cfg.NATSNodeURL != "" {
		return cfg.NATSNodeURL
	}
	u, err := url.Parse(cfg.NATSURL)
	if err != nil {
		return cfg.NATSURL // the connection to it has failed before
	}
	u.User = nil
	return u.String()
}

// id names this start of the embedded server.
func (m *messages) id() string {
	if m.server == nil {
		return ""
	}
	return m.server.ID()
}

// reachable puts the advertised host before a listener's port. Without one, an
// unspecified host stays: an edge then takes the host that it joined by.
func reachable(address, advertise string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil || advertise == "" {
		return address
	}
	return net.JoinHostPort(advertise, port)
}

// OpenSignal opens one viewer's way to the stream process.
func (s signals) OpenSignal(ctx context.Context, session api.Session, t api.Ticket) (gateway.SignalLink, error) {
	l, err := s.conn.OpenSignal(ctx, session, t)
	if err != nil {
		return nil, err
	}
	return l, nil
}
