package rtc

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
)

func TestParsePorts(t *testing.T) {
	for text, want := range map[string]Ports{"": {}, "0": {}, "40000-40999": {40000, 40999}, "5000": {5000, 5000}} {
		if got, err := ParsePorts(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"x", "2-1", "1-", "-1", "1-65536", "0-5", "1-2-3"} {
		if got, err := ParsePorts(text); err == nil {
			t.Errorf("%q became %v", text, got)
		}
	}
}

func TestPortOfTheRange(t *testing.T) {
	first := newTransport(t)
	p := first.Port() // free a moment ago: a range of one that is taken
	if tr, err := NewTransport(TransportConfig{Ports: Ports{p, p}, Log: slog.New(slog.DiscardHandler)}); err == nil {
		_ = tr.Close()
		t.Error("a taken port was bound")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	// The mux closes its sockets at once; the port is free again.
	tr, err := NewTransport(TransportConfig{Ports: Ports{p, p}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tr.Close() }()
	if tr.Port() != p {
		t.Errorf("port %d, want %d", tr.Port(), p)
	}
}

func TestAdvertisedAddresses(t *testing.T) {
	outside := []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("127.0.0.1")}
	tr, err := NewTransport(TransportConfig{Advertise: outside, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	list := tr.Candidates()
	for _, a := range outside {
		at := netip.AddrPortFrom(a, tr.Port()).String()
		if n := len(slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s != at })); n != 1 {
			t.Errorf("%s stands %d times in %v", at, n, list)
		}
	}
	s := newServer(t, tr, nil)
	if err := s.peer.Offer(); err != nil {
		t.Fatal(err)
	}
	v4 := hasOutward(t)
	var lines []string
	deadline := time.After(patience)
	for !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, " 203.0.113.7 ") }) {
		select {
		case f := <-s.frames:
			m, err := ParseMessage(f)
			if err != nil {
				t.Fatal(err)
			}
			if m.Type == TypeCandidate {
				lines = append(lines, m.Candidate.Line)
				if m.Candidate.Mid == nil || *m.Candidate.Mid != "0" {
					t.Errorf("candidate without the m-line's id: %s", f)
				}
			}
		case <-deadline:
			if v4 {
				t.Fatalf("the public address is not among %q", lines)
			}
			return // a host without a network has nothing to map
		}
	}
	if line := lines[slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, " 203.0.113.7 ") })]; !strings.Contains(line, "typ host") {
		t.Errorf("candidate %q", line)
	}
}

// hasOutward says whether the host has an IPv4 address but loopback's.
func hasOutward(t *testing.T) bool {
	t.Helper()
	nets, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(nets, func(n net.Addr) bool {
		i, ok := n.(*net.IPNet)
		return ok && i.IP.To4() != nil && !i.IP.IsLoopback()
	})
}

func TestPreference(t *testing.T) {
	allowed := []api.Codec{api.H264, api.VP8, api.AV1}
	for _, c := range []struct {
		client []string
		want   []api.Codec
	}{
		{nil, allowed},
		{[]string{"AV1", "VP8"}, []api.Codec{api.AV1, api.VP8, api.H264}},
		{[]string{"VP9", "nonsense", "vp8", "VP8"}, []api.Codec{api.VP8, api.H264, api.AV1}},
	} {
		if got := Preference(c.client, allowed); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.client, got, c.want)
		}
	}
}

func TestIsKeyOf(t *testing.T) {
	for _, c := range api.Codecs() {
		for _, of := range api.Codecs() {
			if got := isKeyOf(c, keyframe(of, 20)); got != (c == of) {
				t.Errorf("a keyframe of %s counts as %s: %v", of, c, got)
			}
		}
		for n := range 6 {
			isKeyOf(c, make([]byte, n)) // must not read beyond
		}
	}
}

// watch connects a client and gives its video track.
func watch(t *testing.T, drop ...string) (*server, *client, *webrtc.TrackRemote) {
	t.Helper()
	tr := newTransport(t)
	s, c := newServer(t, tr, nil), newClient(t, nil, drop...)
	c.run(s)
	if err := s.peer.Offer(); err != nil {
		t.Fatal(err)
	}
	codec := want(t, s.codec, "codec")
	wantState(t, s, StateConnected)
	feed(t, s.peer, codec)
	var video *webrtc.TrackRemote
	for range 2 {
		r := want(t, c.tracks, "track")
		if r.Kind() == webrtc.RTPCodecTypeVideo {
			video = r
			continue
		}
		go read(r) // what nobody reads would count as lost
	}
	return s, c, video
}

func read(r *webrtc.TrackRemote) {
	for {
		if _, _, err := r.ReadRTP(); err != nil {
			return
		}
	}
}

