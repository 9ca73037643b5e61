package stream

import (
	"encoding/base64"
	"encoding/json"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/rtp/codecs"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media/rtc"
)

// client is a browser with its gateway: a websocket's end of the link, and pion.
type client struct {
	t    *testing.T
	rig  *rig
	id   string
	in   chan api.Signal
	stop chan struct{}
	once sync.Once

	mu     sync.Mutex
	link   *api.Link
	frames []map[string]any // that came from the server

	pc       *webrtc.PeerConnection
	control  *webrtc.DataChannel
	open     chan struct{}
	gone     chan struct{} // control closed
	pictures chan shown
	sound    chan struct{}
	videos   chan *webrtc.TrackRemote
	ready    bool
	early    []webrtc.ICECandidateInit
	messages chan map[string]any                 // by the control channel
	through  atomic.Pointer[func(string) string] // the only way to the server: rewrites its candidates, "" drops one
}

// join opens a websocket of a viewer; what it then says is the caller's.
func (r *rig) join(id string, opts ...func(*webrtc.Configuration)) *client {
	r.t.Helper()
	return r.joinAs(id, api.RoleControl, opts...)
}

func (r *rig) joinAs(id string, role api.Role, opts ...func(*webrtc.Configuration)) *client {
	r.t.Helper()
	c := &client{t: r.t, rig: r, id: id, in: make(chan api.Signal, 256), stop: make(chan struct{}), open: make(chan struct{}),
		gone: make(chan struct{}), messages: make(chan map[string]any, 64), pictures: make(chan shown, 4096), sound: make(chan struct{}, 1), videos: make(chan *webrtc.TrackRemote, 1)}
	c.link = api.NewLink(api.Signal{Session: sessionID, Generation: 1, Viewer: id, Role: role})
	r.mu.Lock()
	r.links[id] = c.in
	r.mu.Unlock()
	var cfg webrtc.Configuration
	for _, o := range opts {
		o(&cfg)
	}
	c.newPeer(cfg)
	if err := c.link.Open(); err != nil {
		r.t.Fatal(err)
	}
	go c.run()
	r.t.Cleanup(c.leave)
	return c
}

func (c *client) leave() { c.once.Do(func() { close(c.stop); _ = c.pc.Close() }) }

func (c *client) newPeer(cfg webrtc.Configuration) {
	m := &webrtc.MediaEngine{}
	if err := m.RegisterDefaultCodecs(); err != nil {
		c.t.Fatal(err)
	}
	var s webrtc.SettingEngine
	s.SetIncludeLoopbackCandidate(true)
	s.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	s.SetRelayAcceptanceMinWait(0)
	var err error
	if c.pc, err = webrtc.NewAPI(webrtc.WithMediaEngine(m), webrtc.WithSettingEngine(s)).NewPeerConnection(cfg); err != nil {
		c.t.Fatal(err)
	}
	if c.control, err = c.pc.CreateDataChannel("control", nil); err != nil {
		c.t.Fatal(err)
	}
	c.control.OnOpen(func() { close(c.open) })
	c.control.OnClose(func() { close(c.gone) })
	c.control.OnMessage(func(m webrtc.DataChannelMessage) {
		var v map[string]any
		if json.Unmarshal(m.Data, &v) == nil {
			c.messages <- v
		}
	})
	c.pc.OnTrack(c.track)
	c.pc.OnICECandidate(func(i *webrtc.ICECandidate) {
		if i != nil && c.through.Load() == nil {
			c.say(map[string]any{"type": "candidate", "candidate": b64(i.ToJSON().Candidate), "sdpMid": "0", "sdpMLineIndex": 0})
		}
	})
}

