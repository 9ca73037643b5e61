// Package relay is the body of a node's relay process: a TURN and STUN server
// whose credentials each reach the media addresses and ports of one session of
// this node, and nothing else. Beside it, it answers the connectivity checks of
// clients that measure the way to this node.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/pion/logging"
	pion "github.com/pion/turn/v3"
	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/turn"
)

// Config of a relay process.
type Config struct {
	// Listen is the address to serve by UDP and TCP, "host:port". Port 0 is a free
	// one, the same for both.
	Listen string
	// TLSListen is the address to serve TURN over TLS, with the certificate and key
	// of these files (PEM), read again when they change; all "" = not served.
	TLSListen, Cert, Key string
	// Host is the name by which viewers reach it by TLS, which the certificate must
	// be of; "" is not looked at.
	Host string
	// TLSReady is told the address that is served; nil tells nobody.
	TLSReady func(netip.AddrPort)
	// SecretFile holds the node's relay secret, at least 16 bytes.
	SecretFile string
	// Run is the node's run directory: the sessions that may be reached, and the
	// node's public addresses.
	Run local.Run
	Log *slog.Logger
	// Ready is told the address that is served; nil tells nobody.
	Ready func(netip.AddrPort)
}

const (
	minSecret    = 16
	bufferSize   = 4 << 20
	maxSockets   = 4 // per address: the kernel spreads clients over them
	portTries    = 16
	maxTCP       = 4096
	maxTCPPerIP  = 64
	tcpQuiet     = 15 * time.Second // without an allocation
	tcpIdle      = 15 * time.Minute
	tcpWriteMost = 2 * time.Second
	tcpBuffer    = 128 << 10 // what waits longer than that is of no use

	// maxPerSide bounds the allocations of one session's viewers, and of its
	// stream: a browser makes one per network, address family and URL.
	maxPerSide     = 16
	maxAllocations = 8192
)

