package stream

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	pionmedia "github.com/pion/webrtc/v4/pkg/media"

	"github.com/perigee-cloud/perigee/api"
)

// devices collects what a client hears of its own devices.
type devices struct {
	told  atomic.Pointer[devicesTold]
	asked atomic.Pointer[string] // the wire contract's wish for its microphone
}

func (c *client) devices() *devices {
	d := &devices{}
	c.control.OnMessage(func(m webrtc.DataChannelMessage) {
		var f struct {
			Type string
			Data json.RawMessage
		}
		if json.Unmarshal(m.Data, &f) != nil {
			return
		}
		switch f.Type {
		case typeDevices:
			var told devicesTold
			if json.Unmarshal(f.Data, &told) == nil {
				d.told.Store(&told)
			}
		case typeMicrophone:
			var text string
			if json.Unmarshal(f.Data, &text) == nil {
				d.asked.Store(&text)
			}
		}
	})
	return d
}

// speaks gives the client a microphone, as SDKs do before they answer.
func (c *client) speaks() *webrtc.TrackLocalStaticSample {
	c.t.Helper()
	track, err := webrtc.NewTrackLocalStaticSample(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, "microphone", "own")
	if err == nil {
		_, err = c.pc.AddTrack(track)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return track
}

// directions lists the m-lines of a kind in the server's offer by direction.
func (c *client) directions(kind string) []string {
	c.t.Helper()
	var out []string
	offers := c.said("offer")
	if len(offers) != 1 {
		c.t.Fatalf("%d offers", len(offers))
	}
	text, _ := offers[0]["sdp"].(string)
	sdp, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range strings.Split(string(sdp), "\r\nm=")[1:] {
		for _, d := range []string{"sendonly", "sendrecv", "recvonly", "inactive"} {
			if strings.HasPrefix(m, kind) && strings.Contains(m, "\r\na="+d) {
				out = append(out, d)
			}
		}
	}
	return out
}

func TestMicrophoneReachesTheEncodeProcess(t *testing.T) {
	r := start(t, func(_ *Config, s *api.Spec) { s.App.Permissions.Microphone = true })
	speak := func(id string, size int) *client {
		t.Helper()
		c := r.join(id)
		d, track := c.devices(), c.speaks()
		c.settings(map[string]any{"enable_microphone": true})
		got(t, c.open, "control channel")
		if got := c.directions("audio"); len(got) != 1 || got[0] != "sendrecv" {
			t.Errorf("the offer's sound is %v", got)
		}
		r.wait("word of its devices", func() bool { return d.told.Load() != nil && d.asked.Load() != nil })
		if told := d.told.Load(); !told.Microphone.Taken || told.Camera.Taken {
			t.Errorf("told %+v", *told)
		}
		if *d.asked.Load() != `{"freq":48000,"channels":1,"samples":480}` {
			t.Errorf("the client is asked for %s", *d.asked.Load())
		}
		deadline := time.Now().Add(patience)
		for heard := false; !heard; {
			if time.Now().After(deadline) {
				t.Fatal("the encode process hears nothing")
			}
			_ = track.WriteSample(pionmedia.Sample{Data: make([]byte, size), Duration: 20 * time.Millisecond})
			select {
			case p := <-c.pictures:
				heard = int(p.input%1_000_000) == size
			case <-time.After(20 * time.Millisecond):
			}
		}
		return c
	}
	speak("1-abc", 77)
	guest := speak("g1-abc", 78) // a second viewer, who holds every right
	guest.leave()
}

func TestDevicesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		may  bool
		seat api.Role
		who  string
		want string
	}{
		"by the manifest": {false, api.RoleControl, "1-abc", "permissions.microphone"},
		"by the seat":     {true, api.RoleViewer, "g1-abc", "right microphone"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(_ *Config, s *api.Spec) { s.App.Permissions.Microphone = c.may })
			v := r.joinAs(c.who, c.seat)
			d := v.devices()
			v.speaks()
			v.settings(map[string]any{"enable_microphone": true, "enable_camera": true})
			got(t, v.open, "control channel")
			if got := v.directions("audio"); len(got) != 1 || got[0] != "sendonly" {
				t.Errorf("the offer's sound is %v", got)
			}
			if got := v.directions("video"); len(got) != 1 || got[0] != "sendonly" {
				t.Errorf("the offer's pictures are %v: no camera is taken", got)
			}
			r.wait("word of its devices", func() bool { return d.told.Load() != nil })
			told := d.told.Load()
			if told.Microphone.Taken || !strings.Contains(told.Microphone.Reason, c.want) {
				t.Errorf("microphone: %+v, want a reason with %q", told.Microphone, c.want)
			}
			if told.Camera.Taken || !strings.Contains(told.Camera.Reason, "v4l2loopback") {
				t.Errorf("camera: %+v", told.Camera)
			}
			if d.asked.Load() != nil {
				t.Error("the client is asked for a microphone that is not taken")
			}
		})
	}
}
