package rtc

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pion/ice/v4"
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
	hide   func(string) string // what the server is told of a candidate; nil: all
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
			Control: func(c Control) { s.control <- c.Type + " " + string(c.Data) }, Channel: func(c *Channel) {
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
		if c.hide != nil {
			j.Candidate = c.hide(j.Candidate)
		}
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
		api.H265: {0, 0, 0, 1, 0x40, 0x01, 0x0c, 0x01, 0, 0, 0, 1, 0x42, 0x01, 0x01, 0x01, 0x60, 0, 0, 0, 1, 0x44, 0x01, 0xc1, 0x72, 0, 0, 0, 1, 0x26, 0x01},
	}[c]
	return append(slices.Clone(head), bytes.Repeat([]byte{0x55}, size)...)
}

// feed sends pictures and sound until the test ends.
func feed(t *testing.T, p *Peer, codec api.Codec) {
	t.Helper()
	feedKeys(t, p, codec, func(int) bool { return true })
}

// feedKeys is feed with keyframes where key says so, by the picture's number.
func feedKeys(t *testing.T, p *Peer, codec api.Codec, key func(int) bool) {
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
				_, _, _ = p.WriteFrame(media.Frame{Kind: media.Video, Key: key(i), PTS: pts, Data: keyframe(codec, 3000)})
				_, _, _ = p.WriteFrame(media.Frame{Kind: media.Audio, PTS: pts, Data: []byte{0xfc, 0xff, 0xfe}})
			}
		}
	})
}
