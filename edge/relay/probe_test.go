package relay

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/stun/v4"

	"github.com/perigee-cloud/perigee/api"
)

const probedNode = "0123456789abcdef"

// probeTicket gives a ticket's text for a node, and its password under a secret.
func probeTicket(secret []byte, nonce byte, expires time.Time) (text, password string) {
	t := api.ProbeTicket{Node: probedNode, Nonce: [api.ProbeNonce]byte{nonce}, Expires: expires.Unix()}
	return t.Text(), api.ProbePassword(secret, t.Text())
}

// connectivity makes a check as a browser does; more comes before the proof.
func connectivity(t *testing.T, user, password string, more ...stun.Setter) *stun.Message {
	t.Helper()
	set := append([]stun.Setter{stun.TransactionID, stun.BindingRequest, stun.NewUsername(user)}, more...)
	m, err := stun.Build(append(set, stun.NewShortTermIntegrity(password), stun.Fingerprint)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// exchange sends a packet and gives what comes back within a time, nil for nothing.
func exchange(t *testing.T, c *net.UDPConn, to netip.AddrPort, packet []byte, within time.Duration) []byte {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort(packet, to); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2048)
	n, err := c.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

func TestProbeIsAnswered(t *testing.T) {
	r := start(t)
	c := r.port()
	ticket, password := probeTicket(r.secret, 1, time.Now().Add(api.ProbeLife))
	m := connectivity(t, ticket+":client", password, stun.RawAttribute{Type: stun.AttrPriority, Value: []byte{0, 0, 1, 0}},
		stun.RawAttribute{Type: stun.AttrUseCandidate})
	raw := exchange(t, c, r.at, m.Raw, patience)
	a := &stun.Message{Raw: raw}
	if err := a.Decode(); err != nil {
		t.Fatal(err)
	}
	if a.Type != stun.BindingSuccess || a.TransactionID != m.TransactionID {
		t.Errorf("the answer is %v", a)
	}
	if err := errors.Join(stun.NewShortTermIntegrity(password).Check(a), stun.Fingerprint.Check(a)); err != nil {
		t.Error(err)
	}
	var mapped stun.XORMappedAddress
	if err := mapped.GetFrom(a); err != nil || mapped.String() != c.LocalAddr().String() {
		t.Errorf("the answer names %v, the client is %v, %v", mapped, c.LocalAddr(), err)
	}
	if least := connectivity(t, ticket+":", password); len(raw) > len(least.Raw) {
		t.Errorf("%d bytes answer %d", len(raw), len(least.Raw))
	}
	// Asking for one's address needs no ticket, as before.
	plain := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
	if exchange(t, c, r.at, plain.Raw, patience) == nil {
		t.Error("plain STUN is not answered any more")
	}
}

func TestProbeWithoutTicketIsSilent(t *testing.T) {
	r := start(t)
	now := time.Now()
	ticket, password := probeTicket(r.secret, 1, now.Add(api.ProbeLife))
	expired, oldPassword := probeTicket(r.secret, 1, now.Add(-api.TicketTolerance-time.Second))
	foreign, foreignPassword := probeTicket([]byte("another node's secret, as long as"), 1, now.Add(api.ProbeLife))
	whole := connectivity(t, ticket+":client", password)
	forged := bytes.Clone(whole.Raw)
	forged[len(forged)-20]++ // in the proof
	unsigned := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername(ticket+":client"), stun.Fingerprint)
	unprinted := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername(ticket+":client"), stun.NewShortTermIntegrity(password))
	large := connectivity(t, ticket+":client", password, stun.RawAttribute{Type: 0xC000, Value: make([]byte, maxProbe)})
	c := r.port()
	for name, packet := range map[string][]byte{
		"wrong password":    connectivity(t, ticket+":client", password+"x").Raw,
		"another node's":    connectivity(t, foreign+":client", foreignPassword).Raw,
		"expired":           connectivity(t, expired+":client", oldPassword).Raw,
		"no ticket":         connectivity(t, "someone:client", password).Raw,
		"no client's part":  connectivity(t, ticket, password).Raw,
		"forged proof":      forged,
		"no proof":          unsigned.Raw,
		"no fingerprint":    unprinted.Raw,
		"too large":         large.Raw,
		"a TURN user":       connectivity(t, "9999999999:own.1", password).Raw,
		"cut":               whole.Raw[:len(whole.Raw)-9],
		"an empty username": connectivity(t, "", password).Raw,
	} {
		if a := exchange(t, c, r.at, packet, 60*time.Millisecond); a != nil {
			t.Errorf("%s is answered with %d bytes", name, len(a))
		}
	}
	if exchange(t, c, r.at, whole.Raw, patience) == nil {
		t.Error("a good ticket is not answered after all that")
	}
}

