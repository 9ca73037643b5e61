package instance

import (
	"context"
	"fmt"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// Pauses before an application is started again: twice the last one each time.
const (
	restartPause = 250 * time.Millisecond
	restartMost  = 10 * time.Second
)

// watch waits for the first reason to end, and serves what is asked meanwhile.
func (s *shim) watch(ctx context.Context) end {
	tick := time.NewTicker(min(s.cfg.Orphan/4, time.Second))
	defer tick.Stop()
	ping, stop := s.pinger()
	defer stop()
	var again <-chan time.Time // to start the application again
	ended := s.app.ended
	for {
		select {
		case <-ctx.Done():
			return end{observed: api.ObservedStopped}
		case m := <-s.hub.stops:
			return end{api.ObservedStopped, m.Reason, "", m.Force}
		case size := <-s.hub.sizes:
			s.resize(size)
		case spec := <-s.hub.claims:
			s.claimed(spec)
		case <-ended:
			s.visits.leave()
			e := s.appEnd()
			if !s.spec.App.OnExit.Again(e.observed == api.ObservedFailed, s.runs) {
				s.ended = true
				return e
			}
			ended, again = nil, time.After(min(restartPause<<min(s.runs, 16), restartMost))
			s.log.Warn("application ended and is started again", "message", e.message, "restarts", s.runs+1)
		case <-again:
			if e, ok := s.again(ctx); !ok {
				return e
			}
			ended, again = s.app.ended, nil
		case <-s.x.ended:
			return end{api.ObservedFailed, api.ReasonAppCrashed, "the X server ended: " + s.x.out.lastLine(), true}
		case <-s.sound.ended:
			if err := s.restoreSound(ctx); err != nil {
				return end{api.ObservedFailed, api.ReasonAppCrashed, "the sound server ended: " + err.Error(), true}
			}
		case now := <-ping:
			s.watchdog(now, again == nil)
		case <-tick.C:
			if s.hub.lonely() > s.cfg.Orphan {
				s.log.Warn("nobody has been connected: the instance ends", "for", s.cfg.Orphan)
				return end{api.ObservedStopped, api.ReasonIdle, "", false}
			}
		}
	}
}

// pinger ticks when windows are to be asked whether they answer.
func (s *shim) pinger() (<-chan time.Time, func()) {
	hang := s.spec.App.Watchdog.Hang()
	if hang == 0 {
		return nil, func() {}
	}
	t := time.NewTicker(min(hang/4, 5*time.Second))
	return t.C, t.Stop
}

// watchdog kills an application whose window does not answer.
func (s *shim) watchdog(now time.Time, runs bool) {
	w := s.x.control.windows.Load()
	if w == nil || !runs {
		return
	}
	if w.silent(now) < s.spec.App.Watchdog.Hang() {
		w.ping(now)
		return
	}
	if s.app.alive() {
		s.log.Warn("application hangs and is killed", "for", w.silent(now))
		s.hung = true
		s.app.kill(0)
	}
}

// again starts the application once more, with what is left of it removed.
func (s *shim) again(ctx context.Context) (end, bool) {
	s.runs++
	failed := func(err error) (end, bool) {
		return end{api.ObservedFailed, api.ReasonAppCrashed, "it could not be started again: " + err.Error(), true}, false
	}
	if err := s.app.end(); err != nil {
		return failed(err)
	}
	s.hung = false
	err := s.within(ctx, s.launch)
	if err == nil {
		err = s.hub.set(func(st *local.InstanceState) { st.Restarts = s.runs })
	}
	if err != nil {
		return failed(err)
	}
	return end{}, true
}

// appEnd says how the application ended.
func (s *shim) appEnd() end {
	status, sig := s.app.exit()
	if s.hung {
		return end{api.ObservedFailed, api.ReasonAppHung, fmt.Sprintf("its window has not answered for %s", s.spec.App.Watchdog.Hang()), true}
	}
	if status == 0 {
		return end{api.ObservedStopped, api.ReasonAppExited, "", true}
	}
	s.app.out.settle()
	last := s.app.out.lastLine()
	how := fmt.Sprintf("exited with status %d", status)
	if sig != 0 {
		how = "killed by " + sig.String()
	}
	if s.appG.oomKills() > 0 {
		how += fmt.Sprintf(", out of memory (limit %d MiB)", s.spec.App.Resources.MemoryMiB)
	}
	if s.runs > 0 {
		how += fmt.Sprintf(", after %d restarts", s.runs)
	}
	if last != "" {
		how += ": " + last
	}
	return end{api.ObservedFailed, api.ReasonAppCrashed, how, true}
}
