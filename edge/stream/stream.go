// Package stream is the body of a session's stream process: signalling, WebRTC,
// input and data channels of its viewers, and the supervision of the encode
// process. It outlives the daemon and never enters C.
package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/jezek/xgb"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/rtc"
)

// Config of a stream process.
type Config struct {
	Dir       local.Session
	Ports     rtc.Ports // the UDP port is one of these
	Advertise []string  // the node's public addresses
	// Encode makes the command of the encode process, which finds its socket as
	// file descriptor 3; nil runs this program again with "encode".
	Encode func() *exec.Cmd
	Log    *slog.Logger

	// OrphanAfter ends a process that neither a daemon nor a viewer wants; 0 is
	// 10 minutes.
	OrphanAfter time.Duration
	// GoneAfter is how long nothing comes of a viewer until it counts as not
	// connected; 0 is rtc.GoneAfter.
	GoneAfter time.Duration
}

const (
	orphanAfter    = 10 * time.Minute
	displayWait    = 60 * time.Second
	displayPoll    = 10 * time.Millisecond
	instancePoll   = 250 * time.Millisecond
	instanceCalm   = time.Second // when nothing of it changed for instanceNews
	instanceNews   = 10 * time.Second
	stateEvery     = time.Second
	lookEvery      = 3 * stateEvery / 4 // at least: with what is due every stateEvery
	farewell       = 500 * time.Millisecond
	maxQueued      = 4096 // events waiting for the loop
	defaultPreroll = 0.7  // of the highest bitrate, before anything was measured
)

// errStopped ends Run without an error.
var errStopped = errors.New("stop asked for")

