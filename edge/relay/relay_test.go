package relay

import (
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/media/turn"
)

func TestReachesOwnSession(t *testing.T) {
	r := start(t)
	port := r.session("own", 3)
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			a := r.allocate(r.member(network, "own", 3))
			for range 3 { // by indication, then by channel
				if !echoes(t, a, port.LocalAddr(), patience) {
					t.Fatal("no echo")
				}
			}
			big := make([]byte, 1200)
			if _, err := a.WriteTo(big, port.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 2048)
			if n, _, err := a.ReadFrom(buf); err != nil || n != 1205 {
				t.Errorf("a full packet came back as %d bytes, %v", n, err)
			}
		})
	}
}

func TestRefusesEverythingElse(t *testing.T) {
	r := start(t)
	own := r.session("own", 1)
	other := r.session("other", 1)
	older := r.session("own", 2)
	stranger := r.port()
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			a := r.allocate(r.member(network, "own", 1))
			if !echoes(t, a, own.LocalAddr(), patience) {
				t.Fatal("own session not reached")
			}
			// The address is permitted now: only the port tells these apart.
			for name, to := range map[string]net.Addr{
				"another session": other.LocalAddr(), "another generation": older.LocalAddr(),
				"the relay itself": net.UDPAddrFromAddrPort(r.at), "127.0.0.1:22": &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 22},
			} {
				if echoes(t, a, to, 100*time.Millisecond) {
					t.Errorf("%s was reached", name)
				}
			}
			if _, err := a.WriteTo([]byte("x"), stranger.LocalAddr()); err != nil {
				t.Logf("refused: %v", err)
			}
			if !silent(t, stranger) {
				t.Error("a port of the host was reached")
			}
			for _, ip := range []string{"169.254.169.254:80", "10.0.0.1:53", "127.0.0.2:22"} {
				to, _ := net.ResolveUDPAddr("udp", ip)
				if _, err := a.WriteTo([]byte("x"), to); err == nil {
					t.Errorf("%s was permitted", ip)
				}
			}
			if !echoes(t, a, own.LocalAddr(), patience) {
				t.Error("own session not reached any more")
			}
		})
	}
}

func TestHearsOwnSessionOnly(t *testing.T) {
	r := start(t)
	own := r.session("own", 1)
	c := r.member("udp", "own", 1)
	a := r.allocate(c)
	if !echoes(t, a, own.LocalAddr(), patience) {
		t.Fatal("own session not reached")
	}
	// The relayed socket is bound on all addresses: any port of the host can write to it.
	at := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: a.LocalAddr().(*net.UDPAddr).Port}
	if _, err := r.port().WriteTo([]byte("intruder"), at); err != nil {
		t.Fatal(err)
	}
	if _, err := own.WriteTo([]byte("friend"), at); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if err := a.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, _, err := a.ReadFrom(buf); err != nil || string(buf[:n]) != "friend" {
		t.Errorf("heard %q, %v", buf[:n], err)
	}
}

func TestRefusesBadCredentials(t *testing.T) {
	r := start(t)
	r.session("own", 1)
	user, password := turn.Credentials(r.secret, "own", 1, time.Now().Add(time.Hour))
	old, oldPassword := turn.Credentials(r.secret, "own", 1, time.Now().Add(-time.Hour))
	forged, forgedPassword := turn.Credentials([]byte("another secret, another node ..."), "own", 1, time.Now().Add(time.Hour))
	for name, c := range map[string][2]string{
		"wrong password": {user, "nonsense"}, "expired": {old, oldPassword}, "another node's": {forged, forgedPassword},
		"another user's": {strings.Replace(user, "own", "other", 1), password}, "no form": {"alice", "secret"},
	} {
		if a, err := r.client("udp", c[0], c[1]).Allocate(); err == nil {
			_ = a.Close()
			t.Errorf("%s: allocated", name)
		}
	}
}

func TestCredentialsDoNotMixOnOneSocket(t *testing.T) {
	r := start(t)
	one, two := r.session("one", 1), r.session("two", 1)
	var first, second []net.PacketConn
	for range 4 { // the kernel spreads these over the relay's sockets
		first = append(first, r.allocate(r.member("udp", "one", 1)))
		second = append(second, r.allocate(r.member("udp", "two", 1)))
	}
	for i := range first {
		if !echoes(t, first[i], one.LocalAddr(), patience) || !echoes(t, second[i], two.LocalAddr(), patience) {
			t.Fatal("own session not reached")
		}
		if echoes(t, first[i], two.LocalAddr(), 50*time.Millisecond) || echoes(t, second[i], one.LocalAddr(), 50*time.Millisecond) {
			t.Fatal("the other's session was reached")
		}
	}
}