// Run serves until ctx ends (nil) or an address cannot be served.
func Run(ctx context.Context, cfg Config) error {
	secret, err := os.ReadFile(cfg.SecretFile)
	if err != nil {
		return fmt.Errorf("read relay secret: %w", err)
	}
	if len(secret) < minSecret {
		return api.Invalidf("relay secret", "%s holds %d bytes, at least %d are needed", cfg.SecretFile, len(secret), minSecret)
	}
	host, err := hostAddress()
	if err != nil {
		return err
	}
	if cfg.Listen == "" {
		return api.Invalidf("listen", "is missing: name an address such as :3478")
	}
	pair, err := newCertificate(cfg)
	if err != nil {
		return err
	}
	r := &relay{cfg: cfg, secret: secret, prober: newProber(secret, time.Now), host: host, log: cfg.Log, pion: media.PionLog(cfg.Log), owners: map[placement]*owner{},
		tcp: map[netip.Addr]int{}, conns: map[*framed]bool{}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer r.close()
	at, err := r.listen(ctx, cfg.Listen)
	if err != nil {
		return err
	}
	if pair != nil {
		r.wg.Go(func() { r.secure(ctx, pair) })
	} else {
		r.say()
	}
	cfg.Log.Info("relay serves", "address", at)
	if cfg.Ready != nil {
		cfg.Ready(at)
	}
	<-ctx.Done()
	return nil
}

// public is the address of new allocations that clients are told: the node's
// first public IPv4 one, else one of the host. Nothing is bound to it.
func (r *relay) public() netip.Addr {
	for _, text := range r.cfg.Run.Addresses() {
		if a, err := netip.ParseAddr(text); err == nil && a.Unmap().Is4() {
			return a.Unmap()
		}
	}
	return r.host
}

func hostAddress() (netip.Addr, error) {
	nets, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list addresses: %w", err)
	}
	for _, n := range nets {
		if ipnet, ok := n.(*net.IPNet); ok && ipnet.IP.To4() != nil && !ipnet.IP.IsLoopback() {
			return netip.AddrFrom4([4]byte(ipnet.IP.To4())), nil
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
}

// relay is what all of its sockets share.
type relay struct {
	cfg    Config
	secret []byte
	prober *prober
	host   netip.Addr
	log    *slog.Logger
	pion   logging.LoggerFactory
	wg     sync.WaitGroup

	mu      sync.Mutex
	owners  map[placement]*owner // those with allocations
	total   int                  // allocations
	closers []func() error
	closed  bool
	tcp     map[netip.Addr]int // connections by client
	conns   map[*framed]bool
}

// placement is what a credential belongs to.
type placement struct {
	session    api.SessionID
	generation api.Generation
}

// side is who of a placement holds a credential: a viewer, or its stream
// process, which runs on another node.
type side struct {
	placement
	stream bool
}

// inside is how two allocations on this host reach each other.
var inside = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// listen serves one address by UDP and TCP.
func (r *relay) listen(ctx context.Context, address string) (netip.AddrPort, error) {
	var err error
	for range portTries { // a free port of UDP may be taken in TCP
		var at netip.AddrPort
		if at, err = r.tryListen(ctx, address); err == nil {
			return at, nil
		}
		if _, port, e := net.SplitHostPort(address); e != nil || port != "0" {
			break
		}
	}
	return netip.AddrPort{}, fmt.Errorf("serve relay on %s: %w", address, err)
}

func (r *relay) tryListen(ctx context.Context, address string) (netip.AddrPort, error) {
	lc := net.ListenConfig{Control: reusePort}
	var packets []*net.UDPConn
	fail := func(err error) (netip.AddrPort, error) {
		for _, p := range packets {
			err = errors.Join(err, p.Close())
		}
		return netip.AddrPort{}, err
	}
	for range min(maxSockets, max(runtime.NumCPU(), 1)) {
		p, err := lc.ListenPacket(ctx, "udp", address)
		if err != nil {
			return fail(err)
		}
		u := p.(*net.UDPConn)
		packets = append(packets, u)
		address = u.LocalAddr().String()
		if err := errors.Join(u.SetReadBuffer(bufferSize), u.SetWriteBuffer(bufferSize)); err != nil {
			r.log.Debug("relay has smaller buffers", "error", err)
		}
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fail(err)
	}
	for _, p := range packets {
		s, err := r.serve(p)
		if err != nil {
			return fail(errors.Join(err, ln.Close()))
		}
		r.onClose(s.Close)
	}
	r.onClose(ln.Close)
	r.wg.Go(func() { r.accept(ln) })
	return ln.Addr().(*net.TCPAddr).AddrPort(), nil
}

func reusePort(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); e != nil {
		return e
	}
	return err
}

// serve runs a TURN server of its own on a socket. pion handles the requests of
// one socket one after another, which is what guard relies on.
func (r *relay) serve(p net.PacketConn) (*pion.Server, error) {
	g := &guard{r: r, held: map[string]*relayed{}}
	if f, ok := p.(*framed); ok {
		g.allocated = func() { f.used.Store(true) }
	} else {
		p = &probed{PacketConn: p, prober: r.prober}
	}
	s, err := pion.NewServer(pion.ServerConfig{
		Realm: turn.Realm, AuthHandler: g.authenticate, LoggerFactory: r.pion,
		PacketConnConfigs: []pion.PacketConnConfig{{PacketConn: p, RelayAddressGenerator: g, PermissionHandler: g.permit}},
	})
	if err != nil {
		return nil, fmt.Errorf("make TURN server: %w", err)
	}
	return s, nil
}

// onClose has f run at the end; at once when that has come.
func (r *relay) onClose(f func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		_ = f()
		return
	}
	r.closers = append(r.closers, f)
}

// close ends every socket and allocation.
func (r *relay) close() {
	r.mu.Lock()
	closers := r.closers
	r.closers, r.closed = nil, true
	for f := range r.conns {
		closers = append(closers, f.Close)
	}
	for _, o := range r.owners {
		closers = append(closers, o.closeAll)
	}
	r.mu.Unlock()
	for _, f := range closers {
		_ = f() // what is closed already says so
	}
	r.wg.Wait()
}

// acquire makes room for one allocation of a placement's side.
func (r *relay) acquire(s side) (*owner, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.owners[s.placement]
	if o == nil {
		o = newOwner(r.cfg.Run.Session(s.session, s.generation))
	}
	if o.allocations[s.stream] >= maxPerSide || r.total >= maxAllocations {
		return nil, errQuota
	}
	o.allocations[s.stream]++
	r.total++
	r.owners[s.placement] = o
	return o, nil
}

func (r *relay) release(s side, o *owner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o.allocations[s.stream]--
	r.total--
	if o.allocations[true]+o.allocations[false] == 0 {
		delete(r.owners, s.placement)
	}
}

func (r *relay) owner(p placement) *owner {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.owners[p]
}
