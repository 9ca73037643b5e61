package stream

import (
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media/xvfb"
)

// watched runs a stream whose instance has a real display, and looks at that.
func watched(t *testing.T) (r *rig, eye *xgb.Conn, root xproto.Window) {
	t.Helper()
	display := xvfb.Start(t, "-screen", "0", "800x600x24").Display
	r = start(t)
	r.instance(local.InstanceState{Observed: api.ObservedRunning, Display: display})
	eye, err := xgb.NewConnDisplay(display)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(eye.Close)
	return r, eye, xproto.Setup(eye).DefaultScreen(eye).Root
}

func TestInputReachesDisplayAndEncoder(t *testing.T) {
	r, eye, root := watched(t)
	pointer := func() *xproto.QueryPointerReply {
		p, err := xproto.QueryPointer(eye, root).Reply()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	c := r.join("1-abc")
	c.watch()
	got(t, c.open, "control channel")
	say := func(text string) {
		if err := c.control.SendText(text); err != nil {
			t.Fatal(err)
		}
	}
	r.wait("pointer", func() bool { // the display is opened beside the connection
		say(`{"type":"input::mouse-move","data":{"x":123,"y":45,"rx":0,"ry":0}}`)
		p := pointer()
		return p.RootX == 123 && p.RootY == 45
	})
	say(`not json`)
	say(`{"type":"input::key","data":{"code":"x"}}`)
	say(`{"type":"vhal::get-all-prop-configs"}`)
	say(`{"type":"input::mouse-button","data":{"pressed":true,"button":1}}`)
	r.wait("button", func() bool { return pointer().Mask&xproto.KeyButMaskButton1 != 0 })
	c.picture("picture that may show the input", func(s shown) bool { return s.input > 0 })
	c.leave()
	r.wait("release of the button", func() bool { return pointer().Mask&xproto.KeyButMaskButton1 == 0 })
	// A viewer whose ticket only lets it watch drives nothing.
	w := r.joinAs("2-abc", api.RoleViewer)
	w.watch()
	got(t, w.open, "control channel")
	if err := w.control.SendText(`{"type":"input::mouse-move","data":{"x":1,"y":1}}`); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // nothing must happen
	if p := pointer(); p.RootX != 123 {
		t.Error("a watcher moved the pointer")
	}
}
