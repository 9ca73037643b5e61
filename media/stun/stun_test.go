package stun

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v4"
)

// serve runs a server on an address of loopback.
func serve(t *testing.T, at string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp4", at)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, conn, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return conn.LocalAddr().String()
}

func TestAsk(t *testing.T) {
	at := serve(t, "127.0.0.1:0")
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	got, err := Ask(t.Context(), []string{at}, nil)
	if err != nil || len(got) != 1 || got[0] != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("seen as %v, %v", got, err)
	}
	for name, servers := range map[string][]string{"none": nil, "no port": {"127.0.0.1"}, "no number": {"127.0.0.1:http"}} {
		if got, err := Ask(t.Context(), servers, nil); !errors.Is(err, ErrNoAnswer) || len(got) != 0 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if got, err := Ask(ctx, []string{silent.LocalAddr().String()}, nil); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("a silent server: %v, %v", got, err)
	}
	if d := time.Since(begun); d > time.Second {
		t.Errorf("it waited %s after its context had ended", d)
	}
}

// A lost packet is sent again; an answer to somebody else's question is none.
func TestAskAgain(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	go func() {
		buf := make([]byte, maxRequest)
		for i := 0; ; i++ {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if i == 0 {
				forged := bytes.Clone(buf[:n])
				forged[8] ^= 1 // the transaction
				_, _ = conn.WriteTo(answer(forged, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}), from)
				_, _ = conn.WriteTo([]byte("noise"), from)
				continue
			}
			_, _ = conn.WriteTo(answer(buf[:n], &net.UDPAddr{IP: net.IPv4(198, 51, 100, 7), Port: 9}), from)
		}
	}()
	got, err := Ask(t.Context(), []string{conn.LocalAddr().String()}, nil)
	if err != nil || len(got) != 1 || got[0] != netip.MustParseAddr("198.51.100.7") {
		t.Errorf("seen as %v, %v", got, err)
	}
}

func TestBest(t *testing.T) {
	list := func(s ...string) (out []netip.Addr) {
		for _, a := range s {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	for _, tt := range []struct {
		seen, known []netip.Addr
		want        string
	}{
		{list("10.0.0.3", "198.51.100.7"), nil, "198.51.100.7"},
		{list("198.51.100.7", "203.0.113.9"), list("203.0.113.9"), "203.0.113.9"},
		{list("203.0.113.9", "198.51.100.7"), list("192.0.2.1"), "198.51.100.7"},
		{list("127.0.0.1", "192.168.1.2"), nil, "192.168.1.2"},
	} {
		if got := best(tt.seen, tt.known); got.String() != tt.want {
			t.Errorf("of %v, knowing %v: %s, want %s", tt.seen, tt.known, got, tt.want)
		}
	}
}

func TestAnswersBindingRequestsOnly(t *testing.T) {
	from := &net.UDPAddr{IP: net.ParseIP("2001:db8::7"), Port: 4000}
	request := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
	a := &stun.Message{Raw: answer(request.Raw, from)}
	var at stun.XORMappedAddress
	if err := errors.Join(a.Decode(), at.GetFrom(a)); err != nil || !at.IP.Equal(from.IP) || at.Port != from.Port || a.TransactionID != request.TransactionID {
		t.Errorf("answered %v, %v", at, err)
	}
	for name, p := range map[string][]byte{
		"nothing": nil, "noise": []byte("GET / HTTP/1.1\r\n\r\n and more"), "an answer": a.Raw, "half": request.Raw[:19],
		"an indication": stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodBinding, stun.ClassIndication)).Raw,
		"an allocation": stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest)).Raw,
	} {
		if a := answer(p, from); a != nil {
			t.Errorf("%s was answered", name)
		}
	}
}
