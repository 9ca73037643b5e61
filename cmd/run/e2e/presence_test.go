package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/cmd/run/control"
	"github.com/perigee-cloud/perigee/cmd/run/node"
	"github.com/perigee-cloud/perigee/cmd/run/site"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/edge/local"
)

// nat is a way from the edge to the schedulers on which the edge has another
// address: every packet and connection comes out of `outside`.
type nat struct {
	t    *testing.T
	host string // where the edge finds the schedulers
	wg   sync.WaitGroup

	mu      sync.Mutex
	outside net.IP
	to      map[string]string       // inner to outer "host:port", by TCP
	udp     map[string]*net.UDPConn // by inner source
	closed  bool
	closers map[io.Closer]bool
}

func newNAT(t *testing.T, host, outside string) *nat {
	n := &nat{t: t, host: host, outside: net.ParseIP(outside), to: map[string]string{}, udp: map[string]*net.UDPConn{}, closers: map[io.Closer]bool{}}
	t.Cleanup(func() {
		n.mu.Lock()
		n.closed = true
		for c := range n.closers {
			_ = c.Close()
		}
		n.mu.Unlock()
		n.wg.Wait()
	})
	return n
}

// keep closes c at the end; false: that has come.
func (n *nat) keep(c io.Closer) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		_ = c.Close()
		return false
	}
	n.closers[c] = true
	return true
}

func (n *nat) drop(c io.Closer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.closers, c)
	_ = c.Close()
}

// move changes the address that the edge has outside, for what begins from now on.
func (n *nat) move(outside string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.outside = net.ParseIP(outside)
	for from, c := range n.udp {
		delete(n.udp, from)
		delete(n.closers, c)
		_ = c.Close()
	}
}

func (n *nat) address() net.IP {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.outside
}

// tcp opens a port that leads to an address; port "" takes any. It may be called
// again to lead elsewhere.
func (n *nat) tcp(port, to string) string {
	n.t.Helper()
	at := net.JoinHostPort(n.host, port)
	n.mu.Lock()
	_, open := n.to[at]
	n.mu.Unlock()
	if !open {
		l, err := net.Listen("tcp", at)
		if err != nil {
			n.t.Fatal(err)
		}
		at = l.Addr().String()
		n.keep(l)
		n.wg.Go(func() { n.accept(l, at) })
	}
	n.mu.Lock()
	n.to[at] = to
	n.mu.Unlock()
	return at
}

func (n *nat) accept(l net.Listener, at string) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		n.mu.Lock()
		to := n.to[at]
		n.mu.Unlock()
		out, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: n.address()}, Timeout: time.Second}).Dial("tcp", to)
		if err != nil {
			_ = in.Close()
			continue
		}
		if !n.keep(in) || !n.keep(out) {
			return
		}
		for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
			n.wg.Go(func() {
				_, _ = io.Copy(way[0], way[1])
				n.drop(way[0])
				n.drop(way[1])
			})
		}
	}
}

// datagrams takes a port on which the edge asks, and gives the port of the same
// number on 127.0.0.1 where the packets come out.
func (n *nat) datagrams() string {
	n.t.Helper()
	in, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(n.host)})
	if err != nil {
		n.t.Fatal(err)
	}
	n.keep(in)
	to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: in.LocalAddr().(*net.UDPAddr).Port}
	n.wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			k, from, err := in.ReadFromUDP(buf)
			if err != nil {
				return
			}
			if c := n.mapping(in, from); c != nil {
				_, _ = c.WriteToUDP(buf[:k], to)
			}
		}
	})
	return to.String()
}

// mapping is the outer socket of an inner source.
func (n *nat) mapping(in *net.UDPConn, from *net.UDPAddr) *net.UDPConn {
	n.mu.Lock()
	c := n.udp[from.String()]
	n.mu.Unlock()
	if c != nil {
		return c
	}
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: n.address()})
	if err != nil || !n.keep(c) {
		return nil
	}
	n.mu.Lock()
	n.udp[from.String()] = c
	n.mu.Unlock()
	n.wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			k, _, err := c.ReadFromUDP(buf)
			if err != nil {
				return
			}
			_, _ = in.WriteToUDP(buf[:k], from)
		}
	})
	return c
}

// logTo shows what a part says, when the test fails.
func logTo(t *testing.T, who string) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t, who}, nil))
}

type testWriter struct {
	t   *testing.T
	who string
}

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s: %s", w.who, strings.TrimSpace(string(b)))
	return len(b), nil
}

// scheduler runs a replica in this process until stop.
func scheduler(t *testing.T, data string, change func(*control.Config)) (rt control.Runtime, stop func()) {
	t.Helper()
	cfg := control.Config{
		Data: data, Listen: "127.0.0.1:0", NATSListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0",
		Heartbeat: 200 * time.Millisecond, Lease: 2 * time.Second, Log: logTo(t, "scheduler"),
	}
	change(&cfg)
	ready := make(chan control.Runtime, 1)
	cfg.Ready = func(r control.Runtime) { ready <- r }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Run(ctx, cfg) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("scheduler: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case rt = <-ready:
	case err := <-done:
		done <- err
		t.Fatal("the scheduler does not come up")
	}
	return rt, stop
}

