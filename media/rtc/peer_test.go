package rtc

import (
	"strings"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
)

func TestServerOffers(t *testing.T) {
	tr := newTransport(t)
	s, c := newServer(t, tr, nil), newClient(t, nil)
	c.run(s)
	if err := s.peer.Offer(); err != nil {
		t.Fatal(err)
	}
	codec := want(t, s.codec, "codec")
	if codec != api.H264 {
		t.Errorf("agreed on %s, the first allowed is H264", codec)
	}
	wantState(t, s, StateConnected)
	feed(t, s.peer, codec)
	streams := map[string]string{}
	for range 2 {
		r := want(t, c.tracks, "track")
		streams[r.Kind().String()] = r.StreamID()
		var last uint32
		for i := range 20 {
			p, _, err := r.ReadRTP()
			if err != nil {
				t.Fatal(err)
			}
			if i > 0 && int32(p.Timestamp-last) < 0 {
				t.Errorf("timestamp went back from %d to %d", last, p.Timestamp)
			}
			last = p.Timestamp
		}
	}
	if streams["video"] == "" || streams["audio"] == "" || streams["video"] == streams["audio"] {
		t.Errorf("streams %v: both must be named, and apart", streams)
	}
	want(t, c.open, "control channel")
	if err := c.control.SendText(`{"type":"input::key","data":{"code":4,"pressed":true}}`); err != nil {
		t.Fatal(err)
	}
	if got := want(t, s.control, "control message"); got != `input::key {"code":4,"pressed":true}` {
		t.Errorf("control message %q", got)
	}
	for end := time.Now().Add(10 * time.Second); s.peer.RoundTrip() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no round trip measured")
		}
	}
}

func TestOfferText(t *testing.T) {
	tr := newTransport(t)
	s := newServer(t, tr, func(c *PeerConfig) { c.Codecs = []api.Codec{api.VP9, api.H264} })
	if err := s.peer.Offer(); err != nil {
		t.Fatal(err)
	}
	m, err := ParseMessage(want(t, s.frames, "offer"))
	if err != nil || m.Type != TypeOffer {
		t.Fatalf("first frame %s, %v", m.Type, err)
	}
	for _, text := range []string{"m=application", "a=msid:perigee-video video", "a=msid:perigee-audio audio", "profile-level-id=42e01f",
		"transport-wide-cc", "playout-delay", "a=ssrc-group:FID", "nack pli", "ccm fir", "opus/48000/2", "a=sendonly"} {
		if !strings.Contains(m.SDP, text) && !(text == "transport-wide-cc" && strings.Contains(m.SDP, "transport-cc")) {
			t.Errorf("the offer lacks %q", text)
		}
	}
	if strings.Contains(m.SDP, "VP8") || strings.Contains(m.SDP, "AV1") {
		t.Error("a codec is offered that is not allowed")
	}
	if strings.Index(m.SDP, "VP9") > strings.Index(m.SDP, "H264") {
		t.Error("the preferred codec does not come first")
	}
}

func TestClientOffers(t *testing.T) {
	tr := newTransport(t)
	s, c := newServer(t, tr, func(c *PeerConfig) { c.Codecs = []api.Codec{api.VP8} }), newClient(t, nil)
	c.run(s)
	c.offerV1()
	if codec := want(t, s.codec, "codec"); codec != api.VP8 {
		t.Errorf("agreed on %s", codec)
	}
	wantState(t, s, StateConnected)
	feed(t, s.peer, api.VP8)
	for range 2 {
		r := want(t, c.tracks, "track")
		if _, _, err := r.ReadRTP(); err != nil {
			t.Fatal(err)
		}
	}
	want(t, c.open, "control channel")
	if err := s.peer.Offered("v=0"); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a second offer: %v", err)
	}
}

func TestEveryCodecIsChosenByWhatTheClientAccepts(t *testing.T) {
	for _, only := range api.Codecs() {
		t.Run(string(only), func(t *testing.T) {
			t.Parallel()
			var drop []string
			for _, c := range api.Codecs() {
				if c != only {
					drop = append(drop, string(c))
				}
			}
			tr := newTransport(t)
			s, c := newServer(t, tr, nil), newClient(t, nil, drop...)
			c.run(s)
			if err := s.peer.Offer(); err != nil {
				t.Fatal(err)
			}
			if got := want(t, s.codec, "codec"); got != only {
				t.Fatalf("agreed on %s", got)
			}
			wantState(t, s, StateConnected)
			feed(t, s.peer, only)
			for {
				r := want(t, c.tracks, "track")
				if r.Kind() != webrtc.RTPCodecTypeVideo {
					continue
				}
				if _, _, err := r.ReadRTP(); err != nil {
					t.Fatal(err)
				}
				if !strings.EqualFold(r.Codec().MimeType, "video/"+string(only)) {
					t.Errorf("received %s", r.Codec().MimeType)
				}
				break
			}
		})
	}
}

