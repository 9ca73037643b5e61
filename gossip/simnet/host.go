package simnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"
)

const (
	firstPort   = 32768 // of those that nobody chose
	backlog     = 128   // connections that wait to be accepted
	dialLimit   = 30 * time.Second
	resendFirst = time.Second // before a connection is tried again, as TCP does
)

// Host is one machine on the network.
type Host struct {
	net *Net
	ip  string

	// Guarded by net.mu:
	next      int
	listeners map[int]*listener
	packets   map[int]*Transport
	conns     map[*conn]struct{}
}

// IP is the host's address.
func (h *Host) IP() string { return h.ip }

// port picks a free one. h.net.mu is held.
func (h *Host) port() int {
	for h.listeners[h.next] != nil || h.packets[h.next] != nil {
		h.next++
	}
	h.next++
	return h.next - 1
}

// Listen accepts connections at a port of this host; port 0 takes a free one.
// The host part of the address does not matter.
func (h *Host) Listen(address string) (net.Listener, error) {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", address, err)
	}
	at, err := strconv.Atoi(text)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", address, err)
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if at == 0 {
		at = h.port()
	}
	if h.listeners[at] != nil {
		return nil, fmt.Errorf("listen at %s: %w", address, syscall.EADDRINUSE)
	}
	l := &listener{host: h, at: at, conns: make(chan net.Conn, backlog), done: make(chan struct{})}
	h.listeners[at] = l
	return l, nil
}

// Dial connects to host:port; it waits until ctx ends, 30 s at most.
func (h *Host) Dial(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	to, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	at, err := strconv.Atoi(text)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	for again := resendFirst; ; again *= 2 {
		c, err := h.try(ctx, to, at)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, errLost) || !pause(ctx, again) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: addr(to, at), Err: errors.Join(err, ctx.Err())}
		}
	}
}

var errLost = errors.New("nobody answers")

// try makes one attempt to connect.
func (h *Host) try(ctx context.Context, to string, at int) (net.Conn, error) {
	there, ok := h.net.draw(h.ip, to, false)
	back, ok2 := h.net.draw(to, h.ip, false)
	if !ok {
		return nil, errLost
	}
	if !pause(ctx, there) {
		return nil, ctx.Err()
	}
	h.net.mu.Lock()
	other := h.net.hosts[to]
	var l *listener
	if other != nil {
		l = other.listeners[at]
	}
	if l == nil {
		h.net.mu.Unlock()
		if other == nil || !ok2 {
			return nil, errLost
		}
		pause(ctx, back)
		return nil, syscall.ECONNREFUSED
	}
	if !ok2 {
		h.net.mu.Unlock()
		return nil, errLost
	}
	mine, theirs := connect(h, other, h.port(), at)
	select {
	case l.conns <- theirs:
		h.conns[mine], other.conns[theirs] = struct{}{}, struct{}{}
	default:
		h.net.mu.Unlock()
		return nil, errLost // as a full backlog drops
	}
	h.net.mu.Unlock()
	if !pause(ctx, back) {
		_ = mine.Close() // nobody wants it any more
		return nil, ctx.Err()
	}
	return mine, nil
}

// Crash ends what runs on the host: its listeners, packets and connections. It
// can be used again at once, as after a restart.
func (h *Host) Crash() {
	h.net.mu.Lock()
	var open []interface{ Close() error }
	for _, l := range h.listeners {
		open = append(open, l)
	}
	for c := range h.conns {
		open = append(open, c)
	}
	clear(h.packets)
	h.net.mu.Unlock()
	for _, c := range open {
		_ = c.Close() // never fails
	}
}

// listener is a port that accepts.
type listener struct {
	host  *Host
	at    int
	conns chan net.Conn
	done  chan struct{}
}

// Accept gives the next connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends the listener and what nobody has accepted.
func (l *listener) Close() error {
	l.host.net.mu.Lock()
	if l.host.listeners[l.at] != l {
		l.host.net.mu.Unlock()
		return nil
	}
	delete(l.host.listeners, l.at)
	close(l.done)
	l.host.net.mu.Unlock()
	for {
		select {
		case c := <-l.conns:
			_ = c.Close() // never fails
		default:
			return nil
		}
	}
}

// Addr is where it is reached.
func (l *listener) Addr() net.Addr { return addr(l.host.ip, l.at) }

func addr(ip string, port int) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: port} }

// pause waits; false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