func admin(t *testing.T, rt control.Runtime) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Socket: rt.Socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// edgeNode runs an edge daemon in this process; its processes are the real ones.
func edgeNode(t *testing.T, dir, join string, c *client.Client, change func(*node.Config)) {
	t.Helper()
	bin, err := site.Bin()
	if err != nil {
		t.Fatal(err)
	}
	token, err := c.CreateToken(t.Context(), api.TokenSpec{Account: "nodes", Rights: []api.Right{api.RightNode}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := node.Config{
		Data: dir, Join: []string{join}, Token: token.Token, Name: "edge", MediaPorts: "0", RelayListen: "127.0.0.1:0",
		GossipListen: "127.0.0.1:0", Program: filepath.Join(bin, "perigee-edge"), LogLevel: "info", Log: logTo(t, "edge"),
	}
	change(&cfg)
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel(edge.ErrEndSessions)
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("edge: %v", err)
		}
		if p := processesOf(dir); len(p) > 0 {
			t.Errorf("processes are left: %v", p)
		}
	})
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pe2e") // short: unix sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// runs makes a session and waits until it runs.
func runs(t *testing.T, c *client.Client) api.CreateAnswer {
	t.Helper()
	a, err := c.CreateSession(t.Context(), api.CreateBody{App: "xterm", Joinable: true, Screen: screenOf(640, 480, 30)})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 15*time.Second, func() error { return isActive(t.Context(), c, a.ID) })
	return a
}

func isActive(ctx context.Context, c *client.Client, id api.SessionID) error {
	v, err := c.Session(ctx, id)
	if err == nil && v.Status != api.StatusActive {
		err = fmt.Errorf("session is %s: %s", v.Status, v.StatusMessage)
	}
	return err
}

// theNode gives the only node once it is alive.
func theNode(ctx context.Context, c *client.Client) (api.NodeView, error) {
	list, err := c.Nodes(ctx)
	switch {
	case err != nil:
		return api.NodeView{}, err
	case len(list) != 1 || !list[0].Alive:
		return api.NodeView{}, fmt.Errorf("nodes are %+v", list)
	}
	return list[0], nil
}

// A node's address is what the schedulers see, and when that changes, the node's
// record, the relay and new sessions have the new one.
func TestPublicAddressChanges(t *testing.T) {
	const inner, first, second = "127.0.0.9", "127.0.0.5", "127.0.0.6"
	n := newNAT(t, inner, first)
	rt, _ := scheduler(t, shortDir(t), func(c *control.Config) { c.Advertise, c.STUNListen = inner, n.datagrams() })
	apiURL, err := url.Parse(rt.API)
	if err != nil {
		t.Fatal(err)
	}
	natsURL, err := url.Parse(rt.NATS)
	if err != nil {
		t.Fatal(err)
	}
	n.tcp(natsURL.Port(), net.JoinHostPort("127.0.0.1", natsURL.Port()))
	c := admin(t, rt)
	if _, err := c.PutApplication(t.Context(), api.App{Name: "xterm", Command: []string{"xterm"}}); err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	edgeNode(t, dir, "http://"+n.tcp(apiURL.Port(), apiURL.Host), c, func(c *node.Config) { c.Look = 100 * time.Millisecond })
	for _, address := range []string{first, second} {
		n.move(address)
		eventually(t, 10*time.Second, func() error {
			v, err := theNode(t.Context(), c)
			if err == nil && (len(v.Node.Addresses) != 1 || v.Node.Addresses[0] != address) {
				err = fmt.Errorf("the record has %v, want %s", v.Node.Addresses, address)
			}
			return err
		})
		a := runs(t, c)
		told := ""
		for _, s := range a.STUNServers {
			told += strings.Join(s.URLs, " ") + " "
		}
		if !strings.Contains(told, "turn:"+address+":") || strings.Contains(told, inner) {
			t.Errorf("clients are told %s, want the relay at %s", told, address)
		}
		m, err := local.Run(filepath.Join(dir, "run")).Session(a.ID, 1).ReadMedia()
		if err != nil || !strings.Contains(strings.Join(m.Candidates, " ")+" ", address+":") {
			t.Errorf("candidates are %v, %v, want one at %s", m.Candidates, err, address)
		}
	}
}

// The schedulers are replaced by others at other addresses: the node finds them
// by the name that it joined by, with its sessions.
func TestNodeFindsNewSchedulers(t *testing.T) {
	n := newNAT(t, "127.0.0.9", "127.0.0.1") // it stands for the name
	data, dir := shortDir(t), shortDir(t)
	none := func(*control.Config) {}
	rt, stop := scheduler(t, data, none)
	c := admin(t, rt)
	if _, err := c.PutApplication(t.Context(), api.App{Name: "xterm", Command: []string{"xterm"}}); err != nil {
		t.Fatal(err)
	}
	at := n.tcp("", strings.TrimPrefix(rt.API, "http://"))
	edgeNode(t, dir, "http://"+at, c, func(c *node.Config) { c.Silent = 500 * time.Millisecond })
	eventually(t, 10*time.Second, func() error { _, err := theNode(t.Context(), c); return err })
	a := runs(t, c)
	stop()
	next, _ := scheduler(t, data, none)
	if next.NATS == rt.NATS {
		t.Fatal("the new scheduler is where the old one was")
	}
	_, port, _ := net.SplitHostPort(at)
	n.tcp(port, strings.TrimPrefix(next.API, "http://"))
	c = admin(t, next)
	eventually(t, 15*time.Second, func() error {
		v, err := theNode(t.Context(), c)
		if err == nil && v.Headroom.Seq == 0 {
			err = errors.New("no heartbeat yet")
		}
		return err
	})
	eventually(t, 5*time.Second, func() error { return isActive(t.Context(), c, a.ID) })
	runs(t, c)
}
