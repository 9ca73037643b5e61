package relay

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/pion/stun/v4"

	"github.com/perigee-cloud/perigee/api"
)

// Bounds of probing. A browser sends three checks in its first 150 ms and then
// two a second, from each of its networks.
const (
	maxProbe        = 1024        // bytes of a check; browsers send about 150
	probesPerTicket = 64          // in ticketWindow
	ticketWindow    = time.Minute // under a ticket's life, so twice as many in all
	probesPerSource = 100         // in a second: a household behind one address, and more
	maxProbeKeys    = 1 << 16     // tickets, and sources, within a window
)

// prober answers the connectivity checks of clients that measure the way to
// this node, as an ICE-lite agent would, and nobody without a ticket.
type prober struct {
	secret []byte
	now    func() time.Time

	mu      sync.Mutex
	tickets window[api.ProbeTicket]
	sources window[netip.Prefix]
}

func newProber(secret []byte, now func() time.Time) *prober {
	return &prober{secret: secret, now: now,
		tickets: window[api.ProbeTicket]{every: ticketWindow, most: probesPerTicket},
		sources: window[netip.Prefix]{every: time.Second, most: probesPerSource}}
}

// probed is a socket whose connectivity checks are answered before the TURN
// server sees them.
type probed struct {
	net.PacketConn
	prober *prober
}

// ReadFrom gives the packets that are no checks.
func (c *probed) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.PacketConn.ReadFrom(p)
		if err != nil {
			return n, from, err
		}
		m := check(p[:n])
		if m == nil {
			return n, from, nil
		}
		if a := c.prober.answer(m, from); a != nil {
			_, _ = c.WriteTo(a, from) // a client that hears nothing asks again
		}
	}
}

// check gives a packet that is a connectivity check: a STUN Binding request
// with a user name, which a client that asks for its address alone never sends.
// nil for any other.
func check(p []byte) *stun.Message {
	if len(p) < 20 || p[0] != 0 || p[1] != 1 || !stun.IsMessage(p) {
		return nil // most packets are media
	}
	m := &stun.Message{Raw: p}
	if m.Decode() != nil || !m.Contains(stun.AttrUsername) {
		return nil
	}
	return m
}

// answer gives the success response to a check by the holder of a ticket of
// this node, nil for anything else: whoever has none learns nothing.
func (p *prober) answer(m *stun.Message, from net.Addr) []byte {
	u, ok := from.(*net.UDPAddr)
	if !ok || len(m.Raw) > maxProbe {
		return nil
	}
	user, err := m.Get(stun.AttrUsername)
	if err != nil {
		return nil
	}
	text, _, ok := strings.Cut(string(user), ":") // behind it the client's own ufrag
	if !ok {
		return nil
	}
	now := p.now()
	ticket, err := api.ParseProbeTicket(text, now)
	if err != nil {
		return nil
	}
	proof := stun.NewShortTermIntegrity(api.ProbePassword(p.secret, text))
	if proof.Check(m) != nil || stun.Fingerprint.Check(m) != nil {
		return nil
	}
	if !p.allow(ticket, u.AddrPort().Addr(), now) {
		return nil
	}
	a, err := stun.Build(stun.NewTransactionIDSetter(m.TransactionID), stun.BindingSuccess,
		&stun.XORMappedAddress{IP: u.IP, Port: u.Port}, proof, stun.Fingerprint)
	if err != nil || len(a.Raw) > len(m.Raw) { // never more than was sent: the source may be forged
		return nil
	}
	return a.Raw
}

// allow counts an answer. Only holders of tickets get here, so nobody can use up
// another's share with packets of a forged source alone.
func (p *prober) allow(t api.ProbeTicket, from netip.Addr, now time.Time) bool {
	from = from.Unmap().WithZone("")
	bits := from.BitLen()
	if from.Is6() {
		bits = 64 // what one household has
	}
	net, err := from.Prefix(bits)
	if err != nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tickets.take(t, now) && p.sources.take(net, now)
}

// window counts by key in windows of a fixed length.
type window[K comparable] struct {
	every time.Duration
	most  int
	began time.Time
	count map[K]int
}

// take counts one more and says whether it is within the bound. With too many
// keys the new ones wait for the next window.
func (w *window[K]) take(k K, now time.Time) bool {
	if w.count == nil || now.Sub(w.began) >= w.every {
		w.count, w.began = map[K]int{}, now
	}
	n, known := w.count[k]
	if n >= w.most || !known && len(w.count) >= maxProbeKeys {
		return false
	}
	w.count[k] = n + 1
	return true
}
