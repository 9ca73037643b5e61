package relay

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	pion "github.com/pion/turn/v3"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/turn"
)

const patience = 5 * time.Second

// rig is a relay with its node.
type rig struct {
	t      *testing.T
	run    local.Run
	secret []byte
	at     netip.AddrPort
	quiet  *slog.Logger
}

func start(t *testing.T) *rig {
	t.Helper()
	return startWith(t, func(*Config) {})
}

func startWith(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, run: local.Run(filepath.Join(dir, "run")), secret: []byte("0123456789abcdef0123456789abcdef"), quiet: slog.New(slog.DiscardHandler)}
	key := filepath.Join(dir, "relay.key")
	if err := os.WriteFile(key, r.secret, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan netip.AddrPort, 1), make(chan error, 1)
	go func() {
		cfg := Config{Listen: "127.0.0.1:0", SecretFile: key, Run: r.run, Log: r.quiet, Ready: func(a netip.AddrPort) { ready <- a }}
		change(&cfg)
		ended <- Run(ctx, cfg)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("the relay does not end")
		}
	})
	select {
	case r.at = <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	return r
}

// session makes a session whose stream has a port that answers what it hears.
func (r *rig) session(id api.SessionID, gen api.Generation) *net.UDPConn {
	r.t.Helper()
	port := r.port()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := port.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = port.WriteTo(append([]byte("echo "), buf[:n]...), from)
		}
	}()
	r.candidates(id, gen, port.LocalAddr().String())
	return port
}

func (r *rig) candidates(id api.SessionID, gen api.Generation, list ...string) {
	r.t.Helper()
	s := r.run.Session(id, gen)
	if err := os.MkdirAll(string(s), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := s.WriteMedia(local.MediaState{Candidates: list}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) port() *net.UDPConn {
	r.t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// client makes a TURN client, not allocated yet.
func (r *rig) client(network, user, password string) *pion.Client {
	r.t.Helper()
	var conn net.PacketConn
	if network == "tcp" {
		c, err := net.Dial("tcp", r.at.String())
		if err != nil {
			r.t.Fatal(err)
		}
		conn = pion.NewSTUNConn(c)
	} else {
		conn = r.port()
	}
	c, err := pion.NewClient(&pion.ClientConfig{STUNServerAddr: r.at.String(), TURNServerAddr: r.at.String(), Conn: conn,
		Username: user, Password: password, Realm: turn.Realm, RTO: 100 * time.Millisecond, LoggerFactory: media.PionLog(r.quiet)})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := c.Listen(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close(); _ = conn.Close() })
	return c
}

// member is a client with a credential of a placement.
func (r *rig) member(network string, id api.SessionID, gen api.Generation) *pion.Client {
	user, password := turn.Credentials(r.secret, id, gen, time.Now().Add(time.Hour))
	return r.client(network, user, password)
}

// stream is a client with the credential of a placement's stream process.
func (r *rig) stream(network string, id api.SessionID, gen api.Generation) *pion.Client {
	user, password := turn.StreamCredentials(r.secret, id, gen, time.Now().Add(time.Hour))
	return r.client(network, user, password)
}

func (r *rig) allocate(c *pion.Client) net.PacketConn {
	r.t.Helper()
	a, err := c.Allocate()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = a.Close() })
	return a
}

// echoes says whether a packet to an address comes back within a time.
func echoes(t *testing.T, a net.PacketConn, to net.Addr, within time.Duration) bool {
	t.Helper()
	if _, err := a.WriteTo([]byte("ping"), to); err != nil {
		return false // the permission was refused
	}
	buf := make([]byte, 2048)
	deadline := time.Now().Add(within)
	for {
		if err := a.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		n, from, err := a.ReadFrom(buf)
		if err != nil {
			return false
		}
		if string(buf[:n]) == "echo ping" && from.String() == to.String() {
			return true
		}
	}
}

// silent says whether a port heard nothing.
func silent(t *testing.T, c *net.UDPConn) bool {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, _, err := c.ReadFrom(make([]byte, 2048))
	return errors.Is(err, os.ErrDeadlineExceeded)
}
