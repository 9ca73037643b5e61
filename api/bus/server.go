package bus

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/perigee-cloud/perigee/api"
)

const (
	schedulerUser = "scheduler"
	routeUser     = "route"
	clusterName   = "perigee"
	maxPayload    = 1 << 20 // a frame of api.MaxFrame in base64, with room
	startTimeout  = 10 * time.Second
	startPoll     = 5 * time.Millisecond
	pingEvery     = 5 * time.Second // a dead edge is dropped after three
	maxPings      = 2
)

// ServerConfig configures an embedded server.
type ServerConfig struct {
	Listen string // host:port for edges; port 0 takes a free one
	// Known says whether a node with this Ed25519 public key has joined.
	Known func(public []byte) bool
	Log   *slog.Logger
	TLS   *tls.Config // nil: no TLS
	// Cluster is host:port for the other replicas' servers; "" when there are
	// none. Routes are their addresses; all share ClusterSecret.
	Cluster       string
	Routes        []string
	ClusterSecret string
	ClusterTLS    *tls.Config // between the servers, both ways; nil = TLS
}

// Server is an embedded NATS server: no storage, nodes by key, the schedulers
// of its process by an in-process connection.
type Server struct {
	ns       *server.Server
	options  *server.Options
	secret   string // of the cluster
	log      *slog.Logger
	fatal    chan string
	ready    chan struct{}
	password string
}

// NewServer checks the configuration and makes a server that does not listen yet.
func NewServer(c ServerConfig) (*Server, error) {
	if c.Known == nil || c.Log == nil {
		return nil, errors.New("bus server needs Known and Log")
	}
	host, port, err := splitListen("listen", c.Listen)
	if err != nil {
		return nil, err
	}
	s := &Server{log: c.Log, fatal: make(chan string, 1), ready: make(chan struct{}), password: rand.Text()}
	o := &server.Options{
		Host: host, Port: port, NoSigs: true, MaxPayload: maxPayload,
		AlwaysEnableNonce: true, CustomClientAuthentication: &gate{password: s.password, known: c.Known},
		PingInterval: pingEvery, MaxPingsOut: maxPings,
		TLSConfig: c.TLS, TLSTimeout: 5, AuthTimeout: 5,
	}
	if err := clusterOptions(o, c); err != nil {
		return nil, err
	}
	s.options, s.secret = o.Clone(), c.ClusterSecret
	if s.ns, err = server.NewServer(o); err != nil {
		return nil, fmt.Errorf("make bus server: %w", err)
	}
	s.ns.SetLoggerV2(&logger{log: c.Log, fatal: s.fatal}, false, false, false)
	return s, nil
}

func clusterOptions(o *server.Options, c ServerConfig) error {
	if c.Cluster == "" {
		if len(c.Routes) > 0 {
			return errors.New("bus routes need a cluster address to listen on")
		}
		return nil
	}
	if c.ClusterSecret == "" {
		return errors.New("bus cluster needs a secret")
	}
	host, port, err := splitListen("cluster", c.Cluster)
	if err != nil {
		return err
	}
	o.Cluster = server.ClusterOpts{
		Name: clusterName, Host: host, Port: port, Username: routeUser, Password: c.ClusterSecret,
		NoAdvertise: true, PingInterval: pingEvery, MaxPingsOut: maxPings,
	}
	if t := cmp.Or(c.ClusterTLS, c.TLS); t != nil {
		o.Cluster.TLSConfig, o.Cluster.TLSTimeout = t, 5
	}
	o.Routes = routes(c.Routes, c.ClusterSecret)
	return nil
}

func routes(to []string, secret string) []*url.URL {
	var out []*url.URL
	for _, r := range to {
		out = append(out, &url.URL{Scheme: "nats-route", Host: r, User: url.UserPassword(routeUser, secret)})
	}
	return out
}

// ID names this start of the server.
func (s *Server) ID() string { return s.ns.ID() }

