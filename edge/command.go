package edge

import (
	"context"
	"errors"
	"fmt"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/instance"
	"github.com/perigee-cloud/perigee/edge/local"
)

func refuse(format string, args ...any) api.Ack {
	return api.Ack{Error: fmt.Sprintf(format, args...)}
}

// onCommand does what a command says; repeating one changes nothing more.
func (a *Agent) onCommand(_ context.Context, c api.Command) api.Ack {
	if c.Boot != "" && c.Boot != a.cfg.Identity.Boot {
		return refuse("meant for another start of this daemon")
	}
	if c.Verb == api.VerbDrain {
		a.log.Info("node drains") // the schedulers send no more starts: nothing else changes here
		return api.Ack{OK: true}
	}
	if !api.ValidID(string(c.Session)) || c.Generation == 0 {
		return refuse("session %q generation %d cannot be", c.Session, c.Generation)
	}
	switch c.Verb {
	case api.VerbStart:
		return a.start(c)
	case api.VerbStop:
		a.stop(c)
		return api.Ack{OK: true}
	case api.VerbAdmit:
		return a.admit(c)
	case api.VerbLog:
		return a.showLog(c)
	case api.VerbShares:
		return a.share(c)
	case api.VerbEnter:
		return a.enter(c)
	case api.VerbClaim:
		return a.claim(c)
	default:
		return refuse("verb %q is not known", c.Verb)
	}
}

func (a *Agent) start(c api.Command) api.Ack {
	if c.Spec == nil {
		return refuse("spec is missing")
	}
	spec := *c.Spec
	var err error
	if spec.App, err = spec.App.Normalize(); err != nil {
		return refuse("%v", err)
	}
	if spec.App.Kind == api.AppExternal {
		return refuse("application kind %q does not run on a node", spec.App.Kind)
	}
	if spec.Screen, err = spec.Screen.Normalize(); err != nil {
		return refuse("%v", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.units[c.Session]
	if old != nil && old.generation > c.Generation {
		return api.Ack{Error: "a newer generation runs here", Stop: true}
	}
	if last, ok := a.ended[c.Session]; ok && last.Generation >= c.Generation {
		// It ran and ended: the report was lost on the way, or forgotten.
		a.reportLocked(last)
		return api.Ack{OK: true}
	}
	switch {
	case !a.ready:
		return refuse("the daemon is leaving")
	case old != nil && old.generation == c.Generation:
		return api.Ack{OK: true}
	case len(a.units) >= maxUnits:
		return refuse("%d sessions run here already", maxUnits)
	}
	u := a.newUnit(c.Session, c.Generation, spec)
	if old != nil { // its reports are for nobody any more; it cleans up by itself
		old.ask(api.Command{Verb: api.VerbStop, Reason: api.ReasonSuperseded, Force: true})
	}
	a.units[c.Session] = u
	a.work.Go(func() { u.run(false) })
	return api.Ack{OK: true}
}

func (a *Agent) stop(c api.Command) {
	u := a.session(c.Session)
	if u != nil && u.generation <= c.Generation {
		u.ask(c)
		return
	}
	if u != nil {
		return // the newer one that runs is not meant
	}
	// Nothing runs: say so, or the schedulers would wait for it.
	a.mu.Lock()
	defer a.mu.Unlock()
	last, ok := a.ended[c.Session]
	if !ok || last.Generation != c.Generation {
		last = api.Report{
			Session: c.Session, Generation: c.Generation, Observed: api.ObservedStopped, Reason: c.Reason,
		}
		a.rememberLocked(last)
	}
	a.reportLocked(last)
}

// end stops a generation that is not wanted any more.
func (a *Agent) end(id api.SessionID, g api.Generation, why api.Reason) {
	if u := a.session(id); u != nil && u.generation == g {
		u.ask(api.Command{Verb: api.VerbStop, Reason: why})
	}
}

func (a *Agent) admit(c api.Command) api.Ack {
	u := a.session(c.Session)
	if u == nil || u.generation != c.Generation {
		return refuse("session does not run here")
	}
	if c.Screen != nil && c.Screen.Width != 0 {
		size, err := c.Screen.Normalize()
		if err != nil {
			return refuse("%v", err)
		}
		c.Screen = &size
	} else {
		c.Screen = nil
	}
	u.ask(c)
	return api.Ack{OK: true}
}

// share tells the session's stream which shares there are.
func (a *Agent) share(c api.Command) api.Ack {
	u := a.session(c.Session)
	switch {
	case c.Shares == nil:
		return refuse("shares are missing")
	case u == nil || u.generation != c.Generation || !u.streams():
		return refuse("session does not run here")
	}
	u.strmL.keep(local.Message{Kind: local.KindShares, Shares: c.Shares})
	return api.Ack{OK: true}
}

// adoptAll takes over what the run directory shows. Of two generations of one
// session only the newer is kept.
func (a *Agent) adoptAll() error {
	dirs, err := a.cfg.Run.Sessions()
	if err != nil {
		return err
	}
	newest := map[api.SessionID]api.Generation{}
	for _, d := range dirs {
		id, g, err := d.ID()
		if err == nil && g > newest[id] {
			newest[id] = g
		}
	}
	for _, d := range dirs {
		id, g, err := d.ID()
		if err != nil {
			continue // Sessions lists no such folder
		}
		spec, err := d.ReadSpec()
		u := a.newUnit(id, g, spec)
		if _, over := u.lastReport(); err != nil && !over { // of an ended one only that is kept
			a.log.Warn("a session's folder has no readable spec", "session", id, "error", err)
		}
		u.adopted = true
		if g < newest[id] {
			u.ask(api.Command{Verb: api.VerbStop, Reason: api.ReasonSuperseded, Force: true})
		} else {
			a.mu.Lock()
			a.units[id] = u
			a.mu.Unlock()
		}
		a.work.Go(func() { u.run(true) })
	}
	if len(dirs) > 0 {
		a.log.Info("sessions of an earlier daemon were found", "count", len(dirs))
	}
	return nil
}

// forget takes a finished unit off the books once its last report is acknowledged.
func (a *Agent) forget(u *unit, last api.Report) {
	if err := removeFolder(u.dir); err != nil {
		u.log.Warn("folder of an ended session is left", "error", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.units[u.id] == u {
		delete(a.units, u.id)
	}
	a.rememberLocked(last)
}

func (a *Agent) rememberLocked(last api.Report) {
	if old, ok := a.ended[last.Session]; !ok {
		a.endedQ = append(a.endedQ, last.Session)
	} else if old.Generation > last.Generation {
		return
	}
	a.ended[last.Session] = last
	for len(a.endedQ) > maxEnded {
		delete(a.ended, a.endedQ[0])
		a.endedQ = a.endedQ[1:]
	}
}

// reportLocked sends a report of something that does not run (any more), once
// at a time for each session.
func (a *Agent) reportLocked(r api.Report) {
	if !a.ready || a.telling[r.Session] {
		return
	}
	a.telling[r.Session] = true
	a.talk.Go(func() {
		rep := newReporter(a)
		rep.set(r)
		rep.run(nil)
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.telling, r.Session)
	})
}

// scrap removes all that a session's processes may have left.
func scrap(dir local.Session) error {
	return errors.Join(instance.Clean(dir), removeFolder(dir))
}
