package control

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/bus"
	"github.com/perigee-cloud/perigee/api/gateway"
	"github.com/perigee-cloud/perigee/api/web"
	"github.com/perigee-cloud/perigee/geo"
	"github.com/perigee-cloud/perigee/media/stun"
	"github.com/perigee-cloud/perigee/scheduler"
)

const (
	startTimeout = 30 * time.Second
	drainTimeout = 3 * time.Second
	closeTimeout = 2 * time.Second
)

// Run builds a scheduler and serves until ctx ends. What was built last is
// ended first: the gateway drains while the replica still answers, the replica
// ends before the bus that it speaks on.
func Run(ctx context.Context, cfg Config) (err error) {
	cfg, err = cfg.check()
	if err != nil {
		return err
	}
	locator, err := geo.New(geo.Config{MMDB: cfg.MMDB, ASN: cfg.ASN, Table: cfg.Networks}, cfg.Log)
	if err != nil {
		return err
	}
	base, stopBase := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBase()
	g, gctx := errgroup.WithContext(base)
	g.Go(func() error { return locator.Run(gctx) })
	g.Go(func() error { TuneCollector(gctx); return nil })

	certs, err := newCertificates(cfg.TLSCert, cfg.TLSKey, cfg.TLSCA, cfg.Log)
	if err != nil {
		return err
	}
	if cfg.front, err = newFront(cfg.APICert, cfg.APIKey, cfg.Log); err != nil {
		return err
	}
	// The bus asks before there is a scheduler: it then knows nobody.
	var known atomic.Pointer[scheduler.Server]
	messages, err := startBus(gctx, g, cfg, certs, func(public []byte) bool {
		s := known.Load()
		return s != nil && s.KnownNode(public)
	})
	if err != nil {
		return err
	}
	rings := newRings(cfg)
	me := &self{rings: rings, doc: api.Replica{NATS: messages.urls()[0], Route: messages.route(cfg), Bus: messages.id(), Version: cfg.Version}}
	sc := scheduler.Config{
		Data: cfg.Data, Log: cfg.Log, Bus: messages.conn, Headroom: rings, Locator: locator, Networks: locator, Kick: messages.kick,
		NATSURLs: messages.urls, STUN: me.stun, Gossip: rings.addresses, DefaultRegion: cfg.Region, Trunk: cfg.TrunkPercent / 100,
		HeartbeatEvery: cfg.Heartbeat, Lease: cfg.Lease,
		RaftListen: cfg.RaftListen, RaftAdvertise: cfg.RaftAdvertise, Profile: cfg.Profile, Expect: cfg.Expect, Peers: cfg.Peers,
		Join: join(cfg), Settle: cfg.Settle, Describe: me.describe,
	}
	if certs != nil {
		sc.Certificates = certs
	}
	if sc.QueueLength, sc.QueueAccount, sc.QueueWait = cfg.QueueLength, cfg.QueueAccount, cfg.QueueWait; cfg.QueueLength == 0 {
		sc.QueueLength = -1 // where 0 is the scheduler's own default
	}
	sched, err := scheduler.New(sc)
	if err != nil {
		return err
	}
	known.Store(sched)
	if cfg.clustered() {
		g.Go(func() error { return meet(gctx, cfg, sched, messages.server, rings) })
	}
	err = serve(ctx, gctx, g, cfg, parts{sched, messages, rings, locator, me})
	stopBase()
	if werr := g.Wait(); !errors.Is(werr, context.Canceled) {
		err = errors.Join(err, werr)
	}
	return err
}

// parts are what the gateway stands on.
type parts struct {
	sched   *scheduler.Server
	bus     *messages
	rings   *rings
	locator *geo.Locator
	me      *self
}