// Routed gives the ids of the other replicas' servers that it has a way to now.
func (s *Server) Routed() (map[string]bool, error) {
	z, err := s.ns.Routez(nil)
	if err != nil {
		return nil, fmt.Errorf("list bus routes: %w", err)
	}
	out := map[string]bool{}
	for _, r := range z.Routes {
		out[r.RemoteID] = true
	}
	return out, nil
}

// SetRoutes replaces the addresses of the other replicas' servers: new ones are
// connected to, those that are gone are left alone from then on. The servers
// tell each other of further ones, so that it is seldom needed; every
// connection to this server is made anew.
func (s *Server) SetRoutes(to []string) error {
	if s.options.Cluster.Name == "" {
		return errors.New("set bus routes: the server has no cluster")
	}
	o := s.options.Clone()
	o.Routes = routes(to, s.secret)
	if err := s.ns.ReloadOptions(o); err != nil {
		return fmt.Errorf("set bus routes: %w", err)
	}
	return nil
}

func splitListen(field, address string) (string, int, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, api.Invalidf("nats."+field, "%q is not host:port: %v", address, err)
	}
	port, err := strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, api.Invalidf("nats."+field, "%q has no port from 0 to 65535", address)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// Run listens and serves until ctx ends. It can be called once.
func (s *Server) Run(ctx context.Context) error {
	s.ns.Start()
	defer func() {
		s.ns.Shutdown()
		s.ns.WaitForShutdown()
	}()
	if err := s.awaitReady(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	close(s.ready)
	s.log.Info("bus listens", "address", s.ns.Addr().String())
	select {
	case <-ctx.Done():
		return nil
	case text := <-s.fatal:
		return fmt.Errorf("serve bus: %s", text)
	}
}

func (s *Server) awaitReady(ctx context.Context) error {
	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	for {
		select {
		case text := <-s.fatal:
			return fmt.Errorf("start bus: %s", text)
		case <-ctx.Done():
			return nil
		case <-deadline.C:
			return fmt.Errorf("start bus: not listening after %s", startTimeout)
		case <-time.After(startPoll):
			if s.ns.Addr() != nil && s.ns.ReadyForConnections(time.Millisecond) {
				return nil
			}
		}
	}
}

// Ready waits until the server listens; why ctx ended is in the error.
func (s *Server) Ready(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for bus: %w", context.Cause(ctx))
	}
}

// Addr is where the server listens for edges; nil before it is ready.
func (s *Server) Addr() net.Addr { return s.ns.Addr() }

// ClusterAddr is where it listens for other replicas' servers; nil without a cluster.
func (s *Server) ClusterAddr() net.Addr {
	if a := s.ns.ClusterAddr(); a != nil {
		return a
	}
	return nil
}

// URL is the server's own URL, with the port it really has; "" before it is ready.
func (s *Server) URL() string {
	if s.ns.Addr() == nil {
		return ""
	}
	return s.ns.ClientURL()
}

// InProcess gives the configuration of a scheduler's connection to this server;
// the caller adds its log.
func (s *Server) InProcess() Config {
	return Config{server: s.ns, User: schedulerUser, Password: s.password}
}

// Kick disconnects a node. Known must refuse it from then on, or it comes back.
func (s *Server) Kick(id api.NodeID) error {
	const page = 1024
	var cids []uint64
	for offset := 0; ; offset += page {
		z, err := s.ns.Connz(&server.ConnzOptions{Username: true, Limit: page, Offset: offset})
		if err != nil {
			return fmt.Errorf("list bus connections: %w", err)
		}
		for _, c := range z.Conns {
			public, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(c.AuthorizedUser))
			if err == nil && api.NodeIDFromKey(public) == id {
				cids = append(cids, c.Cid)
			}
		}
		if len(z.Conns) < page {
			break
		}
	}
	for _, cid := range cids {
		_ = s.ns.DisconnectClientByID(cid) // fails only when it has just left by itself
	}
	if len(cids) > 0 {
		s.log.Info("node disconnected from bus", "node", id)
	}
	return nil
}
