package stream

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/rtc"
)

const (
	maxViewers   = 16 // links at once: the client's, those of guests, and some that end
	maxForgotten = 64
	// signalMost is how long a client may take to sign in: the SDK's own timer.
	signalMost = 5 * time.Minute
	// connectMost is how long a connection may take after the websocket closed.
	connectMost = 30 * time.Second
	// handoverMost is how long a session counts as connected while its viewer
	// comes again or another takes over.
	handoverMost = 20 * time.Second
)

// viewer is one websocket connection of a client and the connection it sets up.
type viewer struct {
	id     string   // of its websocket; the loop's
	first  string   // its id when it came: stays, for those that are not the loop
	number uint32   // of the session's own client
	share  uint32   // of a guest
	seat   api.Seat // what its ticket lets it do
	link   *api.Link
	begun  time.Time

	peer      *rtc.Peer
	seated    bool // a client's: it has taken over from the one before
	described bool // the client's answer or offer is in
	connected bool
	key       string      // by which its page comes back; "" = it was told none
	away      time.Time   // since when nothing comes of it; zero = something does, or never did
	seeking   time.Time   // until when a restart must have led somewhere; zero = none goes on
	parted    time.Time   // its websocket closed; zero = open
	over      bool        // dismissed: only the link is being ended
	gone      atomic.Bool // the same as over, for those that are not the loop
	deaf      bool        // its link broke
	roundTrip float64     // ms
	tripNS    atomic.Int64
	sent      uint64 // bytes, as last counted
	channels  *channels
	codec     api.Codec // agreed; "" = not yet
	blind     bool      // it wants no picture
	kbps      int       // that the way to it carries
	listens   bool      // its page takes part, and is told who watches
	asked     asked
	feed      *feed // a guest's
	stopFeed  context.CancelFunc
	active    atomic.Bool // its control messages count; read from anywhere
}

// signal takes one signal of a viewer's link.
func (s *session) signal(sig api.Signal) {
	v := s.viewers[sig.Viewer]
	if v == nil {
		if v = s.newViewer(sig); v == nil {
			return
		}
	}
	was := v.link.Opened()
	frames := v.link.Receive(sig)
	if !was && v.link.Opened() && !v.over {
		s.opened(v)
	}
	for _, f := range frames {
		if v = s.viewers[sig.Viewer]; v == nil || v.over { // a frame may give its link to another
			break
		}
		s.frame(v, f)
	}
	if v = s.viewers[sig.Viewer]; v == nil {
		return
	}
	if _, closed := v.link.Closed(); closed && v.parted.IsZero() {
		v.parted = time.Now()
		if !v.over && !v.described {
			s.leave(v)
		}
	}
}

// newViewer makes the end of a link that begins; signals of what has ended are refused.
func (s *session) newViewer(sig api.Signal) *viewer {
	refuse := func(why string) *viewer {
		if answer, ok := api.RefuseSignal(sig, why); ok {
			s.send(answer)
		}
		return nil
	}
	share, guest := api.ParseGuest(sig.Viewer)
	number, ok := viewerNumber(sig.Viewer)
	switch {
	case sig.Session != s.id || sig.Generation != s.generation:
		return refuse("the session is not here")
	case slices.Contains(s.forgotten, sig.Viewer):
		return refuse("the connection has ended")
	case sig.Kind == api.SignalAck || sig.Kind == api.SignalClose || sig.Seq == 0:
		return refuse("the connection is not known")
	case !ok && !guest:
		return refuse("the viewer's number is missing")
	case guest && !s.shares.Admits(share):
		return refuse("the share was revoked")
	case len(s.viewers) >= maxViewers:
		return refuse("too many connections")
	}
	v := &viewer{id: sig.Viewer, first: sig.Viewer, number: number, share: share, seat: api.Seat{Role: sig.Role, Rights: sig.Rights}, link: api.NewLink(sig), begun: time.Now()}
	s.viewers[v.id] = v
	return v
}

// viewerNumber reads the ticket's number from "<number>-<random>".
func viewerNumber(id string) (uint32, bool) {
	n, _, ok := strings.Cut(id, "-")
	v, err := strconv.ParseUint(n, 10, 32)
	return uint32(v), ok && err == nil
}

