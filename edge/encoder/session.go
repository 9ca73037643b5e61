package encoder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/capture"
	"github.com/perigee-cloud/perigee/media/encode"
)

const (
	// stateEvery is how often the stream process hears that we are alive; it
	// kills a silent one after a second.
	stateEvery = 300 * time.Millisecond // media.CalmEvery while nothing happens
	// displayDeadline is how long the X server may take to come up.
	displayDeadline = 15 * time.Second
)

// session is the one owner of everything that run's goroutine touches; the
// other goroutines talk to it through channels.
type session struct {
	conn  *media.Conn
	log   *slog.Logger
	start int64 // media.Now when the process began: PTS 0

	cfg        media.Configure
	configured bool
	paused     bool

	screen     *capture.Screen
	screenStop context.CancelFunc
	opened     chan opening
	screenEnd  chan error
	ticket     int // counts openings: the result of an outdated one is closed

	sound  *sound
	voices voices

	open        func(encode.Config) (Video, error)
	guard       *guard
	engineFault bool // what ends the process is the encoder's fault

	picture picture
	inputs  inputs
	stats   stats

	calm  bool // the stream process bears longer silence while nothing happens
	tick  *time.Ticker
	rests bool // tick is slow
}

// opening is the result of opening a display.
type opening struct {
	ticket int
	screen *capture.Screen
	err    error
}

func newSession(conn *media.Conn, log *slog.Logger) *session {
	s := &session{
		conn: conn, log: log, start: media.Now(), open: openVideo,
		opened:    make(chan opening, 1),
		screenEnd: make(chan error, 1),
		voices:    voices{log: log},
	}
	s.guard = newGuard(s.sayBusy)
	return s
}

// errEngine marks what is the fault of the encoder or its driver: another engine
// may do.
var errEngine = errors.New("the encoder failed")

func openVideo(c encode.Config) (Video, error) { return encode.NewVideo(c) }

// errEnd says that the process cannot go on; the stream process was told why.
var errEnd = errors.New("encode process ends")

// run handles messages, pictures and timers until ctx ends or it cannot go on.
func (s *session) run(ctx context.Context, messages <-chan any) error {
	s.tick = time.NewTicker(stateEvery)
	defer s.tick.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		// First what is due, then wait.
		wait, err := s.advance()
		if err == nil {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return nil
			case m := <-messages:
				s.stir()
				err = s.handle(ctx, m)
			case o := <-s.opened:
				err = s.adopt(ctx, o)
			case err = <-s.screenEnd:
			case <-s.drawn():
				s.stir()
				s.picture.pending, s.picture.drawnAt = true, media.Now()
				s.picture.pacer.Drawn(time.Duration(s.picture.drawnAt))
			case <-timer.C:
			case <-s.tick.C:
				s.settleBitrate()
				s.rest()
				err = s.sendState("")
			}
		}
		if ctx.Err() != nil {
			return nil // the socket closed under us
		}
		if err != nil {
			s.engineFault = errors.Is(err, errEngine)
			if tell := s.sendState(err.Error()); tell != nil {
				s.log.Warn("encode process could not say why it ends", "error", tell)
			}
			return fmt.Errorf("%w: %w", errEnd, err)
		}
	}
}

// rest makes States rare after a time without a picture, when none is wanted.
func (s *session) rest() {
	wanted := !s.paused && (s.picture.enc == nil || s.picture.wantKey || s.picture.pending)
	if s.calm && !s.rests && !wanted && len(s.stats.times) == 0 {
		s.rests = true
		s.tick.Reset(media.CalmEvery)
	}
}

// stir makes them frequent again: something happens.
func (s *session) stir() {
	if s.rests {
		s.rests = false
		s.tick.Reset(stateEvery)
	}
}

// drawn is the screen's signal; a nil channel, which never fires, without one
// or while nobody watches.
func (s *session) drawn() <-chan struct{} {
	if s.screen == nil || s.paused {
		return nil
	}
	return s.screen.Drawn()
}

func (s *session) handle(ctx context.Context, m any) error {
	switch m := m.(type) {
	case media.Configure:
		return s.configure(ctx, m)
	case media.Bitrate:
		s.follow(m)
	case media.Input:
		s.inputs.add(m)
		s.picture.pacer.Input(time.Duration(m.At))
	case media.Pause:
		s.paused = m.Paused
		s.sound.pause(m.Paused)
		if !m.Paused {
			s.picture.wantKey, s.picture.pending = true, true
			s.picture.drawnAt = 0 // drawn while nobody watched: that long it did not wait
		}
	case media.Voice:
		s.voices.take(ctx, s.cfg.Pulse, m)
	case keyframe:
		s.picture.wantKey = true
	}
	return nil
}

// follow takes a new bitrate, and with it another rate of pictures. The encoder
// keeps the configured one, by which it spreads the bitrate, so it is told as
// much more as it gets fewer: no encoder need be opened again, and no keyframe
// sent, on a way that has just become narrow.
func (s *session) follow(b media.Bitrate) {
	fps := s.cfg.Screen.FPS
	if b.FPS > 0 {
		fps = min(fps, b.FPS)
	}
	if s.configured && fps != s.picture.fps {
		s.picture.fps, s.picture.pacer = fps, capture.NewPacer(fps)
	}
	if s.picture.quarters != b.Quarters {
		s.picture.quarters = b.Quarters
		if s.screen != nil {
			s.screen.Touch() // a still screen is shown in the other size, too
			s.picture.pending = true
		}
	}
	s.picture.kbps = b.Kbps
	if fps > 0 {
		s.picture.kbps = b.Kbps * s.cfg.Screen.FPS / fps
	}
	s.settleBitrate()
}

