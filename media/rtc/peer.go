package rtc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/interceptor/pkg/report"
	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
)

var (
	errNoCodec = errors.New("the client and the application share no codec")
	errClosed  = errors.New("connection is closed")
)

// State of a viewer's connection.
type State string

// States.
const (
	StateConnected    State = "connected"
	StateDisconnected State = "disconnected" // for the moment; it may come back
	StateClosed       State = "closed"       // for good: failed, or closed by either end
)

// Events is how a Peer tells what happens. They come from several goroutines
// and must not block.
type Events struct {
	Signal   func(frame []byte) // a frame for the client
	State    func(State)        // the connection's state changed
	Codec    func(api.Codec)    // the video codec is agreed: encode in it
	Keyframe func()             // the viewer needs a keyframe
	Bitrate  func(kbps int)     // encode at this bitrate
	Control  func(Control)      // a message of the control channel
	Channel  func(*Channel)     // the client opened a data channel of its own
	// Opened says that the control channel is there; nil tells nobody.
	Opened func()
	// Voice takes an Opus packet of the client's microphone, in the order of their
	// arrival; its data is valid during the call. Nil where there is none.
	Voice func(seq uint16, packet []byte)
}

// PeerConfig configures a Peer.
type PeerConfig struct {
	Codecs     []api.Codec // offered, preferred first
	Video      bool
	Audio      bool
	Microphone bool // the client's sound is taken, and Events.Voice is there
	Limits     media.Limits
	ICEServers []api.ICEServer // relays for the stream's own use
	Events     Events
	Log        *slog.Logger
}

// Peer is the server's end of one viewer's connection.
type Peer struct {
	cfg    PeerConfig
	t      *Transport
	pc     *webrtc.PeerConnection
	sender *sender
	video  *track // nil: not sent
	audio  *track
	cancel context.CancelFunc
	done   sync.WaitGroup

	gathering *gathering
	connected atomic.Bool
	reported  time.Time     // of steer's goroutine
	pictured  atomic.Int64  // media.Now of the last picture
	resting   atomic.Bool   // the bitrate is looked at rarely: there are no pictures
	stirred   chan struct{} // there is one again

	telling sync.Mutex // guards the fields below, and Events.Bitrate
	told    int
	toldAt  time.Time

	mu         sync.Mutex
	closed     bool
	offered    bool        // the client's offer was taken
	sent       bool        // the description went out; candidates may follow
	held       [][]byte    // candidates found before it
	mine       [][]byte    // all of them since the last offer
	described  bool        // the client's description is in
	early      []Candidate // of the client, before it
	candidates int
	channels   int
	own        int                 // channels of Perigee's
	control    *webrtc.DataChannel // nil until the client opened it
	hears      bool                // its microphone is read
	lastKey    time.Time
}

const (
	maxCandidates = 64
	controlEvery  = 100 * time.Millisecond
	restEvery     = reportEvery + controlEvery/2 // the same while no picture was sent for restAfter
	restAfter     = time.Second
	keyInterval   = 100 * time.Millisecond
)

// NewPeer makes a connection on the transport's port; it ends with Close.
func (t *Transport) NewPeer(cfg PeerConfig) (*Peer, error) {
	if len(cfg.Codecs) == 0 && cfg.Video {
		return nil, fmt.Errorf("make connection: %w", errNoCodec)
	}
	engine, err := mediaEngine(cfg.Codecs)
	if err != nil {
		return nil, err
	}
	p := &Peer{cfg: cfg, t: t, sender: newSender(cfg.Limits), gathering: &gathering{Net: t.cfg.Net}, stirred: make(chan struct{}, 1)}
	if cfg.Audio {
		p.audio = newTrack(webrtc.RTPCodecTypeAudio, nil, nil)
	}
	if cfg.Video {
		p.video = newTrack(webrtc.RTPCodecTypeVideo, cfg.Codecs, cfg.Events.Codec)
		p.video.keyframe = p.sender.keyframe
		p.sender.collapsed = p.collapsed
	}
	p.sender.lowered = p.lowered
	registry := &interceptor.Registry{}
	registry.Add(p.sender) // the first added is next to the wire
	if cfg.Microphone {    // the client's own rate and copies against loss go by them
		back, err := report.NewReceiverInterceptor(report.WithReceiverLoggerFactory(t.log))
		if err != nil {
			return nil, fmt.Errorf("make receiver reports: %w", err)
		}
		registry.Add(back)
	}
	w := webrtc.NewAPI(webrtc.WithMediaEngine(engine), webrtc.WithInterceptorRegistry(registry),
		webrtc.WithSettingEngine(t.settings(p.gathering)))
	if p.pc, err = w.NewPeerConnection(webrtc.Configuration{ICEServers: relays(cfg.ICEServers)}); err != nil {
		return nil, fmt.Errorf("make connection: %w", err)
	}
	p.pc.OnICECandidate(p.found)
	p.pc.OnConnectionStateChange(p.changed)
	p.pc.OnDataChannel(p.opened)
	p.pc.OnTrack(p.received)
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.done.Go(func() { p.steer(ctx) })
	return p, nil
}

// relays keeps the TURN servers: our own addresses are known, STUN tells no more.
func relays(servers []api.ICEServer) []webrtc.ICEServer {
	var out []webrtc.ICEServer
	for _, s := range servers {
		var urls []string
		for _, u := range s.URLs {
			if strings.HasPrefix(u, "turn:") || strings.HasPrefix(u, "turns:") {
				urls = append(urls, u)
			}
		}
		if len(urls) > 0 {
			out = append(out, webrtc.ICEServer{URLs: urls, Username: s.Username, Credential: s.Password})
		}
	}
	return out
}

