package stream

import "github.com/perigee-cloud/perigee/edge/local"

// claimed takes the size and the codecs of the session that a started instance
// was given to. It may come again, and after the client's first signal.
func (s *session) claimed(m local.Message) {
	if m.Spec == nil || s.spec.Claimed {
		return // said again: the screen may be a later one by now
	}
	if len(m.Spec.Codecs) > 0 {
		s.spec.Codecs = m.Spec.Codecs
	}
	s.spec.ExtraData, s.spec.Warm, s.spec.Claimed = m.Spec.ExtraData, false, true
	s.resize(m.Spec.Screen)
}