// opened looks at a client whose websocket opened: one that is earlier than the
// newest is refused, one that finds nobody takes over. Else its first frame tells
// whether it is somebody new or a client that comes back. A guest takes nothing over.
func (s *session) opened(v *viewer) {
	if v.guest() {
		s.log.Info("guest signs in", "viewer", v.id, "role", v.seat.Role)
		return
	}
	if v.number < s.admitted {
		s.refuse(v, "another client has joined this session")
		return
	}
	if s.current == nil {
		s.takeOver(v)
	}
}

// takeOver cuts off earlier clients.
func (s *session) takeOver(v *viewer) {
	v.seated = true
	s.admitted = v.number
	if s.current != nil && s.current.connected {
		s.handover = time.Now().Add(handoverMost)
	}
	for _, other := range s.viewers {
		if other != v && !other.guest() {
			s.dismiss(other, "another client has joined this session")
		}
	}
	s.current = v
	s.log.Info("viewer signs in", "viewer", v.id)
}

// refuse tells a client why before its websocket is closed.
func (s *session) refuse(v *viewer, why string) {
	if v.over {
		return
	}
	s.log.Info("viewer refused", "viewer", v.id, "reason", why)
	s.dismiss(v, why)
}

// dismiss cuts a viewer off and ends its link.
func (s *session) dismiss(v *viewer, why string) {
	if v.over {
		return
	}
	v.over = true
	if v.parted.IsZero() && !v.connected {
		_ = v.link.Send(rtc.ErrorFrame(why)) // a full link is broken anyway
	}
	v.link.Close(why)
	s.disconnect(v)
}

// leave ends a viewer that goes of its own will or was lost.
func (s *session) leave(v *viewer) {
	if s.current == v {
		s.handover = time.Time{}
	}
	s.dismiss(v, "")
}

// disconnect closes a viewer's connection and lets go of what it held.
func (s *session) disconnect(v *viewer) {
	if s.current == v {
		s.current = nil
	}
	v.connected = false
	v.gone.Store(true)
	p := v.peer
	if p == nil {
		return
	}
	was := v.active.Swap(false)
	if v.guest() {
		s.live.remove(v.feed)
		v.stopFeed()
	} else {
		was = s.live.peer.CompareAndSwap(p, nil)
	}
	s.gamepads.leave(v.first)
	if i := s.live.input.Load(); i != nil && was {
		i.Release(v.driver())
	}
	if !s.watched() {
		s.enc.pause(true)
	}
	v.channels.close()
	s.tellViewers()
	s.wg.Go(func() {
		if err := p.Close(); err != nil {
			s.log.Debug("connection closed with an error", "viewer", v.id, "error", err)
		}
	})
}

// frame takes one frame of a client's signalling.
func (s *session) frame(v *viewer, f []byte) {
	m, err := rtc.ParseMessage(f)
	if err == nil && m.Type == rtc.TypeRestart {
		err = s.resume(v, m.Key)
	} else if !v.seated && !v.guest() {
		if v.number < s.admitted {
			s.refuse(v, "another client has joined this session")
			return
		}
		s.takeOver(v)
	}
	if err == nil && m.Type != rtc.TypeRestart {
		err = s.understand(v, m)
	}
	if err != nil {
		s.refuse(v, err.Error())
	}
}

func (s *session) understand(v *viewer, m rtc.Message) error {
	switch m.Type {
	case rtc.TypeDiscover:
		return v.link.Send(rtc.DiscoverFrame(s.screen.FPS))
	case rtc.TypeSettings:
		return s.settings(v, m.Settings)
	case rtc.TypeOffer:
		// Clients of version 1 may send no settings at all.
		if v.peer == nil {
			if err := s.connect(v, rtc.Settings{EnableVideo: true, EnableSpeaker: true}); err != nil {
				return err
			}
		}
		v.described = true
		return v.peer.Offered(m.SDP)
	case rtc.TypeAnswer:
		if v.peer == nil {
			return api.Invalidf("answer", "came before the settings")
		}
		v.described = true
		return v.peer.Answered(m.SDP)
	case rtc.TypeCandidate:
		if v.peer == nil {
			return nil // of a client that has not said what it wants
		}
		if err := v.peer.AddCandidate(m.Candidate); err != nil {
			s.log.Debug("candidate not used", "viewer", v.id, "error", err) // others may do
		}
	}
	return nil
}

