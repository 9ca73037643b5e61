package rtc

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
)

const patience = 10 * time.Second

// client is a browser's side, made of pion.
type client struct {
	t       *testing.T
	pc      *webrtc.PeerConnection
	control *webrtc.DataChannel
	peer    *Peer

	mu     sync.Mutex
	states []webrtc.PeerConnectionState
	tracks chan *webrtc.TrackRemote
	open   chan struct{}
	early  []webrtc.ICECandidateInit
	ready  bool
	answer string
}

func newClient(t *testing.T, set func(*webrtc.SettingEngine), drop ...string) *client {
	t.Helper()
	m := &webrtc.MediaEngine{}
	if err := m.RegisterDefaultCodecs(); err != nil {
		t.Fatal(err)
	}
	if len(drop) > 0 {
		m = without(t, drop)
	}
	var s webrtc.SettingEngine
	s.SetIncludeLoopbackCandidate(true)
	s.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	if set != nil {
		set(&s)
	}
	pc, err := webrtc.NewAPI(webrtc.WithMediaEngine(m), webrtc.WithSettingEngine(s)).NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	c := &client{t: t, pc: pc, tracks: make(chan *webrtc.TrackRemote, 4), open: make(chan struct{})}
	pc.OnTrack(func(r *webrtc.TrackRemote, _ *webrtc.RTPReceiver) { c.tracks <- r })
	pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
		c.mu.Lock()
		c.states = append(c.states, s)
		c.mu.Unlock()
	})
	if c.control, err = pc.CreateDataChannel("control", nil); err != nil {
		t.Fatal(err)
	}
	c.control.OnOpen(func() { close(c.open) })
	return c
}

// without registers pion's default codecs but for some.
func without(t *testing.T, drop []string) *webrtc.MediaEngine {
	t.Helper()
	order := slices.DeleteFunc(api.Codecs(), func(c api.Codec) bool { return slices.Contains(drop, string(c)) })
	m, err := mediaEngine(order)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// server is what a test knows of our side.
type server struct {
	peer     *Peer
	codec    chan api.Codec
	state    chan State
	keyframe chan struct{}
	bitrate  chan int
	control  chan string
	channel  chan *Channel
	frames   chan []byte
}

func newServer(t *testing.T, tr *Transport, change func(*PeerConfig)) *server {
	t.Helper()
	s := &server{codec: make(chan api.Codec, 4), state: make(chan State, 16), keyframe: make(chan struct{}, 64),
		bitrate: make(chan int, 64), control: make(chan string, 64), channel: make(chan *Channel, 16), frames: make(chan []byte, 256)}
	cfg := PeerConfig{Codecs: api.Codecs(), Video: true, Audio: true, Limits: media.Limits{MinKbps: 500, MaxKbps: 4000}, Log: slog.New(slog.DiscardHandler),
		Events: Events{
			Signal: func(f []byte) { s.frames <- f }, State: func(v State) { offer(s.state, v) }, Codec: func(c api.Codec) { s.codec <- c },
			Keyframe: func() { offer(s.keyframe, struct{}{}) }, Bitrate: func(k int) { offer(s.bitrate, k) },
			Control: func(typ string, d []byte) { s.control <- typ + " " + string(d) }, Channel: func(c *Channel) {
				c.Handle(func(b []byte) { _ = c.Send(append([]byte("echo "), b...)) }, func() {})
				s.channel <- c
			},
		}}
	if change != nil {
		change(&cfg)
	}
	p, err := tr.NewPeer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	s.peer = p
	return s
}

func offer[T any](c chan T, v T) {
	select {
	case c <- v:
	default:
	}
}

func newTransport(t *testing.T) *Transport {
	t.Helper()
	tr, err := NewTransport(TransportConfig{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// run carries signalling between the two until the test ends.
func (c *client) run(s *server) {
	c.peer = s.peer
	c.pc.OnICECandidate(func(i *webrtc.ICECandidate) {
		if i == nil {
			return
		}
		j := i.ToJSON()
		c.toServer(map[string]any{"type": "candidate", "candidate": b64(j.Candidate), "sdpMid": "0", "sdpMLineIndex": 0})
	})
	stop := make(chan struct{})
	c.t.Cleanup(func() { close(stop) })
	go func() {
		for {
			select {
			case f := <-s.frames:
				c.fromServer(f)
			case <-stop:
				return
			}
		}
	}()
}

func (c *client) toServer(v any) {
	b, _ := json.Marshal(v)
	m, err := ParseMessage(b)
	if err != nil {
		c.t.Errorf("parse own message: %v", err)
		return
	}
	switch m.Type {
	case TypeAnswer:
		err = c.peer.Answered(m.SDP)
	case TypeOffer:
		err = c.peer.Offered(m.SDP)
	case TypeCandidate:
		err = c.peer.AddCandidate(m.Candidate)
	}
	if err != nil {
		c.t.Errorf("%s: %v", m.Type, err)
	}
}

func (c *client) fromServer(f []byte) {
	m, err := ParseMessage(f)
	if err != nil {
		c.t.Errorf("server sent %s: %v", f, err)
		return
	}
	switch m.Type {
	case TypeOffer:
		if err := c.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: m.SDP}); err != nil {
			c.t.Errorf("offer: %v", err)
			return
		}
		a, err := c.pc.CreateAnswer(nil)
		if err == nil {
			err = c.pc.SetLocalDescription(a)
		}
		if err != nil {
			c.t.Errorf("answer: %v", err)
			return
		}
		c.toServer(map[string]any{"type": "answer", "sdp": b64(a.SDP)})
		c.flush()
	case TypeAnswer:
		c.mu.Lock()
		c.answer = m.SDP
		c.mu.Unlock()
		if err := c.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: m.SDP}); err != nil {
			c.t.Errorf("answer: %v", err)
		}
		c.flush()
	case TypeCandidate:
		i := webrtc.ICECandidateInit{Candidate: m.Candidate.Line, SDPMid: m.Candidate.Mid, SDPMLineIndex: m.Candidate.Index}
		c.mu.Lock()
		if !c.ready {
			c.early = append(c.early, i)
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		if err := c.pc.AddICECandidate(i); err != nil {
			c.t.Errorf("candidate: %v", err)
		}
	}
}

func (c *client) flush() {
	c.mu.Lock()
	early := c.early
	c.early, c.ready = nil, true
	c.mu.Unlock()
	for _, i := range early {
		if err := c.pc.AddICECandidate(i); err != nil {
			c.t.Errorf("candidate: %v", err)
		}
	}
}

// offerV1 is what an old SDK does: it offers, with its data channel.
func (c *client) offerV1() {
	for _, k := range []webrtc.RTPCodecType{webrtc.RTPCodecTypeAudio, webrtc.RTPCodecTypeVideo} {
		if _, err := c.pc.AddTransceiverFromKind(k, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly}); err != nil {
			c.t.Fatal(err)
		}
	}
	o, err := c.pc.CreateOffer(nil)
	if err == nil {
		err = c.pc.SetLocalDescription(o)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.toServer(map[string]any{"type": "offer", "sdp": b64(o.SDP)})
}

func want[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s within %s", what, patience)
		panic("unreachable")
	}
}

