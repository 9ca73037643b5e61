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
	current placement
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
	id, gen, _, err := turn.Check(user, time.Now())
	if err != nil {
		// An allocation lives on with its session: expiry ends new ones only.
		if id, gen, _, err = turn.Check(user, time.Time{}); err != nil || !g.holds(src, placement{id, gen}) {
			return nil, false
		}
	}
	if realm != turn.Realm {
		return nil, false
	}
	g.current, g.known, g.src = placement{id, gen}, true, src.String()
	return pion.GenerateAuthKey(user, realm, turn.Password(g.r.secret, user)), true
}

func (g *guard) holds(src net.Addr, p placement) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	have, ok := g.held[src.String()]
	return ok && have.placement == p
}

// permit says whether the client may reach an address at all; the port is
// looked at with each packet.
func (g *guard) permit(_ net.Addr, peer net.IP) bool {
	a, ok := netip.AddrFromSlice(peer)
	if !ok || !g.known {
		return false
	}
	o := g.r.owner(g.current)
	return o != nil && o.reachesAddr(a.Unmap())
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
	c := &relayed{UDPConn: u, g: g, owner: o, placement: g.current, src: g.src}
	g.mu.Lock()
	g.held[g.src] = c
	g.mu.Unlock()
	o.add(c)
	if g.allocated != nil {
		g.allocated()
	}
	at := u.LocalAddr().(*net.UDPAddr)
	return c, net.UDPAddrFromAddrPort(netip.AddrPortFrom(g.r.public(), uint16(at.Port))), nil
}

// relayed is the socket of one allocation. It sends to and hears from its
// session's media addresses and ports only.
type relayed struct {
	*net.UDPConn
	g         *guard
	owner     *owner
	placement placement
	src       string
	once      sync.Once
}

// WriteTo drops what may not be reached, as a firewall would.
func (c *relayed) WriteTo(p []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok || !c.owner.reaches(unmap(u.AddrPort())) {
		return len(p), nil
	}
	return c.UDPConn.WriteTo(p, to)
}

// ReadFrom drops what comes from elsewhere.
func (c *relayed) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.ReadFromUDPAddrPort(p)
		if err != nil {
			return n, nil, err
		}
		if from = unmap(from); c.owner.reaches(from) {
			return n, net.UDPAddrFromAddrPort(from), nil
		}
	}
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// Close frees the allocation's place.
func (c *relayed) Close() error {
	err := c.UDPConn.Close()
	c.once.Do(func() {
		c.owner.remove(c)
		c.g.mu.Lock()
		if c.g.held[c.src] == c {
			delete(c.g.held, c.src)
		}
		c.g.mu.Unlock()
		c.g.r.release(c.placement, c.owner)
	})
	return err
}

// owner is a placement with allocations and what it may reach: the candidates
// that its stream process wrote down.
type owner struct {
	dir         local.Session
	allocations int // guarded by relay.mu

	mu    sync.Mutex
	conns map[*relayed]bool
	ports map[netip.AddrPort]bool
	addrs map[netip.Addr]bool
	read  time.Time
}

const (
	freshFor = 2 * time.Second        // then the file is read again: a session may have ended
	missFor  = 100 * time.Millisecond // a stream may have begun just now
)

func newOwner(dir local.Session) *owner { return &owner{dir: dir, conns: map[*relayed]bool{}} }

func (o *owner) add(c *relayed) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.conns[c] = true
}

func (o *owner) remove(c *relayed) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.conns, c)
}

func (o *owner) closeAll() error {
	o.mu.Lock()
	conns := o.conns
	o.conns = map[*relayed]bool{}
	o.mu.Unlock()
	var err error
	for c := range conns {
		err = errors.Join(err, c.Close())
	}
	return err
}

func (o *owner) reaches(a netip.AddrPort) bool {
	return o.look(func() bool { return o.ports[a] })
}

func (o *owner) reachesAddr(a netip.Addr) bool {
	return o.look(func() bool { return o.addrs[a] })
}

// look asks what is known, and reads again when that may be old.
func (o *owner) look(ok func() bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
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
