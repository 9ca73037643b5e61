package edge

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// TestClaim holds that a started instance takes its session's screen and data, that
// they are written down when the command is acknowledged, and that the next daemon
// knows them.
func TestClaim(t *testing.T) {
	w := newWorld(t)
	c := w.start()
	w.wait(c.Session, api.ObservedRunning)
	c.Spec.Screen = api.Screen{Width: 641, Height: 480}
	c.Spec.Codecs, c.Spec.ExtraData = []api.Codec{api.H264}, json.RawMessage(`{"level":7}`)
	for range 2 { // repeating it changes nothing more
		if ack := w.claim(c); !ack.OK {
			t.Fatalf("claim was refused: %+v", ack)
		}
		spec, err := w.cfg.Run.Session(c.Session, 1).ReadSpec()
		if err != nil || string(spec.ExtraData) != `{"level":7}` || spec.Screen.Width != 642 || !spec.Claimed || spec.Warm || len(spec.App.Command) == 0 {
			t.Fatalf("written down is %+v, %v", spec, err)
		}
	}
	until(t, "the shim's screen", 5*time.Second, func() bool { return w.bus.last(c.Session).Screen.Width == 642 })
	w.restart()
	until(t, "the next daemon's report", 5*time.Second, func() bool {
		r := w.bus.last(c.Session)
		return r.Boot == w.cfg.Identity.Boot && r.Screen.Width == 642
	})
	for what, change := range map[string]func(*api.Command){
		"spec is missing": func(c *api.Command) { c.Spec = nil },
		"screen.width":    func(c *api.Command) { s := *c.Spec; s.Screen.Width = -1; c.Spec = &s },
		"does not run":    func(c *api.Command) { c.Generation = 9 },
	} {
		bad := c
		change(&bad)
		if ack := w.claim(bad); ack.OK || !strings.Contains(ack.Error, what) {
			t.Errorf("%s: answered %+v", what, ack)
		}
	}
}

// claim sends a claim with its spec.
func (w *world) claim(c api.Command) api.Ack {
	c.Verb, c.Boot = api.VerbClaim, w.cfg.Identity.Boot
	return w.a.onCommand(context.Background(), c)
}
