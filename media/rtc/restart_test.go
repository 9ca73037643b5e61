package rtc

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
)

func ufrag(sdp string) string {
	_, after, _ := strings.Cut(sdp, "a=ice-ufrag:")
	u, _, _ := strings.Cut(after, "\r\n")
	return u
}

func TestRestart(t *testing.T) {
	const outside = "203.0.113.9"
	s, c, video := watch(t)
	go read(video)
	if !s.peer.t.SetAdvertise([]netip.Addr{netip.MustParseAddr(outside)}) || s.peer.t.SetAdvertise([]netip.Addr{netip.MustParseAddr(outside)}) {
		t.Error("a change of address counts as none, or none as one")
	}
	before := ufrag(c.pc.RemoteDescription().SDP)
	if err := s.peer.Restart(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for ufrag(c.pc.RemoteDescription().SDP) == before || c.pc.SignalingState() != webrtc.SignalingStateStable ||
		s.peer.pc.ConnectionState() != webrtc.PeerConnectionStateConnected {
		if time.Now().After(deadline) {
			t.Fatalf("no restart: %s, %s", c.pc.SignalingState(), s.peer.pc.ConnectionState())
		}
		time.Sleep(5 * time.Millisecond)
	}
	s.peer.mu.Lock()
	mine := len(s.peer.mine)
	var found bool
	for _, f := range s.peer.mine {
		m, err := ParseMessage(f)
		found = found || err == nil && strings.Contains(m.Candidate.Line, outside)
	}
	s.peer.mu.Unlock()
	if !found {
		t.Errorf("the new address is in none of %d candidates", mine)
	}
	// The channel of before still carries.
	if err := c.control.SendText(`{"type":"after"}`); err != nil {
		t.Fatal(err)
	}
	if got := want(t, s.control, "control message"); got != "after " {
		t.Errorf("control message %q", got)
	}
}

// An offer that got lost with its websocket is sent again by the next request.
func TestRestartIsAskedTwice(t *testing.T) {
	tr := newTransport(t)
	s, c := newServer(t, tr, nil), newClient(t, nil)
	c.run(s)
	if err := s.peer.Restart(); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("restart before the first offer: %v", err)
	}
	if err := s.peer.Offer(); err != nil {
		t.Fatal(err)
	}
	wantState(t, s, StateConnected)
	s.peer.cfg.Events.Signal = func(f []byte) {} // nobody hears
	if err := s.peer.Restart(); err != nil {
		t.Fatal(err)
	}
	offers := make(chan string, 4)
	s.peer.cfg.Events.Signal = func(f []byte) {
		if m, err := ParseMessage(f); err == nil && m.Type == TypeOffer {
			offers <- m.SDP
		}
	}
	if err := s.peer.Restart(); err != nil {
		t.Fatal(err)
	}
	if d := s.peer.pc.PendingLocalDescription(); d == nil || ufrag(want(t, offers, "offer")) != ufrag(d.SDP) {
		t.Error("the offer that waits was not sent again")
	}
}
