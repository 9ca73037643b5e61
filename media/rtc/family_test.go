package rtc

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
)

// A viewer that has IPv6 alone reaches the stream.
func TestViewerOfIPv6Alone(t *testing.T) {
	probe, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skipf("this host has no IPv6: %v", err)
	}
	_ = probe.Close()
	tr := newTransport(t)
	s := newServer(t, tr, nil)
	c := newClient(t, func(e *webrtc.SettingEngine) {
		e.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP6})
	})
	c.run(s)
	if err := s.peer.Offer(); err != nil {
		t.Fatal(err)
	}
	wantState(t, s, StateConnected)
	pair, err := s.peer.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil || pair == nil || !strings.Contains(pair.Local.Address, ":") || !strings.Contains(pair.Remote.Address, ":") {
		t.Errorf("the way is %v, %v", pair, err)
	}
	want(t, c.open, "control channel")
}

// Browsers hide their addresses behind mDNS names, which a node far away cannot
// resolve: such candidates are taken without a fault or a wait, and the browser's
// own checks make the way.
func TestViewerBehindMDNSNames(t *testing.T) {
	tr := newTransport(t)
	s, c := newServer(t, tr, nil), newClient(t, nil)
	begun := time.Now()
	c.hide = func(line string) string {
		f := strings.Fields(line)
		f[4] = "8e3c5f0a-5a2d-4d4e-9d4b-6a3c1f5f2b11.local"
		return strings.Join(f, " ")
	}
	c.run(s)
	if err := s.peer.Offer(); err != nil {
		t.Fatal(err)
	}
	wantState(t, s, StateConnected)
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("connected after %s", took)
	}
	pair, err := s.peer.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil || pair == nil || pair.Remote.Typ != webrtc.ICECandidateTypePrflx {
		t.Errorf("the way is %v, %v; want one that the viewer's checks showed", pair, err)
	}
	want(t, c.open, "control channel")
}