// configure takes a new configuration; only what differs is done again.
func (s *session) configure(ctx context.Context, c media.Configure) error {
	if err := checkConfigure(c); err != nil {
		return err
	}
	old, first := s.cfg, !s.configured
	s.cfg, s.configured = c, true
	s.picture.kbps = wantedKbps(c)
	// Sound first: a sound server takes longer to give its first block.
	if first || c.Pulse != old.Pulse || c.Audio != old.Audio {
		s.sound.close()
		s.sound = nil
		if c.Audio && c.Pulse != "" {
			s.sound = startSound(ctx, soundConfig{server: c.Pulse, conn: s.conn, start: s.start, log: s.log})
			s.sound.pause(s.paused)
		}
	}
	if first || c.Screen.FPS != old.Screen.FPS || c.Codec != old.Codec || c.Threads != old.Threads || c.Pool != old.Pool || c.Device != old.Device {
		s.picture.drop()
		s.picture.fps, s.picture.pacer = c.Screen.FPS, capture.NewPacer(c.Screen.FPS)
	}
	if first || c.Display != old.Display || c.XAuth != old.XAuth || c.Cursor != old.Cursor || c.Video != old.Video {
		s.closeScreen()
		if c.Video {
			s.openScreen(ctx)
		}
		return nil
	}
	if s.screen != nil && (c.Screen.Width != old.Screen.Width || c.Screen.Height != old.Screen.Height) {
		if err := s.screen.Resize(c.Screen.Width, c.Screen.Height); err != nil {
			return err
		}
	}
	if s.screen != nil {
		s.screen.Touch()
	}
	s.picture.pending, s.picture.wantKey = true, true
	s.settleBitrate()
	return nil
}

// checkConfigure refuses what cannot work, before anything is touched.
func checkConfigure(c media.Configure) error {
	if !c.Video {
		return nil
	}
	return encode.Config{
		Codec: c.Codec, Pool: c.Pool, Device: c.Device, Width: c.Screen.Width, Height: c.Screen.Height, FPS: c.Screen.FPS,
		BitrateKbps: wantedKbps(c), Threads: c.Threads, Preset: c.Preset,
	}.Check()
}

// wantedKbps is the bitrate to begin with.
func wantedKbps(c media.Configure) int {
	if c.BitrateKbps == 0 {
		return media.BitrateLimits(c.Screen).MaxKbps
	}
	return c.BitrateKbps
}

// openScreen opens the display without holding up the messages.
func (s *session) openScreen(ctx context.Context) {
	s.ticket++
	ticket, cfg := s.ticket, capture.Config{
		Display: s.cfg.Display, XAuth: s.cfg.XAuth, Cursor: s.cfg.Cursor,
		Width: s.cfg.Screen.Width, Height: s.cfg.Screen.Height, Log: s.log,
	}
	go func() {
		wait, cancel := context.WithTimeout(ctx, displayDeadline)
		defer cancel()
		screen, err := capture.Open(wait, cfg)
		select {
		case s.opened <- opening{ticket: ticket, screen: screen, err: err}:
		case <-ctx.Done():
			if screen != nil {
				screen.Close()
			}
		}
	}()
}

// adopt takes an opened display.
func (s *session) adopt(ctx context.Context, o opening) error {
	if o.ticket != s.ticket { // configured again meanwhile
		if o.screen != nil {
			o.screen.Close()
		}
		return nil
	}
	if o.err != nil {
		return o.err
	}
	s.screen = o.screen
	run, stop := context.WithCancel(ctx)
	s.screenStop = stop
	go func(screen *capture.Screen) {
		if err := screen.Run(run); err != nil && run.Err() == nil {
			select {
			case s.screenEnd <- err:
			case <-run.Done():
			}
		}
	}(o.screen)
	// The size may have been changed while it was opening.
	if err := s.screen.Resize(s.cfg.Screen.Width, s.cfg.Screen.Height); err != nil {
		return err
	}
	s.picture.pending = true
	return nil
}

func (s *session) closeScreen() {
	s.ticket++
	if s.screen != nil {
		s.screenStop()
		s.screen.Close()
		s.screen = nil
	}
}

// close frees everything; the goroutines of run end with its context.
func (s *session) close() {
	s.closeScreen()
	s.sound.close()
	s.voices.close()
	s.picture.drop()
}

// sendState tells the stream process how we are; problem is why we end.
func (s *session) sendState(problem string) error {
	st := s.stats.take()
	st.Error, st.EngineFault = problem, s.engineFault
	st.Ready = s.picture.sent > 0 && problem == ""
	st.Drawn, st.Rests = s.picture.drawn, s.rests
	if s.picture.sent > 0 {
		st.Content, st.Motion = s.content(), s.picture.motion.percent(media.Now())
	}
	st.Screen = api.Screen{FPS: s.cfg.Screen.FPS, Density: s.cfg.Screen.Density, Width: s.picture.width, Height: s.picture.height}
	if s.picture.enc != nil {
		st.Encoder = s.picture.enc.Name()
	}
	return s.conn.Send(media.TypeState, st)
}
