package stream

import (
	"time"

	"github.com/perigee-cloud/perigee/media/rtc"
)

// answer sends a frame to the client; one whose websocket has closed needs none.
func (s *session) answer(v *viewer, f []byte) {
	if !v.parted.IsZero() {
		return
	}
	if err := v.link.Send(f); err != nil {
		s.log.Warn("signalling frame lost", "viewer", v.id, "error", err)
	}
}

func (s *session) peerState(v *viewer, st rtc.State) {
	s.log.Info("viewer's connection", "viewer", v.id, "state", st)
	switch st {
	case rtc.StateConnected:
		v.away, v.seeking = time.Time{}, time.Time{}
		if v.connected {
			return
		}
		v.connected = true
		s.enc.pause(false)
		if v.guest() {
			s.keys.soon()
		} else {
			s.handover = time.Time{}
			s.keys.now()
		}
		s.tellViewers()
	case rtc.StateDisconnected:
		s.lost(v)
	case rtc.StateClosed:
		s.leave(v)
	}
}

// transmit sends what links owe, ends those that are over, and says when the
// next is due.
func (s *session) transmit(now time.Time) time.Time {
	next := now.Add(stateEvery)
	for id, v := range s.viewers {
		s.patience(v, now)
		if v.deaf && !v.over {
			continue
		}
		for _, sig := range v.link.Due(now) {
			s.send(sig)
		}
		// A gateway that died after the connection was made costs only the link.
		if v.link.Stalled(now) && (v.connected || !v.away.IsZero()) {
			v.deaf = true
			continue
		}
		_, closed := v.link.Closed()
		if v.over && (v.deaf || closed || v.link.Drained()) || v.link.Stalled(now) {
			s.leave(v)
			delete(s.viewers, id)
			s.forgotten = append(s.forgotten, id)
			s.forgotten = s.forgotten[max(0, len(s.forgotten)-maxForgotten):]
			continue
		}
		if at, ok := v.link.Next(); ok && at.Before(next) {
			next = at
		}
	}
	return next
}

// patience ends viewers that never come to a connection, and those that do not
// come back to it.
func (s *session) patience(v *viewer, now time.Time) {
	switch {
	case v.over:
	case v.connected:
		if !v.seeking.IsZero() && now.After(v.seeking) {
			s.lost(v)
		}
	case !v.away.IsZero():
		if now.Sub(v.away) > awayMost {
			s.leave(v)
		}
	case v.parted.IsZero() && now.Sub(v.begun) > signalMost:
		s.refuse(v, "signaling timed out")
	case !v.parted.IsZero() && now.Sub(v.parted) > connectMost:
		s.leave(v)
	}
}