func TestKeyframesAreAskedFor(t *testing.T) {
	tr := newTransport(t)
	s, c := newServer(t, tr, nil), newClient(t, nil)
	c.run(s)
	if err := s.peer.Offer(); err != nil {
		t.Fatal(err)
	}
	codec := want(t, s.codec, "codec")
	wantState(t, s, StateConnected)
	// A picture that needs an earlier one, and a keyframe of another codec.
	for _, f := range []media.Frame{{Kind: media.Video, Data: []byte{0, 0, 0, 1, 0x41}}, {Kind: media.Video, Key: true, Data: keyframe(api.VP8, 10)}} {
		time.Sleep(keyInterval + 10*time.Millisecond) // requests are not sent more often
		if _, _, err := s.peer.WriteFrame(f); err != nil {
			t.Fatal(err)
		}
		want(t, s.keyframe, "request for a keyframe")
	}
	feed(t, s.peer, codec)
	r := want(t, c.tracks, "track")
	for r.Kind() != webrtc.RTPCodecTypeVideo {
		r = want(t, c.tracks, "track")
	}
	for _, p := range []rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(r.SSRC())},
		&rtcp.FullIntraRequest{MediaSSRC: uint32(r.SSRC()), FIR: []rtcp.FIREntry{{SSRC: uint32(r.SSRC()), SequenceNumber: 1}}}} {
		time.Sleep(keyInterval + 10*time.Millisecond)
		for len(s.keyframe) > 0 {
			<-s.keyframe
		}
		if err := c.pc.WriteRTCP([]rtcp.Packet{p}); err != nil {
			t.Fatal(err)
		}
		want(t, s.keyframe, "request for a keyframe")
	}
}

func TestCloseIsSeenByTheClient(t *testing.T) {
	tr := newTransport(t)
	s, c := newServer(t, tr, nil), newClient(t, nil)
	c.run(s)
	if err := s.peer.Offer(); err != nil {
		t.Fatal(err)
	}
	wantState(t, s, StateConnected)
	want(t, c.open, "control channel")
	gone := make(chan struct{})
	c.control.OnClose(func() { close(gone) })
	if err := s.peer.Close(); err != nil {
		t.Fatal(err)
	}
	want(t, gone, "end of the control channel")
	if err := s.peer.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
	if _, _, err := s.peer.WriteFrame(media.Frame{Kind: media.Video, Key: true, Data: keyframe(api.H264, 10)}); err != nil {
		t.Logf("write after close: %v", err) // an error is fine, a crash is not
	}
}

func TestClientLeaves(t *testing.T) {
	tr := newTransport(t)
	s, c := newServer(t, tr, nil), newClient(t, nil)
	c.run(s)
	if err := s.peer.Offer(); err != nil {
		t.Fatal(err)
	}
	wantState(t, s, StateConnected)
	want(t, c.open, "control channel")
	if err := c.pc.Close(); err != nil {
		t.Fatal(err)
	}
	wantState(t, s, StateClosed)
}

func TestDataChannels(t *testing.T) {
	tr := newTransport(t)
	s, c := newServer(t, tr, nil), newClient(t, nil)
	got := make(chan string, 16)
	var names []string
	for i := range MaxChannels {
		names = append(names, "chan-"+string(rune('a'+i)))
	}
	for _, name := range append(names, "../evil") {
		dc, err := c.pc.CreateDataChannel(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		dc.OnOpen(func() { _ = dc.Send([]byte(name)) })
		dc.OnMessage(func(m webrtc.DataChannelMessage) { got <- string(m.Data) })
	}
	c.run(s)
	if err := s.peer.Offer(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range names {
		seen[want(t, got, "echo")] = true
	}
	for _, name := range names {
		if !seen["echo "+name] {
			t.Errorf("no echo of %s", name)
		}
	}
	for range names {
		if ch := want(t, s.channel, "channel"); ch.Name == "../evil" {
			t.Error("a name that is a path was accepted")
		}
	}
}