// A whole ICE agent measures the relay as a browser does.
func TestProbeByICEAgent(t *testing.T) {
	r := start(t)
	agent, err := ice.NewAgentWithOptions(ice.WithNetworkTypes([]ice.NetworkType{ice.NetworkTypeUDP4}), ice.WithIncludeLoopback(),
		ice.WithCandidateTypes([]ice.CandidateType{ice.CandidateTypeHost}), ice.WithMulticastDNSMode(ice.MulticastDNSModeDisabled))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := agent.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := agent.OnCandidate(func(ice.Candidate) {}); err != nil {
		t.Fatal(err)
	}
	if err := agent.GatherCandidates(); err != nil {
		t.Fatal(err)
	}
	relay, err := ice.NewCandidateHost(&ice.CandidateHostConfig{Network: "udp4", Address: r.at.Addr().String(), Port: int(r.at.Port()), Component: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.AddRemoteCandidate(relay); err != nil {
		t.Fatal(err)
	}
	ticket, password := probeTicket(r.secret, 1, time.Now().Add(api.ProbeLife))
	ctx := t.Context()
	conn, err := agent.Dial(ctx, ticket, password)
	if err != nil {
		t.Fatal(err)
	}
	pair, ok := agent.GetSelectedCandidatePairStats()
	if !ok || pair.ResponsesReceived == 0 || pair.CurrentRoundTripTime <= 0 || pair.CurrentRoundTripTime > 1 {
		t.Errorf("the pair measured %+v", pair)
	}
	if _, err := conn.Write([]byte("\x16\xfe\xfd a handshake that never ends")); err != nil {
		t.Error(err)
	}
}

func TestProbesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secret := []byte("0123456789abcdef")
		p := newProber(secret, time.Now)
		asks := func(nonce byte, from string, times int) (answered int) {
			ticket, password := probeTicket(secret, nonce, time.Now().Add(api.ProbeLife))
			for range times {
				if p.answer(connectivity(t, ticket+":c", password), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))) != nil {
					answered++
				}
			}
			return answered
		}
		if n := asks(1, "192.0.2.1:1000", 200); n != probesPerTicket {
			t.Errorf("a ticket got %d answers, want %d", n, probesPerTicket)
		}
		if n := asks(2, "192.0.2.1:2000", 200); n != probesPerSource-probesPerTicket {
			t.Errorf("a source got %d further answers, want %d", n, probesPerSource-probesPerTicket)
		}
		if n := asks(3, "192.0.2.2:1000", 3); n != 3 {
			t.Errorf("another source got %d answers of 3", n)
		}
		for i, from := range []string{"[2001:db8::1]:1", "[2001:db8::2]:1"} { // one household
			if n := asks(byte(4+i), from, 64); n != []int{64, 36}[i] {
				t.Errorf("%s got %d answers", from, n)
			}
		}
		time.Sleep(time.Second)
		if n := asks(6, "192.0.2.1:2000", 10); n != 10 {
			t.Errorf("after a second a source got %d answers of 10", n)
		}
	})
}

func TestWindowIsBounded(t *testing.T) {
	w := window[int]{every: time.Second, most: 2}
	now := time.Unix(1_800_000_000, 0)
	for i := range maxProbeKeys {
		if !w.take(i, now) {
			t.Fatalf("refused the first of key %d", i)
		}
	}
	if w.take(-1, now) || len(w.count) != maxProbeKeys {
		t.Errorf("it holds %d keys", len(w.count))
	}
	if !w.take(0, now) || w.take(0, now) {
		t.Error("a known key is not counted to its bound")
	}
	if !w.take(-1, now.Add(time.Second)) {
		t.Error("the next window is not empty")
	}
}

func FuzzProbe(f *testing.F) {
	secret := []byte("0123456789abcdef")
	p := newProber(secret, func() time.Time { return time.Unix(1_800_000_000, 0) })
	ticket, password := probeTicket(secret, 1, time.Unix(1_800_000_000, 0))
	m := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername(ticket+":c"), stun.NewShortTermIntegrity(password), stun.Fingerprint)
	f.Add(m.Raw)
	f.Add([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42})
	f.Fuzz(func(t *testing.T, packet []byte) {
		m := check(packet)
		if m == nil {
			return
		}
		if a := p.answer(m, &net.UDPAddr{IP: net.IPv6loopback, Port: 9}); len(a) > len(packet) {
			t.Fatalf("%d bytes answer %d", len(a), len(packet))
		}
	})
}
