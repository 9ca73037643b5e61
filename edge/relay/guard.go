package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	pion "github.com/pion/turn/v3"

	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media/turn"
)

var (
	errQuota  = errors.New("the session has too many allocations")
	errNobody = errors.New("allocation without a credential")
	errTCP    = errors.New("relaying to TCP is not served")
)

// guard is the door of one socket. pion asks it while handling a request:
// first authenticate, then, with the password proven, what the request wants.
// One goroutine handles all requests of a socket, so the placement of the last
// authentication is the one that the following question is about.
type guard struct {
	r       *relay
	current side
	known   bool
	src     string
	// allocated is told of each allocation; nil: nobody wants to know.
	allocated func()

	mu   sync.Mutex          // allocations end in goroutines of their own
	held map[string]*relayed // by client address
}

// authenticate gives the key of a user; the password is proven by pion after.
func (g *guard) authenticate(user, realm string, src net.Addr) ([]byte, bool) {
	g.known = false
	u, err := turn.Check(user, time.Time{})
	if err != nil || realm != turn.Realm {
		return nil, false
	}
	of := side{placement{u.Session, u.Generation}, u.Stream}
	// An allocation lives on with its session: expiry ends new ones only.
	if _, err := turn.Check(user, time.Now()); err != nil && !g.holds(src, of) {
		return nil, false
	}
	g.current, g.known, g.src = of, true, src.String()
	return pion.GenerateAuthKey(user, realm, turn.Password(g.r.secret, user)), true
}

func (g *guard) holds(src net.Addr, of side) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	have, ok := g.held[src.String()]
	return ok && have.side == of
}

// permit says whether the client may reach an address at all; the port is
// looked at with each packet.
func (g *guard) permit(_ net.Addr, peer net.IP) bool {
	a, ok := netip.AddrFromSlice(peer)
	if !ok || !g.known {
		return false
	}
	o := g.r.owner(g.current.placement)
	return o != nil && (o.reachesAddr(a.Unmap()) || a.Unmap() == g.r.public())
}

// Validate is pion's.
func (g *guard) Validate() error { return nil }

// AllocateConn is pion's.
func (g *guard) AllocateConn(string, int) (net.Conn, net.Addr, error) { return nil, nil, errTCP }

// AllocatePacketConn is pion's: it makes the relayed socket.
func (g *guard) AllocatePacketConn(network string, port int) (net.PacketConn, net.Addr, error) {
	if !g.known {
		return nil, nil, errNobody
	}
	o, err := g.r.acquire(g.current)
	if err != nil {
		return nil, nil, err
	}
	u, err := net.ListenUDP(network, &net.UDPAddr{Port: port})
	if err != nil {
		g.r.release(g.current, o)
		return nil, nil, fmt.Errorf("make relayed socket: %w", err)
	}
	at := netip.AddrPortFrom(g.r.public(), u.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	c := &relayed{UDPConn: u, g: g, owner: o, side: g.current, src: g.src, at: at}
	g.mu.Lock()
	g.held[g.src] = c
	g.mu.Unlock()
	o.add(c)
	if g.allocated != nil {
		g.allocated()
	}
	return c, net.UDPAddrFromAddrPort(at), nil
}

// relayed is the socket of one allocation. It sends to and hears from its
// session's media addresses and ports only: those of the stream process, and
// the relayed ones of the session's other side.
type relayed struct {
	*net.UDPConn
	side
	g     *guard
	owner *owner
	src   string
	at    netip.AddrPort // what clients are told

	once, gone sync.Once // Close
}

// WriteTo drops what may not be reached, as a firewall would.
func (c *relayed) WriteTo(p []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok {
		return len(p), nil
	}
	way, ok := c.owner.way(c, unmap(u.AddrPort()))
	if !ok {
		return len(p), nil
	}
	return c.WriteToUDPAddrPort(p, way)
}

// ReadFrom drops what comes from elsewhere.
func (c *relayed) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.ReadFromUDPAddrPort(p)
		if err != nil {
			return n, nil, err
		}
		if source, ok := c.owner.source(c, unmap(from)); ok {
			return n, net.UDPAddrFromAddrPort(source), nil
		}
	}
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// Close frees the allocation's place. Its port is forgotten before it is free:
// the next to have it may be another session's.
func (c *relayed) Close() error {
	c.once.Do(func() { c.owner.remove(c) })
	err := c.UDPConn.Close()
	c.gone.Do(func() {
		c.g.mu.Lock()
		if c.g.held[c.src] == c {
			delete(c.g.held, c.src)
		}
		c.g.mu.Unlock()
		c.g.r.release(c.side, c.owner)
	})
	return err
}

// owner is a placement with allocations and what it may reach: the candidates
// that its stream process wrote down.
type owner struct {
	dir         local.Session
	allocations map[bool]int // by whether they are the stream's; guarded by relay.mu

	mu    sync.Mutex
	conns map[uint16]*relayed // by their port
	ports map[netip.AddrPort]bool
	addrs map[netip.Addr]bool
	read  time.Time
}

const (
	freshFor = 2 * time.Second        // then the file is read again: a session may have ended
	missFor  = 100 * time.Millisecond // a stream may have begun just now
)

func newOwner(dir local.Session) *owner {
	return &owner{dir: dir, allocations: map[bool]int{}, conns: map[uint16]*relayed{}}
}

func (o *owner) add(c *relayed) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.conns[c.at.Port()] = c
}

func (o *owner) remove(c *relayed) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conns[c.at.Port()] == c {
		delete(o.conns, c.at.Port())
	}
}

func (o *owner) closeAll() error {
	o.mu.Lock()
	conns := o.conns
	o.conns = map[uint16]*relayed{}
	o.mu.Unlock()
	var err error
	for _, c := range conns {
		err = errors.Join(err, c.Close())
	}
	return err
}

// way says where a packet of c to an address goes, if it may. What the session's
// other side has here is reached inside the host: its public address need not
// lead back to it.
func (o *owner) way(c *relayed, to netip.AddrPort) (netip.AddrPort, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if other := o.conns[to.Port()]; other != nil && other.stream != c.stream && other.at == to {
		return netip.AddrPortFrom(inside, to.Port()), true
	}
	return to, o.look(func() bool { return o.ports[to] })
}

// source says by which address c knows the sender of a packet, if it may hear it.
func (o *owner) source(c *relayed, from netip.AddrPort) (netip.AddrPort, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if other := o.conns[from.Port()]; other != nil && other.stream != c.stream && from.Addr() == inside {
		return other.at, true
	}
	return from, o.look(func() bool { return o.ports[from] })
}

func (o *owner) reachesAddr(a netip.Addr) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.look(func() bool { return o.addrs[a] })
}

// look asks what is known, and reads again when that may be old. mu is held.
func (o *owner) look(ok func() bool) bool {
	age := time.Since(o.read)
	if yes := ok(); yes && age < freshFor || !yes && age < missFor {
		return yes
	}
	o.refresh()
	return ok()
}

// refresh reads the candidates; a session that is gone has none. mu is held.
func (o *owner) refresh() {
	o.read = time.Now()
	o.ports, o.addrs = map[netip.AddrPort]bool{}, map[netip.Addr]bool{}
	m, err := o.dir.ReadMedia()
	if err != nil {
		return
	}
	for _, c := range m.Candidates {
		if a, err := netip.ParseAddrPort(c); err == nil {
			a = unmap(a)
			o.ports[a], o.addrs[a.Addr()] = true, true
		}
	}
}