// steer tells the encoder the bitrate that the way carries; a still screen has
// little use for it.
func (p *Peer) steer(ctx context.Context) {
	tick := time.NewTicker(controlEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.stirred:
			tick.Reset(controlEvery)
		case now := <-tick.C:
			p.tell(now)
			p.report(now)
			if time.Duration(media.Now()-p.pictured.Load()) >= restAfter && p.resting.CompareAndSwap(false, true) {
				tick.Reset(restEvery)
			}
		}
	}
}

// tell tells the bitrate when that is worth it.
func (p *Peer) tell(now time.Time) {
	p.telling.Lock() // so that an older one never follows a newer
	defer p.telling.Unlock()
	kbps := p.sender.target(now)
	if worthTelling(p.told, kbps, now.Sub(p.toldAt)) {
		p.told, p.toldAt = kbps, now
		p.cfg.Events.Bitrate(kbps)
	}
}

// lowered tells a rate that fell at once.
func (p *Peer) lowered() { p.tell(time.Now()) }

// collapsed gives up what was lost: the next picture that is sent is a keyframe.
func (p *Peer) collapsed() {
	p.tell(time.Now()) // it is to be as small as the way is narrow
	p.video.await()
	p.wantKeyframe()
}

// worthTelling spares encoders that must reopen to change their bitrate: less
// is told at once when it matters, more in steps.
func worthTelling(told, kbps int, since time.Duration) bool {
	switch {
	case told == 0:
		return true
	case kbps < told:
		return kbps*20 < told*19 || since > 5*time.Second
	case kbps > told:
		return since >= 200*time.Millisecond && kbps*20 > told*21 || since > time.Second && kbps*50 > told*51 || since > 5*time.Second
	}
	return false
}

// SetLimits changes the bounds of the bitrate, with the size of the picture.
func (p *Peer) SetLimits(l media.Limits) { p.sender.setLimits(l) }

// WriteFrame sends a frame; before the connection is up it is dropped. When it
// cannot be shown for want of a keyframe, one is asked for. sent says that all
// of it went out, and stamp under which RTP timestamp.
func (p *Peer) WriteFrame(f media.Frame) (stamp uint32, sent bool, err error) {
	t := p.video
	if f.Kind == media.Audio {
		t = p.audio
	} else {
		p.pictured.Store(media.Now())
		if p.resting.CompareAndSwap(true, false) {
			select {
			case p.stirred <- struct{}{}:
			default:
			}
		}
	}
	if t == nil || !p.connected.Load() {
		return 0, false, nil
	}
	out, usable, err := t.write(f)
	if !usable {
		p.wantKeyframe()
	}
	return out.stamp, out.whole, err
}

// Restarted says that the frames that follow come from a new encode process.
func (p *Peer) Restarted() {
	for _, t := range []*track{p.video, p.audio} {
		if t != nil {
			t.restart()
		}
	}
}

// RoundTrip is the measured round trip to the viewer; 0 when not measured yet.
func (p *Peer) RoundTrip() time.Duration {
	pair, ok := p.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePairStats()
	if !ok {
		return 0
	}
	return time.Duration(pair.CurrentRoundTripTime * float64(time.Second))
}

// Silent says whether the viewer tells nothing of what it is sent: the way is
// away for the moment, and what bitrate it carries is not known.
func (p *Peer) Silent() bool {
	p.sender.mu.Lock()
	defer p.sender.mu.Unlock()
	c := p.sender.cc
	return c.hears && p.sender.since(time.Now())-c.heard > silence/2
}

// Sent gives the bytes that went out as sound and picture, headers included.
func (p *Peer) Sent() uint64 {
	p.sender.mu.Lock()
	defer p.sender.mu.Unlock()
	return p.sender.bytes
}

// Close cuts the viewer off: a browser sees a closed connection at once.
func (p *Peer) Close() error {
	p.mu.Lock()
	was := p.closed
	p.closed = true
	p.mu.Unlock()
	if was {
		return nil
	}
	p.cancel()
	if p.pc.ICEGatheringState() != webrtc.ICEGatheringStateComplete {
		p.gathering.giveUp()
	}
	err := p.pc.Close()
	p.done.Wait()
	if err != nil {
		return fmt.Errorf("close connection: %w", err)
	}
	return nil
}

// changed tells the state as it is now: pion calls it from goroutines that may
// overtake each other.
func (p *Peer) changed(webrtc.PeerConnectionState) {
	switch p.pc.ConnectionState() {
	case webrtc.PeerConnectionStateConnected:
		p.connected.Store(true)
		p.cfg.Events.State(StateConnected)
	case webrtc.PeerConnectionStateDisconnected:
		p.cfg.Events.State(StateDisconnected)
	case webrtc.PeerConnectionStateFailed, webrtc.PeerConnectionStateClosed:
		p.cfg.Events.State(StateClosed)
	}
}

// listen reads the viewer's RTCP for a sender; the interceptors see it too.
func (p *Peer) listen(s *webrtc.RTPSender) {
	p.done.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, attr, err := s.Read(buf)
			if err != nil {
				return
			}
			packets, err := attr.GetRTCPPackets(buf[:n])
			if err != nil {
				continue
			}
			for _, r := range packets {
				switch r.(type) {
				case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
					p.wantKeyframe()
				}
			}
		}
	})
}

// wantKeyframe asks for a keyframe, at most ten times a second: a browser asks
// again until it has one.
func (p *Peer) wantKeyframe() {
	p.mu.Lock()
	now := time.Now()
	if now.Sub(p.lastKey) < keyInterval {
		p.mu.Unlock()
		return
	}
	p.lastKey = now
	p.mu.Unlock()
	p.cfg.Events.Keyframe()
}
