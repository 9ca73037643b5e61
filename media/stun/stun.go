// Package stun tells a host by which address others see it: a server that
// answers Binding requests (RFC 8489) and the question to such servers.
package stun

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pion/stun/v4"
	"golang.org/x/time/rate"
)

const (
	maxRequest = 1500
	// An answer has 12 to 24 bytes more than the smallest request, and a source
	// may be forged: so many a second are worth nobody's while.
	answersASecond = 2000

	askTries   = 4
	askFirst   = 250 * time.Millisecond // wait for the first answer, doubled at each try
	maxServers = 8                      // that are asked; the rest of a longer list is not
)

// ErrNoAnswer says that no server told an address.
var ErrNoAnswer = errors.New("no STUN server answered")

// Serve answers Binding requests on a socket until ctx ends (nil) or the socket
// fails. It closes the socket.
func Serve(ctx context.Context, conn net.PacketConn, log *slog.Logger) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }() // closed already, or of no use any more
	share := rate.NewLimiter(answersASecond, answersASecond)
	buf := make([]byte, maxRequest)
	for {
		n, from, err := conn.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("serve STUN: %w", err)
		case err != nil: // an ICMP error of an earlier answer
			log.Debug("STUN request not read", "error", err)
			continue
		}
		a := answer(buf[:n], from)
		if a == nil || !share.Allow() {
			continue
		}
		if _, err := conn.WriteTo(a, from); err != nil {
			log.Debug("STUN answer not sent", "error", err)
		}
	}
}

// answer gives the answer to a Binding request; nil for anything else.
func answer(request []byte, from net.Addr) []byte {
	u, ok := from.(*net.UDPAddr)
	if !ok || !stun.IsMessage(request) {
		return nil
	}
	m := &stun.Message{Raw: request}
	if m.Decode() != nil || m.Type != stun.BindingRequest {
		return nil
	}
	a, err := stun.Build(stun.NewTransactionIDSetter(m.TransactionID), stun.BindingSuccess,
		&stun.XORMappedAddress{IP: u.IP, Port: u.Port}, stun.Fingerprint)
	if err != nil {
		return nil
	}
	return a.Raw
}

// Ask asks servers ("host:port") for this host's address, one an address family,
// IPv4 first, and waits 4 s at most. Where they see different ones it is an
// address of known that one of them sees, else a public one before a private one:
// a server may stand in the host's own network. ErrNoAnswer when none answers.
func Ask(ctx context.Context, servers []string, known []netip.Addr) ([]netip.Addr, error) {
	servers = servers[:min(len(servers), maxServers)]
	type told struct {
		family int
		addr   netip.Addr
		err    error
	}
	families := []string{"udp4", "udp6"}
	answers := make(chan told, len(families)*len(servers))
	for _, s := range servers {
		for i, f := range families {
			go func() {
				a, err := askOne(ctx, f, s)
				answers <- told{i, a, err}
			}()
		}
	}
	seen := make([][]netip.Addr, len(families))
	var errs []error
	for range len(families) * len(servers) {
		t := <-answers
		if t.err != nil {
			errs = append(errs, t.err)
			continue
		}
		seen[t.family] = append(seen[t.family], t.addr)
	}
	var out []netip.Addr
	for _, list := range seen {
		if len(list) > 0 {
			out = append(out, best(list, known))
		}
	}
	if len(out) == 0 {
		return nil, errors.Join(append([]error{ErrNoAnswer}, errs...)...)
	}
	return out, nil
}

// best chooses among what servers see of one family; the lowest of equals, so
// that the choice does not change with the order of the answers.
func best(seen, known []netip.Addr) netip.Addr {
	rank := func(a netip.Addr) int {
		switch {
		case slices.Contains(known, a):
			return 0
		case a.IsLoopback() || a.IsLinkLocalUnicast():
			return 3
		case a.IsPrivate():
			return 2
		default:
			return 1
		}
	}
	return slices.MinFunc(seen, func(a, b netip.Addr) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return a.Compare(b)
	})
}

// askOne asks one server by one address family. The server may answer from
// another of its addresses: the transaction is what tells its answer.
func askOne(ctx context.Context, network, server string) (netip.Addr, error) {
	to, err := resolve(ctx, network, server)
	if err != nil {
		return netip.Addr{}, err
	}
	conn, err := (&net.ListenConfig{}).ListenPacket(ctx, network, ":0")
	if err != nil {
		return netip.Addr{}, fmt.Errorf("ask %s: %w", server, err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })()
	q, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.Fingerprint)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("ask %s: %w", server, err)
	}
	wait := askFirst
	for range askTries {
		if _, err = conn.WriteTo(q.Raw, to); err != nil {
			break // no way there: the next try would find none either
		}
		var a netip.Addr
		if a, err = hear(ctx, conn, q.TransactionID, wait); err == nil || ctx.Err() != nil {
			return a, err
		}
		wait *= 2
	}
	return netip.Addr{}, fmt.Errorf("ask %s: %w", server, err)
}

func resolve(ctx context.Context, network, server string) (*net.UDPAddr, error) {
	host, text, err := net.SplitHostPort(server)
	if err != nil {
		return nil, fmt.Errorf("ask %q: %w", server, err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("ask %q: %w", server, err)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip"+strings.TrimPrefix(network, "udp"), host)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", server, err)
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(ips[0].Unmap(), uint16(port))), nil
}

// hear waits for the answer to a transaction and passes over everything else.
func hear(ctx context.Context, conn net.PacketConn, id [stun.TransactionIDSize]byte, wait time.Duration) (netip.Addr, error) {
	if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return netip.Addr{}, fmt.Errorf("wait for STUN: %w", err)
	}
	if ctx.Err() != nil { // it ended before there was a deadline to bring forward
		return netip.Addr{}, fmt.Errorf("wait for STUN: %w", ctx.Err())
	}
	buf := make([]byte, maxRequest)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("wait for STUN: %w", err)
		}
		m := &stun.Message{Raw: buf[:n]}
		var at stun.XORMappedAddress
		if !stun.IsMessage(buf[:n]) || m.Decode() != nil || m.TransactionID != id || m.Type != stun.BindingSuccess || at.GetFrom(m) != nil {
			continue
		}
		if a, ok := netip.AddrFromSlice(at.IP); ok {
			return a.Unmap(), nil
		}
	}
}