func (c *client) track(r *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
	if r.Kind() == webrtc.RTPCodecTypeVideo {
		c.videos <- r
	}
	for {
		p, _, err := r.ReadRTP()
		if err != nil {
			return
		}
		if r.Kind() == webrtc.RTPCodecTypeAudio {
			select {
			case c.sound <- struct{}{}:
			default:
			}
			continue
		}
		var v codecs.VP8Packet
		if b, err := v.Unmarshal(p.Payload); err == nil {
			if s, ok := parseShown(b); ok {
				select {
				case c.pictures <- s:
				default:
				}
			}
		}
	}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// say sends one frame through the websocket.
func (c *client) say(v any) {
	b, ok := v.([]byte)
	if !ok {
		b, _ = json.Marshal(v)
	}
	c.mu.Lock()
	_ = c.link.Send(b) // after the websocket closed nothing goes out any more
	c.mu.Unlock()
}

// run is the gateway: it carries signals both ways, and loses every fifth.
func (c *client) run() {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var n int
	for {
		select {
		case <-c.stop:
			return
		case s := <-c.in:
			c.mu.Lock()
			got := c.link.Receive(s)
			c.mu.Unlock()
			for _, f := range got {
				c.server(f)
			}
		case <-tick.C:
		}
		c.mu.Lock()
		due := c.link.Due(time.Now())
		c.mu.Unlock()
		for _, s := range due {
			if n++; n%5 != 0 {
				_ = c.rig.daemon.Send(local.Message{Kind: local.KindSignal, Signal: &s})
			}
		}
	}
}

// server takes a frame of the server's signalling, as the SDK would.
func (c *client) server(f []byte) {
	var v map[string]any
	if err := json.Unmarshal(f, &v); err != nil {
		c.t.Errorf("the server sent %q", f)
		return
	}
	c.mu.Lock()
	c.frames = append(c.frames, v)
	c.mu.Unlock()
	m, err := rtc.ParseMessage(f)
	if err != nil {
		c.t.Errorf("the server sent %q: %v", f, err)
		return
	}
	switch m.Type {
	case rtc.TypeOffer:
		c.answer(m.SDP)
	case rtc.TypeAnswer:
		if err := c.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: m.SDP}); err != nil {
			c.t.Errorf("answer: %v", err)
		}
		c.flush()
	case rtc.TypeCandidate:
		if f := c.through.Load(); f != nil {
			if m.Candidate.Line = (*f)(m.Candidate.Line); m.Candidate.Line == "" {
				return
			}
		}
		i := webrtc.ICECandidateInit{Candidate: m.Candidate.Line, SDPMid: m.Candidate.Mid, SDPMLineIndex: m.Candidate.Index}
		if !c.ready {
			c.early = append(c.early, i)
		} else {
			_ = c.pc.AddICECandidate(i) // fails when the test has closed it
		}
	}
}

func (c *client) answer(sdp string) {
	err := c.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: sdp})
	var a webrtc.SessionDescription
	if err == nil {
		a, err = c.pc.CreateAnswer(nil)
	}
	if err == nil {
		c.say(map[string]any{"type": "answer", "sdp": b64(a.SDP)})
		err = c.pc.SetLocalDescription(a)
	}
	if err != nil {
		c.t.Errorf("answer the offer: %v", err)
	}
	c.flush()
}

func (c *client) flush() {
	for _, i := range c.early {
		_ = c.pc.AddICECandidate(i) // as above
	}
	c.early, c.ready = nil, true
}

func (c *client) settings(more map[string]any) {
	v := map[string]any{"type": "settings", "api_version": 2, "enable_speaker": true, "enable_video": true, "enable_microphone": false}
	for k, x := range more {
		v[k] = x
	}
	c.say(v)
}

// closeWebsocket is what the SDK does once connected.
func (c *client) closeWebsocket() {
	c.mu.Lock()
	c.link.Close("")
	c.mu.Unlock()
}

// said gives the server's frames of a type.
func (c *client) said(typ string) []map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []map[string]any
	for _, f := range c.frames {
		if f["type"] == typ {
			out = append(out, f)
		}
	}
	return out
}

func (c *client) closedBy() (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link.Closed()
}

// watch signs in (version 2) and waits for pictures.
func (c *client) watch() {
	c.t.Helper()
	c.settings(nil)
	c.picture("picture", func(shown) bool { return true })
}

// picture waits for one that fits.
func (c *client) picture(what string, ok func(shown) bool) shown {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case s := <-c.pictures:
			if ok(s) {
				return s
			}
		case <-deadline:
			c.t.Fatalf("no %s within %s (state %+v)", what, patience, c.rig.last())
		}
	}
}

func got[T any](t *testing.T, c <-chan T, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("no %s within %s", what, patience)
	}
}
