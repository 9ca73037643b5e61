package stream

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/rtp/codecs"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media/rtc"
)

// rig is a stream process within the test, with a daemon.
type rig struct {
	t      *testing.T
	dir    local.Session
	daemon *local.Conn
	ended  chan error

	mu     sync.Mutex
	state  local.StreamState
	states int
	links  map[string]chan api.Signal
}

type option func(*Config, *api.Spec)

func role(name string) option {
	return func(c *Config, _ *api.Spec) { c.Encode = encodeAs(name) }
}

func encodeAs(name string) func() *exec.Cmd {
	return func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleEnv+"="+name)
		return cmd
	}
}

// start runs a stream with an instance that is up.
func start(t *testing.T, options ...option) *rig {
	t.Helper()
	dir := local.Run(t.TempDir()).Session(sessionID, 1)
	if err := os.MkdirAll(dir.Shared(), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Dir: dir, Encode: encodeAs("yes"), Log: slog.New(slog.DiscardHandler)}
	if os.Getenv("PERIGEE_TEST_LOG") != "" {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	spec := api.Spec{Screen: api.Screen{Width: 640, Height: 360, FPS: 60}, Codecs: []api.Codec{api.VP8}, Pool: api.PoolCPU}
	for _, o := range options {
		o(&cfg, &spec)
	}
	if err := dir.WriteSpec(spec); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, ended: make(chan error, 1), links: map[string]chan api.Signal{}}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { r.ended <- Run(ctx, cfg); close(r.ended) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-r.ended:
		case <-time.After(patience):
			t.Error("the stream does not end")
		}
	})
	r.instance(local.InstanceState{Observed: api.ObservedRunning, Display: ":99999", Pulse: "unix:/nowhere"})
	r.connect()
	return r
}

func (r *rig) instance(st local.InstanceState) {
	r.t.Helper()
	if err := r.dir.WriteInstance(st); err != nil {
		r.t.Fatal(err)
	}
}

// connect is a daemon that dials the stream.
func (r *rig) connect() {
	r.t.Helper()
	r.wait("the stream's socket", func() bool {
		c, err := local.Dial(r.t.Context(), r.dir.StreamSocket())
		r.daemon = c
		return err == nil
	})
	d := r.daemon
	r.t.Cleanup(func() { _ = d.Close() })
	go func() {
		for {
			m, err := d.Read()
			if err != nil {
				return
			}
			r.mu.Lock()
			switch {
			case m.Stream != nil:
				r.state = *m.Stream
				r.states++
			case m.Signal != nil:
				if c := r.links[m.Signal.Viewer]; c != nil {
					select {
					case c <- *m.Signal:
					default:
					}
				}
			}
			r.mu.Unlock()
		}
	}()
}

func (r *rig) last() local.StreamState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

func (r *rig) wait(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("no %s within %s (state %+v)", what, patience, r.last())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (r *rig) waitEnd() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(patience):
		r.t.Fatal("the stream does not end")
		return nil
	}
}

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
}

// join opens a websocket of a viewer; what it then says is the caller's.
func (r *rig) join(id string, opts ...func(*webrtc.Configuration)) *client {
	r.t.Helper()
	return r.joinAs(id, api.RoleControl, opts...)
}

func (r *rig) joinAs(id string, role api.Role, opts ...func(*webrtc.Configuration)) *client {
	r.t.Helper()
	c := &client{t: r.t, rig: r, id: id, in: make(chan api.Signal, 256), stop: make(chan struct{}), open: make(chan struct{}),
		gone: make(chan struct{}), pictures: make(chan shown, 4096), sound: make(chan struct{}, 1), videos: make(chan *webrtc.TrackRemote, 1)}
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
	c.pc.OnTrack(c.track)
	c.pc.OnICECandidate(func(i *webrtc.ICECandidate) {
		if i != nil {
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