func TestQuota(t *testing.T) {
	r := start(t)
	r.session("own", 1)
	r.session("other", 1)
	var last net.PacketConn
	for range maxPerSide {
		last = r.allocate(r.member("udp", "own", 1))
	}
	if a, err := r.member("udp", "own", 1).Allocate(); err == nil {
		_ = a.Close()
		t.Error("one more than the quota")
	}
	r.allocate(r.member("udp", "other", 1)) // another session has its own
	if err := last.Close(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for { // a place is free again
		a, err := r.member("udp", "own", 1).Allocate()
		if err == nil {
			_ = a.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestFollowsTheSession(t *testing.T) {
	r := start(t)
	a := r.allocate(r.member("udp", "late", 1)) // before its stream has begun
	port := r.session("late", 1)
	deadline := time.Now().Add(patience)
	for !echoes(t, a, port.LocalAddr(), 200*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a session that began later is not reached")
		}
	}
	if err := os.RemoveAll(string(r.run.Session("late", 1))); err != nil {
		t.Fatal(err)
	}
	for echoes(t, a, port.LocalAddr(), 100*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a session that ended is still reached")
		}
	}
}

func TestSTUN(t *testing.T) {
	r := start(t)
	c := r.client("udp", "", "")
	a, err := c.SendBindingRequest()
	if err != nil || !a.(*net.UDPAddr).IP.IsLoopback() {
		t.Errorf("reflexive address %v, %v", a, err)
	}
}

func TestTCPFraming(t *testing.T) {
	r := start(t)
	stun := func(length uint16) []byte {
		b := binary.BigEndian.AppendUint16([]byte{0, 1}, length)
		b = append(b, 0x21, 0x12, 0xa4, 0x42)
		return append(b, make([]byte, 12)...)
	}
	for name, b := range map[string][]byte{
		"not TURN": []byte("GET / HTTP/1.1\r\n\r\n"), "a length that wraps": stun(65516), "too long": stun(4000),
		"TLS": {0x16, 3, 1, 2, 0, 1, 0, 1}, "RTP": {0x80, 0x60, 0, 0, 1, 2, 3, 4},
	} {
		c, err := net.Dial("tcp", r.at.String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection stays", name)
		}
		_ = c.Close()
	}
	// A good request in two halves is answered.
	c, err := net.Dial("tcp", r.at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	req := stun(0)
	for _, half := range [][]byte{req[:7], req[7:]} {
		if _, err := c.Write(half); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // apart on the wire
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 20)
	if _, err := io.ReadFull(c, head); err != nil || head[0] != 1 || head[1] != 1 {
		t.Errorf("answer % x, %v", head, err)
	}
}

func TestTCPConnectionsAreBounded(t *testing.T) {
	r := start(t)
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for range maxTCPPerIP {
		c, err := net.Dial("tcp", r.at.String())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	deadline := time.Now().Add(patience)
	refused := func() bool {
		c, err := net.Dial("tcp", r.at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, err = c.Read(make([]byte, 1))
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
	for !refused() {
		if time.Now().After(deadline) {
			t.Fatal("one more than allowed stays")
		}
	}
	for _, c := range open {
		_ = c.Close()
	}
	for refused() {
		if time.Now().After(deadline) {
			t.Fatal("no place is free again")
		}
	}
}

func TestBadConfiguration(t *testing.T) {
	dir := t.TempDir()
	short, good := filepath.Join(dir, "short"), filepath.Join(dir, "good")
	if err := errors.Join(os.WriteFile(short, []byte("x"), 0o600), os.WriteFile(good, make([]byte, 32), 0o600)); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]Config{
		"no secret":    {Listen: "127.0.0.1:0", SecretFile: filepath.Join(dir, "none"), Log: log},
		"short secret": {Listen: "127.0.0.1:0", SecretFile: short, Log: log},
		"no address":   {SecretFile: good, Log: log},
		"bad address":  {Listen: "127.0.0.1:many", SecretFile: good, Log: log},
	} {
		if err := Run(t.Context(), c); err == nil {
			t.Errorf("%s: served", name)
		}
	}
}

// The daemon learns the node's address while the relay runs.
func TestTellsTheNodesAddress(t *testing.T) {
	r := start(t)
	r.session("own", 1)
	c := r.member("udp", "own", 1)
	host, err := hostAddress()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		set  []string
		want string
	}{
		{nil, host.String()}, {[]string{"2001:db8::1", "nonsense", "198.51.100.7"}, "198.51.100.7"}, {[]string{"203.0.113.9"}, "203.0.113.9"},
	} {
		if tt.set != nil {
			if err := r.run.SetAddresses(tt.set); err != nil {
				t.Fatal(err)
			}
		}
		a, err := c.Allocate()
		if err != nil {
			t.Fatal(err)
		}
		if got := a.LocalAddr().(*net.UDPAddr).IP.String(); got != tt.want {
			t.Errorf("with %v clients are told %s, want %s", tt.set, got, tt.want)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