// serve runs the replica, then what needs it, until ctx ends or a part fails.
func serve(ctx, base context.Context, g *errgroup.Group, cfg Config, p parts) error {
	schedCtx, stopSched := context.WithCancel(base)
	ended := make(chan error, 1)
	go func() { ended <- p.sched.Run(schedCtx) }()
	endSched := func() error {
		stopSched()
		err := <-ended
		p.bus.conn.Close()
		return err
	}
	ready, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if cfg.clustered() {
		ready = ctx // the other replicas may be started any time later
	}
	if err := p.sched.Ready(ready); err != nil {
		return errors.Join(err, endSched())
	}
	if err := p.rings.start(base, g, p.sched.ID(), p.sched.RingKey()); err != nil {
		return errors.Join(err, endSched())
	}
	front, err := listen(cfg)
	if err != nil {
		return errors.Join(err, endSched())
	}
	mirror, err := listenSTUN(cfg, front.tcp.Addr())
	if err != nil {
		return errors.Join(err, front.close(), endSched())
	}
	p.me.set(func(r *api.Replica) {
		r.API = front.scheme + "://" + reachable(front.tcp.Addr().String(), cfg.Advertise)
		if mirror != nil {
			r.STUN = reachable(mirror.LocalAddr().String(), cfg.Advertise)
			g.Go(func() error { return stun.Serve(base, mirror, cfg.Log) })
		}
	})
	gw, err := gateway.New(gateway.Config{
		Sessions: p.sched, Catalog: p.sched, Accounts: p.sched, Nodes: p.sched, Cluster: p.sched, Replicas: p.sched, Instances: p.sched, WarmPools: p.sched, Prober: p.sched, Latencies: p.sched,
		Signals: signals{p.bus.conn}, Locator: p.locator, Log: cfg.Log, Web: web.Handler(), Version: cfg.Version,
		PublicURL: cfg.PublicURL, LocalURL: front.url(), TrustedProxies: cfg.TrustedProxies,
		CORSOrigins: cfg.CORSOrigins, MaxRequestsPerSecond: cfg.MaxRequests,
	})
	if err != nil {
		return errors.Join(err, front.close(), endSched())
	}
	failed := front.serve(gw)
	rt := Runtime{API: front.url(), Socket: Socket(cfg.Data), NATS: p.bus.urls()[0], Gossip: p.rings.first(), PID: os.Getpid()}
	if err = writeRuntime(cfg.Data, rt); err == nil {
		cfg.Log.Info("scheduler is ready", "api", rt.API, "socket", rt.Socket, "nats", rt.NATS, "gossip", rt.Gossip)
		if cfg.Ready != nil {
			cfg.Ready(rt)
		}
		select {
		case <-ctx.Done():
		case <-base.Done(): // a part below failed; g has its error
		case err = <-failed:
		case e := <-ended:
			ended <- e
		}
	}
	p.sched.Yield() // before the clients leave: another leader is there for what they still ask
	drain, cancelDrain := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancelDrain()
	if derr := gw.Drain(drain); derr != nil {
		cfg.Log.Warn("some websockets were cut", "error", derr)
	}
	return errors.Join(err, front.close(), endSched(), os.Remove(filepath.Join(cfg.Data, runtimeFile)))
}

const runtimeFile = "runtime.json"

func writeRuntime(data string, r Runtime) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode runtime: %w", err)
	}
	tmp := filepath.Join(data, runtimeFile+".new")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("write runtime: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(data, runtimeFile)); err != nil {
		return fmt.Errorf("write runtime: %w", err)
	}
	return nil
}

// front is the two listeners of the gateway.
type front struct {
	scheme     string // of tcp: http or https
	tcp, admin net.Listener
	servers    []*http.Server
}

func listen(cfg Config) (*front, error) {
	tcp, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for the API (--listen): %w", err)
	}
	admin, err := gateway.ListenAdmin(Socket(cfg.Data))
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	f := &front{scheme: "http", tcp: tcp, admin: admin}
	if cfg.front != nil {
		f.scheme, f.tcp = "https", tls.NewListener(tcp, cfg.front.Front())
	}
	return f, nil
}

// listenSTUN opens the port where edges learn their address: beside the API's,
// unless the operator names one. nil when the API's is taken in UDP: edges then
// have the source address of their join.
func listenSTUN(cfg Config, api net.Addr) (net.PacketConn, error) {
	if cfg.STUNListen != "" {
		c, err := net.ListenPacket("udp", cfg.STUNListen)
		if err != nil {
			return nil, fmt.Errorf("listen for STUN (--stun-listen): %w", err)
		}
		return c, nil
	}
	c, err := net.ListenPacket("udp", api.String())
	if err != nil {
		cfg.Log.Warn("no STUN here: edges see their address by their join only; --stun-listen names another port", "error", err)
		return nil, nil
	}
	return c, nil
}

// url reaches the API from this host.
func (f *front) url() string {
	a, ok := f.tcp.Addr().(*net.TCPAddr)
	if !ok {
		return f.scheme + "://" + f.tcp.Addr().String()
	}
	if a.IP.IsUnspecified() {
		return fmt.Sprintf("%s://127.0.0.1:%d", f.scheme, a.Port)
	}
	return f.scheme + "://" + a.String()
}

// serve starts both servers; the channel has the first that fails.
func (f *front) serve(gw *gateway.Server) <-chan error {
	failed := make(chan error, 2)
	for l, h := range map[net.Listener]http.Handler{f.tcp: gw.Handler(), f.admin: gw.AdminHandler()} {
		s := gw.HTTPServer(h)
		f.servers = append(f.servers, s)
		go func() {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve the API: %w", err)
			}
		}()
	}
	return failed
}

func (f *front) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var errs []error
	for _, s := range f.servers {
		if s.Shutdown(ctx) != nil {
			errs = append(errs, s.Close()) // whoever still waits is cut
		}
	}
	if len(f.servers) == 0 {
		errs = append(errs, f.tcp.Close(), f.admin.Close())
	}
	return errors.Join(errs...)
}

var _ gateway.Signals = signals{}

// signals lets the gateway use the bus: its interface names an interface, the
// bus gives a struct.
type signals struct{ conn *bus.Conn }
