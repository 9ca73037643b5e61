package webtest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
	"github.com/pion/webrtc/v4/pkg/media/ivfreader"
)

// peer is the instance side of one viewer's connection.
type peer struct {
	pc        *webrtc.PeerConnection
	stop      context.CancelFunc
	connected chan struct{}
	done      sync.WaitGroup
}

func (g *gateway) closePeer() {
	g.mu.Lock()
	p := g.peer
	g.peer = nil
	g.mu.Unlock()
	if p == nil {
		return
	}
	p.stop()
	_ = p.pc.Close() // a second close is harmless
	p.done.Wait()
}

// signal speaks the server side of wire API version 2 until the client closes
// the websocket, as it does once ICE is connected.
func (g *gateway) signal(ctx context.Context, c *websocket.Conn) {
	c.SetReadLimit(1 << 20)
	for {
		_, b, err := c.Read(ctx)
		if err != nil {
			g.set(func() { g.wsClosed = true })
			return
		}
		var f map[string]any
		if err := json.Unmarshal(b, &f); err != nil {
			g.t.Errorf("frame is not JSON: %s", b)
			return
		}
		g.set(func() { g.frames = append(g.frames, f) })
		g.frame(ctx, c, f)
	}
}

func (g *gateway) frame(ctx context.Context, c *websocket.Conn, f map[string]any) {
	g.mu.Lock()
	p, discover := g.peer, g.discover
	g.mu.Unlock()
	switch f["type"] {
	case "discover":
		if discover != nil {
			g.send(ctx, c, discover)
		}
	case "settings":
		g.offer(ctx, c, f["enable_speaker"] == true)
	case "answer":
		sdp := webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: g.plain(f["sdp"])}
		if err := p.pc.SetRemoteDescription(sdp); err != nil {
			g.t.Errorf("answer: %v", err)
		}
	case "candidate":
		mid, line := f["sdpMid"].(string), uint16(f["sdpMLineIndex"].(float64))
		init := webrtc.ICECandidateInit{Candidate: g.plain(f["candidate"]), SDPMid: &mid, SDPMLineIndex: &line}
		if err := p.pc.AddICECandidate(init); err != nil {
			g.t.Errorf("candidate: %v", err)
		}
	default:
		g.t.Errorf("the wire knows no frame %q", f["type"])
	}
}

func (g *gateway) plain(v any) string {
	s, _ := v.(string)
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		g.t.Errorf("%q is not base64: %v", s, err)
	}
	return string(b)
}

func (g *gateway) send(ctx context.Context, c *websocket.Conn, f map[string]any) {
	b, _ := json.Marshal(f)
	_ = c.Write(ctx, websocket.MessageText, b) // a client that left is what some tests are about
}

func (g *gateway) offer(ctx context.Context, c *websocket.Conn, sound bool) {
	var engine webrtc.SettingEngine
	engine.SetIncludeLoopbackCandidate(true)
	pc, err := webrtc.NewAPI(webrtc.WithSettingEngine(engine)).NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		g.t.Errorf("peer: %v", err)
		return
	}
	run, stop := context.WithCancel(context.Background())
	p := &peer{pc: pc, stop: stop, connected: make(chan struct{})}
	g.closePeer()
	g.set(func() { g.peer = p })

	if _, err := pc.CreateDataChannel("offer-application-line", nil); err != nil {
		g.t.Errorf("channel: %v", err)
	}
	pc.OnDataChannel(g.channel)
	var once sync.Once
	pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
		if s == webrtc.PeerConnectionStateConnected {
			once.Do(func() { close(p.connected) })
		}
	})
	pc.OnICECandidate(func(i *webrtc.ICECandidate) {
		if i == nil {
			return
		}
		j := i.ToJSON()
		g.send(ctx, c, map[string]any{"type": "candidate", "candidate": base64.StdEncoding.EncodeToString([]byte(j.Candidate)), "sdpMid": *j.SDPMid, "sdpMLineIndex": *j.SDPMLineIndex})
	})
	g.track(run, p, webrtc.MimeTypeVP8, "video", g.playVideo)
	if sound {
		g.track(run, p, webrtc.MimeTypeOpus, "audio", g.playSilence)
	}
	offer, err := pc.CreateOffer(nil)
	if err == nil {
		err = pc.SetLocalDescription(offer)
	}
	if err != nil {
		g.t.Errorf("offer: %v", err)
		return
	}
	g.send(ctx, c, map[string]any{"type": "offer", "sdp": base64.StdEncoding.EncodeToString([]byte(offer.SDP))})
}

func (g *gateway) track(run context.Context, p *peer, mime, id string, play func(context.Context, *webrtc.TrackLocalStaticSample)) {
	t, err := webrtc.NewTrackLocalStaticSample(webrtc.RTPCodecCapability{MimeType: mime}, id, "stream-"+id)
	if err == nil {
		_, err = p.pc.AddTrack(t)
	}
	if err != nil {
		g.t.Errorf("track: %v", err)
		return
	}
	p.done.Go(func() {
		select {
		case <-p.connected:
		case <-run.Done():
			return
		}
		play(run, t)
	})
}

// playVideo loops a second of a moving picture, 320x180 at 30 frames a second.
func (g *gateway) playVideo(run context.Context, t *webrtc.TrackLocalStaticSample) {
	tick := time.NewTicker(time.Second / 30)
	defer tick.Stop()
	for {
		f, err := os.Open("testdata/moving.ivf")
		if err != nil {
			g.t.Errorf("moving picture: %v", err)
			return
		}
		ivf, _, err := ivfreader.NewWith(f)
		for err == nil {
			var frame []byte
			if frame, _, err = ivf.ParseNextFrame(); err != nil {
				break // the end: from the start again
			}
			if werr := t.WriteSample(media.Sample{Data: frame, Duration: time.Second / 30}); werr != nil {
				_ = f.Close()
				return // the connection is closed
			}
			select {
			case <-tick.C:
			case <-run.Done():
				_ = f.Close()
				return
			}
		}
		_ = f.Close()
	}
}

func (g *gateway) playSilence(run context.Context, t *webrtc.TrackLocalStaticSample) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := t.WriteSample(media.Sample{Data: []byte{0xf8, 0xff, 0xfe}, Duration: 20 * time.Millisecond}); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-run.Done():
			return
		}
	}
}

// channel keeps what comes on "control" and echoes everything else.
func (g *gateway) channel(d *webrtc.DataChannel) {
	d.OnMessage(func(m webrtc.DataChannelMessage) {
		if d.Label() != "control" {
			if m.IsString {
				_ = d.SendText(string(m.Data))
			} else {
				_ = d.Send(m.Data)
			}
			return
		}
		var in message
		if err := json.Unmarshal(m.Data, &in); err != nil || !m.IsString {
			g.t.Errorf("control message is not JSON text: %q", m.Data)
			return
		}
		g.set(func() { g.control = append(g.control, in) })
	})
	if d.Label() == "control" {
		d.OnOpen(func() { _ = d.SendText(`{"type":"greeting","data":"{\"hello\":\"page\"}"}`) })
	}
}