// Run serves one session until the daemon stops it, its folder goes, nobody
// wants it any more (nil), ctx ends, or it cannot begin.
func Run(ctx context.Context, cfg Config) error {
	// xgb writes to stderr by itself; this process has no other user of it.
	xgb.Logger.SetOutput(io.Discard)
	s, err := newSession(cfg)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

// session is the stream process's one session. Its fields belong to the loop
// but where said otherwise; what happens elsewhere is posted to it.
type session struct {
	cfg        Config
	log        *slog.Logger
	dir        local.Session
	id         api.SessionID
	generation api.Generation
	spec       api.Spec

	transport *rtc.Transport
	hub       *local.Hub
	enc       *encoder
	keys      keys            // shared: for keyframes
	ctx       context.Context // of run
	ladder    *ladder
	live      live // shared: where frames and input go
	steps     steps
	clips     clips // shared
	gamepads  gamepads
	wg        sync.WaitGroup
	stop      context.CancelCauseFunc

	mu     sync.Mutex // guards events
	events []func()
	wake   chan struct{}

	instance  local.InstanceState
	screen    api.Screen
	shares    api.ShareList
	viewers   map[string]*viewer
	forgotten []string // ids of viewers that ended: what is late of them is refused
	admitted  uint32   // highest number whose websocket opened
	voices    uint32   // microphones that were numbered
	current   *viewer
	handover  time.Time // until then a reconnecting viewer counts as connected
	codec     api.Codec
	blind     bool         // the viewer wants no picture
	kbps      int          // that the way to the viewer carries
	latency   *api.Latency // measured so far; never changed, but replaced
	sent      uint64       // bytes, to all viewers
	failed    string
	still     still
	inactive  bool      // nobody does anything: the daemon ends the session
	noRoomAt  time.Time // since when no engine takes the stream
	told      local.StreamState
	toldAt    time.Time
	aloneAt   time.Time
	lookedAt  time.Time
	addresses []string // of the node, as last looked at
	addressAt time.Time
}

func newSession(cfg Config) (*session, error) {
	id, gen, err := cfg.Dir.ID()
	if err != nil {
		return nil, fmt.Errorf("read session folder: %w", err)
	}
	spec, err := cfg.Dir.ReadSpec()
	if err != nil {
		return nil, err
	}
	if spec.Screen, err = spec.Screen.Normalize(); err != nil {
		return nil, fmt.Errorf("check spec: %w", err)
	}
	if len(spec.Codecs) == 0 {
		spec.Codecs = spec.App.AllowedCodecs()
	}
	advertise, err := addresses(cfg.Advertise)
	if err != nil {
		return nil, err
	}
	if cfg.OrphanAfter == 0 {
		cfg.OrphanAfter = orphanAfter
	}
	if cfg.GoneAfter == 0 {
		cfg.GoneAfter = rtc.GoneAfter
	}
	if cfg.Encode == nil {
		if cfg.Encode, err = encodeSelf(); err != nil {
			return nil, err
		}
	}
	log := cfg.Log.With("session", id, "generation", gen)
	transport, err := rtc.NewTransport(rtc.TransportConfig{Ports: cfg.Ports, Advertise: advertise, Gone: cfg.GoneAfter, Log: log})
	if err != nil {
		return nil, err
	}
	s := &session{cfg: cfg, log: log, dir: cfg.Dir, id: id, generation: gen, spec: spec, screen: spec.Screen,
		transport: transport, viewers: map[string]*viewer{}, addresses: cfg.Advertise, wake: make(chan struct{}, 1), aloneAt: time.Now()}
	s.enc = newEncoder(cfg.Encode, log, sink{
		frame: s.live.frame, restarted: s.live.restarted,
		state: func() {
			st := s.enc.last()
			s.steps.saw(st.Content, st.Motion)
			s.post(func() {}) // the loop tells what changed
		},
		fail: func(why string) { s.post(func() { s.fail(why) }) },
	})
	s.keys.ask = s.enc.keyframe
	s.ladder = newLadder(cfg.Dir, spec, log)
	s.enc.next = s.ladder.next
	return s, nil
}

// encodeSelf runs this program's "encode".
func encodeSelf() (func() *exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	return func() *exec.Cmd { return exec.Command(self, "encode") }, nil
}

func addresses(list []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, a := range list {
		ip, err := netip.ParseAddr(a)
		if err != nil {
			return nil, api.Invalidf("advertise", "%q is not an IP address", a)
		}
		out = append(out, ip.Unmap())
	}
	return out, nil
}

// post has the loop run f. It never blocks: pion's goroutines and the loop
// itself post.
func (s *session) post(f func()) {
	s.mu.Lock()
	full := len(s.events) >= maxQueued
	if !full {
		s.events = append(s.events, f)
	}
	s.mu.Unlock()
	if full {
		s.log.Error("too many events wait, one is lost")
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *session) run(ctx context.Context) error {
	defer func() { _ = s.transport.Close() }() // nothing more to send
	ctx, s.stop = context.WithCancelCause(ctx)
	defer s.stop(nil)
	s.ctx = ctx
	if err := s.dir.WriteMedia(local.MediaState{PID: os.Getpid(), Candidates: s.transport.Candidates()}); err != nil {
		return err
	}
	var err error
	first := s.state()
	s.hub, err = local.NewHub(s.dir.StreamSocket(), local.Message{Kind: local.KindState, Stream: &first},
		func(m local.Message) { s.post(func() { s.message(m) }) })
	if err != nil {
		return err
	}
	// The encode process starts with us: its sound takes longest to come up.
	s.enc.pause(true)
	s.wg.Go(func() { s.enc.run(ctx) })
	s.wg.Go(func() { s.watchInstance(ctx) })
	s.loop(ctx)
	s.end(ctx)
	if cause := context.Cause(ctx); !errors.Is(cause, errStopped) && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// loop runs what was posted and what is due, until ctx ends.
func (s *session) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
		s.drain()
		now := time.Now()
		next := s.transmit(now)
		s.tell(now)
		s.orphaned(now)
		s.followAddresses(now)
		s.settle() // while pictures come, their process's States wake us for it
		s.resting(now)
		timer.Reset(min(time.Until(next), time.Until(s.toldAt.Add(stateEvery))))
	}
}

func (s *session) drain() {
	s.mu.Lock()
	events := s.events
	s.events = nil
	s.mu.Unlock()
	for _, f := range events {
		f()
	}
}

// end says farewell to viewers and daemons and ends what was started.
func (s *session) end(context.Context) {
	s.drain()
	for _, v := range s.viewers {
		s.dismiss(v, "the session has ended")
	}
	s.transmit(time.Now())
	s.toldAt = time.Time{}
	s.tell(time.Now()) // what was measured last
	s.hub.Close(farewell)
	s.wg.Wait()
	s.live.input.Store(nil)
}

// message takes what a daemon says.
func (s *session) message(m local.Message) {
	switch m.Kind {
	case local.KindStop:
		s.log.Info("stream stops", "reason", m.Reason)
		s.stop(errStopped)
	case local.KindAdmit:
		if m.Screen != nil {
			s.resize(*m.Screen)
		}
	case local.KindClaim:
		s.claimed(m)
	case local.KindShares:
		if m.Shares != nil {
			s.setShares(*m.Shares)
		}
	case local.KindSignal:
		if m.Signal != nil {
			s.signal(*m.Signal)
		}
	}
}

func (s *session) resize(size api.Screen) {
	if size.FPS == 0 {
		size.FPS = s.screen.FPS
	}
	if size.Density == 0 {
		size.Density = s.screen.Density
	}
	size, err := size.Normalize()
	if err != nil {
		s.log.Warn("resize refused", "error", err)
		return
	}
	if size == s.screen {
		return
	}
	s.screen = size
	for _, v := range s.viewers {
		if v.peer != nil {
			v.peer.SetLimits(s.limits())
		}
	}
	if i := s.live.input.Load(); i != nil {
		i.Resize(size.Width, size.Height)
	}
	s.configure()
}

// configure tells the encode process what to do, once the display is known.
func (s *session) configure() {
	if s.instance.Display == "" {
		return
	}
	codec := s.codec
	if codec == "" {
		codec = s.spec.Codecs[0]
	}
	grant, err := s.ladder.assign(codec, s.screen)
	if err != nil && grant.Pool == "" {
		s.noRoom(err)
		return
	}
	if err != nil {
		s.log.Warn("no engine has room for the stream's new shape: it stays where it is", "error", err)
	}
	s.steps.set(s.screen, codec, s.spec.App.Video.Content)
	s.live.sizes.set(s.screen, s.steps.quarters(), time.Now())
	limits := s.limits()
	kbps := s.kbps
	if kbps == 0 {
		kbps = int(float64(limits.MaxKbps) * defaultPreroll)
	}
	s.enc.configure(media.Configure{
		Display: s.instance.Display, XAuth: s.instance.XAuth, Pulse: s.instance.Pulse,
		Video: !s.blind, Audio: s.instance.Pulse != "", Codec: codec, Pool: grant.Pool, Device: grant.Device, Screen: s.screen, Preset: s.spec.Preset, Content: s.spec.App.Video.Content,
		BitrateKbps: max(min(kbps, limits.MaxKbps), limits.MinKbps),
	})
	if s.kbps > 0 { // size and rate are another shape's now
		s.encodeAt(s.kbps)
	}
}

// limits are the bitrates between which the picture is streamed.
func (s *session) limits() media.Limits {
	l := media.BitrateLimits(s.screen)
	if most := s.spec.App.Video.MaxKbps; most > 0 {
		l.MaxKbps = most
	}
	return l
}

// fail says that the stream cannot go on; the daemon then ends the session.
func (s *session) fail(why string) {
	if s.failed == "" {
		s.log.Error("stream cannot go on", "reason", why)
		s.failed = why
	}
}
