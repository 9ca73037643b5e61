package stream

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/input"
	"github.com/perigee-cloud/perigee/media/rtc"
)

// live is the short way past the loop: frames go from the encode process's
// socket straight to the connection, input straight to the display. Nothing is
// queued between: what the network does not take at once the encoder feels.
type live struct {
	peer   atomic.Pointer[rtc.Peer] // of the session's own client
	feeds  atomic.Pointer[[]*feed]  // of guests
	input  atomic.Pointer[input.Injector]
	inputs atomic.Uint64 // ids given
	meter  meter
	sizes  sizes
}

func (l *live) frame(f media.Frame) {
	defer l.fan(f) // the client's own first
	p := l.peer.Load()
	if p == nil {
		return
	}
	stamp, sent, _ := p.WriteFrame(f) // the connection's own state tells of its end
	if !sent || f.Kind != media.Video {
		return
	}
	if told := l.meter.picture(f, stamp, media.Now()); told != nil {
		_ = p.Tell(typeFrame, told) // a measurement less
	}
}

func (l *live) restarted() {
	if p := l.peer.Load(); p != nil {
		p.Restarted()
	}
	if feeds := l.feeds.Load(); feeds != nil {
		for _, f := range *feeds {
			f.restarted()
		}
	}
}

// watchInstance waits for the display, then follows the shim's state.
func (s *session) watchInstance(ctx context.Context) {
	every, begun, news := displayPoll, time.Now(), time.Now()
	var last local.InstanceState
	for {
		st, err := s.dir.ReadInstance()
		switch {
		case err == nil && st != last:
			last, news = st, time.Now()
			s.post(func() { s.instanceIs(ctx, st) })
			if st.Display != "" {
				every = instancePoll
			}
		case last.Display == "" && time.Since(begun) > displayWait:
			s.post(func() { s.fail("the instance has no display") })
			return
		case every == instancePoll && time.Since(news) > instanceNews:
			every = instanceCalm
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

func (s *session) instanceIs(ctx context.Context, st local.InstanceState) {
	fresh := st.Display != "" && (st.Display != s.instance.Display || st.XAuth != s.instance.XAuth)
	s.instance = st
	if fresh {
		s.wg.Go(func() { s.inject(ctx, st) })
		if c := s.spec.App.Permissions.Clipboard; c.In() || c.Out() {
			s.wg.Go(func() { s.keepClipboard(ctx, st) })
		}
		if s.spec.App.Permissions.Gamepads.Allowed() {
			s.wg.Go(func() { s.keepGamepads(ctx) })
		}
	}
	s.configure()
}

const inputRetry = 200 * time.Millisecond

// inject keeps a connection to the display for input.
func (s *session) inject(ctx context.Context, st local.InstanceState) {
	said := false
	for ctx.Err() == nil {
		// The size as it is now is told by resize, too.
		i, err := input.Open(ctx, input.Config{Display: st.Display, XAuth: st.XAuth,
			Width: s.spec.Screen.Width, Height: s.spec.Screen.Height, Log: s.log})
		if err == nil {
			said = false
			s.live.input.Store(i)
			s.post(func() { i.Resize(s.screen.Width, s.screen.Height) })
			select {
			case <-i.Done():
			case <-ctx.Done():
			}
			s.live.input.CompareAndSwap(i, nil)
			i.Close()
		} else if !said && ctx.Err() == nil {
			said = true
			s.log.Warn("display takes no input yet", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(inputRetry):
		}
	}
}

// control takes a message of the control channel, on the connection's own goroutine.
func (s *session) control(v *viewer, c rtc.Control) {
	came := media.Now()
	switch {
	case c.Type == "stream::disconnect":
		s.post(func() { s.leave(v) })
		return
	case !v.active.Load():
		return
	case c.Type == typeMeter:
		if !v.guest() {
			s.live.meter.listen()
		}
		s.post(func() { v.listens = true; s.tellSeat(v); s.tellKey(v); s.tellExchange(v) })
		return
	case c.Type == typeShown:
		if v.guest() {
			return // was told nothing
		}
		if err := s.live.meter.shown(c.Data); err != nil {
			s.log.Debug("measurement not understood", "error", err)
		}
		return
	}
	if !v.seat.May(api.MayInput) {
		return
	}
	done, err := s.gamepads.handle(v.first, c.Type, c.Data)
	i := s.live.input.Load()
	if i != nil && !done && err == nil {
		screen, picture := s.live.sizes.shown(time.Now(), v.trip())
		done, err = i.Handle(v.driver(), c.Type, onScreen(c, screen, picture))
	}
	if !v.active.Load() { // it left meanwhile
		s.gamepads.leave(v.first)
		if i != nil {
			i.Release(v.driver())
		}
	}
	if err != nil {
		s.log.Debug("input not understood", "error", err)
	}
	if done {
		in := media.Input{ID: s.live.inputs.Add(1), At: media.Now()}
		told := injected{id: in.ID, client: c.ID, came: came, at: in.At}
		if v.guest() {
			told.client = 0 // numbered by another page
		}
		s.live.meter.input(told)
		s.enc.input(in)
	}
}