func TestFeedbackIsHeard(t *testing.T) {
	s, _, r := watch(t)
	go read(r)
	deadline := time.Now().Add(patience)
	for {
		s.peer.sender.mu.Lock()
		hears, lost, seen := s.peer.sender.cc.hears, s.peer.sender.cc.lost.lost, len(s.peer.sender.cc.lost.items)
		s.peer.sender.mu.Unlock()
		if hears && seen > 100 {
			if lost > 5 {
				t.Errorf("%d of %d packets count as lost on loopback", lost, seen)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("feedback heard: %v, packets %d", hears, seen)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if kbps := want(t, s.bitrate, "bitrate"); kbps < 500 || kbps > 4000 {
		t.Errorf("bitrate %d outside its limits", kbps)
	}
}

func TestHeaderExtensions(t *testing.T) {
	_, _, r := watch(t, "none")
	p, _, err := r.ReadRTP()
	if err != nil {
		t.Fatal(err)
	}
	if len(p.GetExtensionIDs()) != 3 {
		t.Fatalf("extensions %v, want transport-cc, abs-send-time and playout delay", p.GetExtensionIDs())
	}
	var delays int
	for _, id := range p.GetExtensionIDs() {
		if b := p.GetExtension(id); len(b) == 3 {
			var d rtp.PlayoutDelayExtension
			if err := d.Unmarshal(b); err == nil && d.MinDelay == 0 && d.MaxDelay == 0 {
				delays++
			}
		}
	}
	if delays != 1 {
		t.Errorf("%d playout delays of 0", delays)
	}
}

func TestLostPacketsAreSentAgain(t *testing.T) {
	s, c, r := watch(t)
	asked := map[uint16]bool{}
	deadline := time.Now().Add(patience)
	for {
		p, a, err := r.ReadRTP()
		if err != nil {
			t.Fatal(err)
		}
		if a.Get(webrtc.AttributeRtxSsrc) != nil {
			if !asked[p.SequenceNumber] {
				t.Errorf("packet %d was sent again, for which nobody asked", p.SequenceNumber)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not sent again")
		}
		// As a viewer does, more than once: where a busy machine makes this one read
		// what was sent a second ago, that is too old to be sent again.
		if p.SequenceNumber%8 == 0 {
			asked[p.SequenceNumber] = true
			if err := c.pc.WriteRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: uint32(r.SSRC()), Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{p.SequenceNumber})}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	// A storm is bounded: a quarter of the rate.
	allowed := 0
	for range 10_000 {
		if s.peer.sender.mayResend(1200, true) {
			allowed++
		}
	}
	if allowed*1200 > 4000*1000/8/3 {
		t.Errorf("%d packets at once", allowed)
	}
}

// Copies that nobody asked for used the whole budget: what was lost came no more.
func TestCopiesLeaveRoomForWhatIsLacked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSender(media.Limits{MinKbps: 2500, MaxKbps: 4000})
		time.Sleep(time.Second) // the budget fills
		burst := s.cc.target * 1000 / 8 * resendBurst
		sent := 0.0
		for s.mayResend(1000, false) {
			sent += 1000
		}
		if sent < burst*(1-resendKept)-1000 || sent > burst*(1-resendKept) {
			t.Errorf("%.0f bytes of %.0f are sent unasked", sent, burst)
		}
		for s.mayResend(1000, true) {
			sent += 1000
		}
		if sent < burst-1000 {
			t.Errorf("%.0f bytes of %.0f are sent again in all", sent, burst)
		}
	})
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte(`{"type":"settings","api_version":2,"video":{"preferred_decoder_codecs":["AV1"]}}`))
	f.Add([]byte(`{"type":"offer","sdp":"dj0w"}`))
	f.Add([]byte(`{"type":"candidate","candidate":"Y2FuZGlkYXRlOg==","sdpMid":"0","sdpMLineIndex":0}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil && api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("error without a code: %v", err)
		}
		if err == nil && m.Type == "" {
			t.Error("a message without a type was taken")
		}
	})
}

func TestBadDescriptions(t *testing.T) {
	tr := newTransport(t)
	for name, do := range map[string]func(*Peer) error{
		"answer without an offer": func(p *Peer) error { return p.Answered("v=0") },
		"answer of nonsense": func(p *Peer) error {
			if err := p.Offer(); err != nil {
				t.Fatal(err)
			}
			return p.Answered("nonsense")
		},
		"offer of nonsense": func(p *Peer) error { return p.Offered("nonsense") },
		"empty offer":       func(p *Peer) error { return p.Offered("v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n") },
		"too many candidates": func(p *Peer) error {
			for range maxCandidates {
				if err := p.AddCandidate(Candidate{Line: "candidate:1 1 udp 1 127.0.0.1 9 typ host"}); err != nil {
					return err
				}
			}
			return p.AddCandidate(Candidate{Line: "candidate:1 1 udp 1 127.0.0.1 9 typ host"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := do(newServer(t, tr, nil).peer); api.CodeOf(err) != api.CodeInvalid {
				t.Errorf("got %v", err)
			}
		})
	}
	s := newServer(t, tr, nil)
	for _, line := range []string{"", "candidate:1 1 udp 1 a1b2c3d4.local 9 typ host"} {
		if err := s.peer.AddCandidate(Candidate{Line: line}); err != nil {
			t.Errorf("candidate %q: %v", line, err)
		}
	}
}
