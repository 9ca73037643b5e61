package stream

import (
	"errors"
	"os"
	"time"

	"github.com/perigee-cloud/perigee/edge/local"
)

func (s *session) state() local.StreamState {
	e, at := s.enc.last(), s.ladder.current()
	st := local.StreamState{
		PID: os.Getpid(), Encoding: e.Ready && !s.enc.isPaused(), Drawn: e.Drawn > 0, Codec: s.codec, Pool: at.Pool, Engine: at.Engine,
		Screen: s.screen, Failed: s.failed, Inactive: s.inactive, Latency: s.latency, Connected: s.client(), SentBytes: s.sent, Kbps: s.kbps,
	}
	if v := s.current; v != nil {
		st.Viewer = v.number
		st.Connected = st.Connected || time.Now().Before(s.handover)
		st.RoundTripMS = v.roundTrip
	}
	return st
}

// tell tells the daemons the state, on change and every second.
func (s *session) tell(now time.Time) {
	st := s.state()
	regular := now.Sub(s.toldAt) >= stateEvery
	if st == s.told && !regular {
		return
	}
	if v := s.current; regular && v != nil && v.connected {
		v.roundTrip = float64(v.peer.RoundTrip().Microseconds()) / 1000
		st.RoundTripMS = v.roundTrip
	}
	if regular {
		for _, v := range s.viewers {
			if v.peer != nil {
				now := v.peer.Sent()
				s.sent, v.sent = s.sent+now-v.sent, now
			}
		}
		st.SentBytes = s.sent
		if l := s.live.meter.take(); l != nil {
			s.latency, st.Latency = l, l
		}
	}
	s.told, s.toldAt = st, now
	s.hub.Tell(local.Message{Kind: local.KindState, Stream: &st})
}

// orphaned ends the process when its folder is gone or nobody wants it.
func (s *session) orphaned(now time.Time) {
	if now.Sub(s.lookedAt) < lookEvery {
		return
	}
	s.lookedAt = now
	if _, err := os.Stat(string(s.dir)); errors.Is(err, os.ErrNotExist) {
		s.log.Info("session folder is gone, stream ends")
		s.stop(errStopped)
		return
	}
	if s.hub.Lonely() == 0 || s.count() > 0 {
		s.aloneAt = now
		return
	}
	if now.Sub(s.aloneAt) >= s.cfg.OrphanAfter {
		s.log.Warn("nobody wants this stream any more", "after", s.cfg.OrphanAfter)
		s.stop(errStopped)
	}
}