func wantState(t *testing.T, s *server, want State) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case got := <-s.state:
			if got == want {
				return
			}
		case <-deadline:
			t.Fatalf("never %s", want)
		}
	}
}

// keyframe gives the smallest thing that passes for a keyframe of a codec.
func keyframe(c api.Codec, size int) []byte {
	head := map[api.Codec][]byte{
		api.H264: {0, 0, 0, 1, 0x67, 0x42, 0xe0, 0x1f, 0, 0, 0, 1, 0x68, 0xce, 0x3c, 0x80, 0, 0, 0, 1, 0x65},
		api.VP8:  {0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00},
		api.VP9:  {0x82, 0x49, 0x83, 0x42, 0x00, 0x13, 0xf0, 0x0e, 0xf0},
		api.AV1:  {0x12, 0x00, 0x0a, 0x01, 0x00, 0x30},
	}[c]
	return append(slices.Clone(head), bytes.Repeat([]byte{0x55}, size)...)
}

// feed sends pictures and sound until the test ends.
func feed(t *testing.T, p *Peer, codec api.Codec) {
	t.Helper()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	t.Cleanup(func() { close(stop); wg.Wait() })
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				pts := time.Duration(i) * 10 * time.Millisecond
				_ = p.WriteFrame(media.Frame{Kind: media.Video, Key: true, PTS: pts, Data: keyframe(codec, 3000)})
				_ = p.WriteFrame(media.Frame{Kind: media.Audio, PTS: pts, Data: []byte{0xfc, 0xff, 0xfe}})
			}
		}
	})
}

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
	for s.peer.RoundTrip() == 0 {
		time.Sleep(10 * time.Millisecond)
		if t.Context().Err() != nil {
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
		if err := s.peer.WriteFrame(f); err != nil {
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
	if err := s.peer.WriteFrame(media.Frame{Kind: media.Video, Key: true, Data: keyframe(api.H264, 10)}); err != nil {
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
