package scheduler

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// The first byte of a connection between replicas says what it is for.
const (
	wayRaft byte = 'R'
	wayCall byte = 'C'
)

const (
	dialTimeout  = 2 * time.Second
	greetTimeout = 5 * time.Second // from accepting to the first byte, the TLS handshake included
	maxGreeting  = 256             // connections that have not said what they are for
)

// Certificates are one source of TLS settings, read anew as its files change.
// Both sides show a certificate and check the other's.
type Certificates interface {
	Server() *tls.Config
	Client() *tls.Config
}

// port is where the replicas reach each other: Raft and calls on one listener.
type port struct {
	listener  net.Listener
	network   Network
	certs     Certificates // nil = plain TCP
	advertise string       // host:port
	raft      *lane
	call      *lane
	greeting  chan struct{}
	wg        sync.WaitGroup
}

// openPort listens. The caller closes it.
func openPort(c Config) (*port, error) {
	l, err := c.Network.Listen(c.RaftListen)
	if err != nil {
		return nil, fmt.Errorf("listen for other replicas: %w", err)
	}
	p := &port{listener: l, network: c.Network, certs: c.Certificates, advertise: l.Addr().String(), greeting: make(chan struct{}, maxGreeting)}
	if c.RaftAdvertise != "" {
		p.advertise = c.RaftAdvertise
		if host, at, err := net.SplitHostPort(p.advertise); err == nil && at == "0" {
			p.advertise = net.JoinHostPort(host, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
		}
	}
	if c.Certificates != nil {
		p.listener = tls.NewListener(l, c.Certificates.Server())
	}
	p.raft, p.call = newLane(p), newLane(p)
	p.wg.Go(p.accept)
	return p, nil
}

func (p *port) accept() {
	for {
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of file descriptors: others must go first
			continue
		}
		select {
		case p.greeting <- struct{}{}:
			p.wg.Go(func() { p.greet(c) })
		default:
			_ = c.Close() // too many that say nothing
		}
	}
}

// greet reads what a connection is for.
func (p *port) greet(c net.Conn) {
	var way [1]byte
	err := c.SetDeadline(time.Now().Add(greetTimeout))
	if err == nil {
		_, err = c.Read(way[:])
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	<-p.greeting
	l := p.raft
	switch {
	case err != nil:
		_ = c.Close() // it never got to say anything
		return
	case way[0] == wayCall:
		l = p.call
	case way[0] != wayRaft:
		_ = c.Close() // not one of us
		return
	}
	select {
	case l.conns <- c:
	case <-l.done:
		_ = c.Close() // we are closing
	}
}

// dial connects to another replica.
func (p *port) dial(ctx context.Context, address string, way byte) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := p.network.Dial(ctx, address)
	if err == nil && p.certs != nil {
		c, err = secure(ctx, c, address, p.certs)
	}
	if err != nil {
		return nil, fmt.Errorf("dial replica: %w", err)
	}
	if _, err := c.Write([]byte{way}); err != nil {
		return nil, errors.Join(fmt.Errorf("greet replica: %w", err), c.Close())
	}
	return c, nil
}

// secure does the handshake of a connection; a failed one is closed.
func secure(ctx context.Context, c net.Conn, address string, certs Certificates) (net.Conn, error) {
	cfg := certs.Client()
	if cfg.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("read address: %w", err), c.Close())
		}
		cfg = cfg.Clone()
		cfg.ServerName = host
	}
	t := tls.Client(c, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("agree on TLS: %w", err), c.Close())
	}
	return t, nil
}

// machine is TCP of this machine.
type machine struct{}

// Listen accepts connections.
func (machine) Listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("open port: %w", err)
	}
	return l, nil
}

// Dial connects.
func (machine) Dial(ctx context.Context, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

// close ends the listener and what has not been taken from it.
func (p *port) close() error {
	err := p.listener.Close()
	_, _ = p.raft.Close(), p.call.Close() // never fail
	p.wg.Wait()
	return err
}

// lane is the listener of one kind of connections.
type lane struct {
	port  *port
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newLane(p *port) *lane {
	return &lane{port: p, conns: make(chan net.Conn), done: make(chan struct{})}
}

// Accept gives the next connection of the kind.
func (l *lane) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends the lane; the port goes on.
func (l *lane) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

type portAddr string

// Network is tcp.
func (portAddr) Network() string { return "tcp" }

// String is the advertised address.
func (a portAddr) String() string { return string(a) }

// Addr is the address that other replicas use.
func (l *lane) Addr() net.Addr { return portAddr(l.port.advertise) }

// Dial connects to another replica's Raft.
func (l *lane) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return l.port.dial(ctx, string(address), wayRaft)
}
