package stream

import (
	"encoding/json"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
)

// typeDevices tells a page which of its own devices the application may have:
// devicesTold. It is sent once the control channel is there.
const typeDevices = "perigee::devices"

// typeMicrophone is the wire contract's: the client may open its microphone.
const typeMicrophone = "enable-microphone"

type devicesTold struct {
	Microphone deviceTold `json:"microphone"`
	Camera     deviceTold `json:"camera"`
}

type deviceTold struct {
	Taken  bool   `json:"taken"`            // what it sends is used
	Reason string `json:"reason,omitempty"` // why not
}

// asked is what of its devices a client would give.
type asked struct{ microphone, camera bool }

// Why a device of a client is not taken.
const (
	noMicrophone = "the application has no use for a microphone: its manifest lacks permissions.microphone"
	noRight      = "this seat has no right to be heard: it needs the right microphone"
	noSound      = "the instance has no sound server"
	noCamera     = "cameras are not supported: an application sees one only as a video device of the node's kernel (v4l2loopback), which no session is given"
)

// microphone says why a viewer's microphone is not taken; "" = it is.
func (s *session) microphone(v *viewer) string {
	switch {
	case !s.spec.App.Permissions.Microphone:
		return noMicrophone
	case !v.seat.May(api.MayMicrophone):
		return noRight
	case s.instance.Display != "" && s.instance.Pulse == "":
		return noSound
	}
	return ""
}

// tellDevices answers a client that would give its microphone or camera. A page
// of ours is told why not; Canonical's opens its microphone when it is told to,
// and no camera, as nothing asks for one.
func (s *session) tellDevices(v *viewer) {
	if v.peer == nil || v.asked == (asked{}) {
		return
	}
	told := devicesTold{Camera: deviceTold{Reason: noCamera}}
	told.Microphone.Reason = s.microphone(v)
	told.Microphone.Taken = v.asked.microphone && told.Microphone.Reason == ""
	if v.asked.camera {
		s.log.Info("camera refused", "viewer", v.id, "reason", told.Camera.Reason)
	}
	if v.asked.microphone && !told.Microphone.Taken {
		s.log.Info("microphone refused", "viewer", v.id, "reason", told.Microphone.Reason)
	}
	if err := v.peer.Tell(typeDevices, told); err != nil {
		s.log.Debug("page was not told of its devices", "viewer", v.id, "error", err)
	}
	if !told.Microphone.Taken {
		return
	}
	// The contract wants a string of JSON there.
	wish, _ := json.Marshal(struct { // numbers only: cannot fail
		Rate     int `json:"freq"`
		Channels int `json:"channels"`
		Samples  int `json:"samples"`
	}{media.SampleRate, 1, int(media.SampleRate * media.FrameDuration / time.Second)})
	if err := v.peer.Tell(typeMicrophone, string(wish)); err != nil {
		s.log.Debug("client was not asked for its microphone", "viewer", v.id, "error", err)
	}
}

// voiceMost is how many packets a second of one microphone are taken: browsers
// send 50, and 100 with the shortest frames they know.
const voiceMost = 200

// voice hands a viewer's microphone to the encode process, past the loop.
func (s *session) voice(v *viewer) func(uint16, []byte) {
	s.voices++
	number := s.voices
	var begun time.Time
	count := 0
	return func(seq uint16, packet []byte) { // from one goroutine
		if v.gone.Load() {
			return
		}
		if now := time.Now(); now.Sub(begun) >= time.Second {
			begun, count = now, 0
		}
		if count++; count <= voiceMost {
			s.enc.voice(media.Voice{Viewer: number, Seq: seq, Data: packet})
		}
	}
}
