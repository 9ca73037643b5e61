package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Forwarder stands between clients and one UDP server on loopback: clients send
// to Addr, the server sees one address of the forwarder per client. What goes
// each way passes a Link.
type Forwarder struct {
	front  *net.UDPConn
	target func() (netip.AddrPort, bool)
	begun  time.Time
	wg     sync.WaitGroup

	up, down *lane // to the server, to the client

	mu     sync.Mutex
	backs  map[netip.AddrPort]*net.UDPConn
	closed bool
}

const (
	maxClients = 64
	buffers    = 4 << 20
	mtu        = 1500
	// header is what IP and UDP add to a packet on the wire.
	header = 28
)

// lane is one way with what waits in it.
type lane struct {
	mu   sync.Mutex
	link *Link[packet]
	wake chan struct{}
}

type packet struct {
	data []byte
	send func([]byte)
}

// NewForwarder listens on a port of 127.0.0.1. target names the server and is
// asked at a client's first packet; false: not known yet, the packet is dropped.
func NewForwarder(target func() (netip.AddrPort, bool)) (*Forwarder, error) {
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("listen for clients: %w", err)
	}
	enlarge(front)
	way := func(seed uint64) *lane {
		return &lane{link: New[packet](Shape{}, seed), wake: make(chan struct{}, 1)}
	}
	return &Forwarder{front: front, target: target, begun: time.Now(), up: way(1), down: way(2),
		backs: map[netip.AddrPort]*net.UDPConn{}}, nil
}

// enlarge asks for larger buffers; smaller ones only lose packets earlier.
func enlarge(c *net.UDPConn) {
	_ = c.SetReadBuffer(buffers)
	_ = c.SetWriteBuffer(buffers)
}

// Addr is where clients send to.
func (f *Forwarder) Addr() netip.AddrPort { return f.front.LocalAddr().(*net.UDPAddr).AddrPort() }

// Set changes the shapes to the server and to the clients.
func (f *Forwarder) Set(up, down Shape) {
	f.up.set(time.Since(f.begun), up)
	f.down.set(time.Since(f.begun), down)
}

// Counts gives what the way to the clients passed, dropped at a full queue and
// lost by chance, in packets.
func (f *Forwarder) Counts() (passed, dropped, lost int) {
	f.down.mu.Lock()
	defer f.down.mu.Unlock()
	return f.down.link.Passed, f.down.link.Dropped, f.down.link.Lost
}

// Bytes gives the bytes that passed to the clients.
func (f *Forwarder) Bytes() int64 {
	f.down.mu.Lock()
	defer f.down.mu.Unlock()
	return f.down.link.PassedBytes
}

// Run forwards until ctx ends.
func (f *Forwarder) Run(ctx context.Context) error {
	for _, l := range []*lane{f.up, f.down} {
		f.wg.Go(func() { l.run(ctx, f.begun) })
	}
	stop := context.AfterFunc(ctx, f.close)
	defer stop()
	err := f.clients()
	f.close()
	f.wg.Wait()
	if ctx.Err() != nil && errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Close frees the port of a forwarder that never ran.
func (f *Forwarder) Close() { f.close() }

func (f *Forwarder) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	_ = f.front.Close()
	for _, b := range f.backs {
		_ = b.Close()
	}
}

// clients reads what clients send.
func (f *Forwarder) clients() error {
	buf := make([]byte, mtu)
	for {
		n, from, err := f.front.ReadFromUDPAddrPort(buf)
		if err != nil {
			return fmt.Errorf("read from clients: %w", err)
		}
		back := f.back(from)
		if back == nil {
			continue
		}
		f.up.send(time.Since(f.begun), buf[:n], func(b []byte) {
			_, _ = back.Write(b) // a server that went away hears nothing
		})
	}
}

// back gives the socket by which the server knows a client; nil: none may be had.
func (f *Forwarder) back(client netip.AddrPort) *net.UDPConn {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b := f.backs[client]; b != nil || f.closed || len(f.backs) >= maxClients {
		return b
	}
	to, ok := f.target()
	if !ok {
		return nil
	}
	b, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return nil // as a packet to nowhere
	}
	enlarge(b)
	f.backs[client] = b
	f.wg.Go(func() { f.server(b, client) })
	return b
}

// server reads what the server sends to one client, until the socket closes.
func (f *Forwarder) server(back *net.UDPConn, client netip.AddrPort) {
	buf := make([]byte, mtu)
	for {
		n, err := back.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // refused: nobody listens there for now
		}
		f.down.send(time.Since(f.begun), buf[:n], func(b []byte) {
			_, _ = f.front.WriteToUDPAddrPort(b, client) // as above
		})
	}
}

func (l *lane) set(now time.Duration, s Shape) {
	l.mu.Lock()
	l.link.Set(now, s)
	l.mu.Unlock()
	l.nudge()
}

func (l *lane) send(now time.Duration, b []byte, to func([]byte)) {
	l.mu.Lock()
	l.link.Send(now, len(b)+header, packet{append([]byte(nil), b...), to})
	l.mu.Unlock()
	l.nudge()
}

func (l *lane) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run delivers until ctx ends.
func (l *lane) run(ctx context.Context, begun time.Time) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next, ok := l.deliver(begun)
		if ok {
			timer.Reset(next)
		}
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-timer.C:
		}
	}
}

// deliver hands on what has arrived and says how long nothing more does.
func (l *lane) deliver(begun time.Time) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		now := time.Since(begun)
		p, _, ok := l.link.Receive(now)
		if !ok {
			next, waits := l.link.Next()
			return max(next-now, 0), waits
		}
		p.send(p.data)
	}
}
