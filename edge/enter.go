package edge

import (
	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// enter says whether links into an instance will find it.
func (a *Agent) enter(c api.Command) api.Ack {
	u := a.session(c.Session)
	if u == nil || u.generation != c.Generation || u.report().Observed != api.ObservedRunning {
		return refuse("the instance does not run")
	}
	return api.Ack{OK: true}
}

// signal hands on a signal of a link: to the shim of who enters the instance,
// else to the stream.
func (u *unit) signal(s api.Signal) {
	m := local.Message{Kind: local.KindSignal, Signal: &s}
	if s.Role == api.RoleEnter {
		u.shimL.send(m)
		return
	}
	u.strmL.send(m)
}

// up sends a signal of one of the unit's processes towards its client.
func (u *unit) up(s api.Signal) {
	if err := u.a.cfg.Bus.SendSignal(s); err != nil {
		u.log.Debug("signal was dropped", "error", err) // its sender re-sends
	}
}
