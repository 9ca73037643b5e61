package edge

import (
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// claimWait bounds how long a command waits for the unit to take it.
const claimWait = time.Second

// claimed hands a session to the unit of a started instance.
type claimed struct {
	spec api.Spec
	done chan error // has room for one
}

// claim gives a started instance its session. It is acknowledged once that is
// written down, so that the next daemon knows it too.
func (a *Agent) claim(c api.Command) api.Ack {
	if c.Spec == nil {
		return refuse("spec is missing")
	}
	spec := *c.Spec
	var err error
	if spec.Screen, err = spec.Screen.Normalize(); err != nil {
		return refuse("%v", err)
	}
	u := a.session(c.Session)
	if u == nil || u.generation != c.Generation {
		return refuse("session does not run here")
	}
	x := claimed{spec: spec, done: make(chan error, 1)}
	late := time.NewTimer(claimWait)
	defer late.Stop()
	select {
	case u.claims <- x:
	case <-u.halted:
		return refuse("session does not run here")
	case <-a.leaving:
		return refuse("the daemon is leaving")
	case <-late.C:
		return refuse("the session is busy")
	}
	if err := <-x.done; err != nil {
		return refuse("%v", err)
	}
	return api.Ack{OK: true}
}

// claim takes what is the session's own; application, pool and preset are the
// instance's and stay. Of run's goroutine.
func (u *unit) claim(s api.Spec) error {
	next := u.spec
	next.Screen, next.Codecs, next.ExtraData, next.Warm, next.Claimed = s.Screen, s.Codecs, s.ExtraData, false, true
	if err := u.dir.WriteSpec(next); err != nil {
		return err
	}
	// Field by field: others read the pool at any time.
	u.spec.Screen, u.spec.Codecs, u.spec.ExtraData, u.spec.Warm, u.spec.Claimed = next.Screen, next.Codecs, next.ExtraData, false, true
	u.tellClaim()
	u.log.Info("started instance has its session")
	return nil
}

// tellClaim tells shim and stream whose they are, now and whenever they connect.
func (u *unit) tellClaim() {
	if !u.spec.Claimed {
		return
	}
	spec := u.spec
	m := local.Message{Kind: local.KindClaim, Screen: &spec.Screen, Spec: &spec}
	u.shimL.keep(m)
	if u.streams() {
		u.strmL.keep(m)
	}
}