func (s *session) settings(v *viewer, set rtc.Settings) error {
	switch {
	case set.APIVersion > rtc.MaxAPIVersion:
		return api.Invalidf("api_version", "at most %d is spoken here, got %d", rtc.MaxAPIVersion, set.APIVersion)
	case set.APIVersion < 2:
		return nil // the client's own offer follows
	case v.peer != nil:
		return api.Invalidf("settings", "came a second time")
	}
	if err := s.connect(v, set); err != nil {
		return err
	}
	return v.peer.Offer()
}

// connect makes the viewer's connection.
func (s *session) connect(v *viewer, set rtc.Settings) error {
	v.channels = newChannels(s.ctx, s.dir, s.log, v, func(ctx context.Context, c *rtc.Channel) bool { return s.serveOwn(ctx, v, c) })
	v.asked = asked{microphone: set.EnableMicrophone, camera: set.EnableCamera}
	heard := set.EnableMicrophone && s.microphone(v) == ""
	key := s.keys.now
	if v.guest() {
		key = s.keys.soon
	}
	own := func(f func()) func() { // what comes late of a dismissed viewer is void
		return func() {
			if !v.over {
				f()
			}
		}
	}
	p, err := s.transport.NewPeer(rtc.PeerConfig{
		Codecs: s.codecs(v, rtc.Preference(set.Video.PreferredDecoderCodecs, s.ladder.there(s.spec.Codecs))), Video: set.EnableVideo, Audio: set.EnableSpeaker, Microphone: heard,
		Limits: s.limits(), ICEServers: s.spec.ICEServers, Log: s.log,
		Events: rtc.Events{
			Signal:   func(f []byte) { s.post(own(func() { s.answer(v, f) })) },
			State:    func(st rtc.State) { s.post(own(func() { s.peerState(v, st) })) },
			Codec:    func(c api.Codec) { s.post(own(func() { s.agreed(v, c) })) },
			Keyframe: key,
			Bitrate:  func(kbps int) { s.hurry(v, kbps); s.post(own(func() { s.carries(v, kbps) })) },
			Control:  func(c rtc.Control) { s.control(v, c) },
			Channel:  v.channels.add,
			Opened:   func() { s.post(own(func() { s.tellDevices(v) })) },
			Voice:    s.voice(v),
		},
	})
	if err != nil {
		return err
	}
	v.peer, v.blind = p, !set.EnableVideo
	v.active.Store(true)
	if v.guest() {
		s.admitGuest(v)
	} else {
		s.live.meter.joined()
		s.live.peer.Store(p)
	}
	was := s.blind
	if s.see(); was != s.blind {
		s.configure()
	}
	return nil
}

// hurry takes the bitrate of the session's own client past the loop: a keyframe
// that follows must be as small as the way has become.
func (s *session) hurry(v *viewer, kbps int) {
	if !v.guest() && !v.gone.Load() {
		s.encodeAt(kbps)
	}
}

// encodeAt has pictures encoded at a bitrate, as many and as large as it is enough for.
func (s *session) encodeAt(kbps int) {
	r := s.steps.at(kbps, s.silent(), time.Now())
	s.live.sizes.set(r.screen, r.quarters, time.Now())
	s.enc.bitrate(media.Bitrate{Kbps: kbps, FPS: r.fps, Quarters: r.quarters})
}

// silent says whether nothing is heard of the session's own client.
func (s *session) silent() bool {
	p := s.live.peer.Load()
	return p != nil && p.Silent()
}

// settle follows the steps that come with time alone: a rate that stays is not told again.
func (s *session) settle() {
	if s.kbps > 0 && s.steps.due(s.kbps, s.silent(), time.Now()) {
		s.encodeAt(s.kbps)
	}
}

func (s *session) send(sig api.Signal) {
	s.hub.Broadcast(local.Message{Kind: local.KindSignal, Signal: &sig})
}
