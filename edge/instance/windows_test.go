package instance

import (
	"testing"
	"time"

	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// client is an application's own connection that opens windows.
type client struct {
	*control
	t *testing.T
}

func (c *client) open(width, height int, fixed bool) xproto.Window {
	c.t.Helper()
	id, err := xproto.NewWindowId(c.x)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := xproto.CreateWindowChecked(c.x, 0, id, c.root, 30, 40, uint16(width), uint16(height), 2,
		xproto.WindowClassInputOutput, 0, 0, nil).Check(); err != nil {
		c.t.Fatal(err)
	}
	if fixed {
		c.hints(id, width, height)
	}
	xproto.MapWindow(c.x, id)
	return id
}

// hints fixes a window's size.
func (c *client) hints(id xproto.Window, width, height int) {
	c.t.Helper()
	h := make([]uint32, 18)
	h[0] = 1<<4 | 1<<5
	h[5], h[6], h[7], h[8] = uint32(width), uint32(height), uint32(width), uint32(height)
	b := make([]byte, 0, 4*len(h))
	for _, v := range h {
		b = append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
	}
	if err := xproto.ChangePropertyChecked(c.x, xproto.PropModeReplace, id, xproto.AtomWmNormalHints,
		xproto.AtomWmSizeHints, 32, uint32(len(h)), b).Check(); err != nil {
		c.t.Fatal(err)
	}
}

// is waits until a window is there, of a size and in a place.
func (c *client) is(what string, id xproto.Window, x, y, width, height int) {
	c.t.Helper()
	var g *xproto.GetGeometryReply
	deadline := time.Now().Add(5 * time.Second)
	for {
		var err error
		if g, err = xproto.GetGeometry(c.x, xproto.Drawable(id)).Reply(); err != nil {
			c.t.Fatal(err)
		}
		a, err := xproto.GetWindowAttributes(c.x, id).Reply()
		if err != nil {
			c.t.Fatal(err)
		}
		if a.MapState == xproto.MapStateViewable && int(g.X) == x && int(g.Y) == y && int(g.Width) == width && int(g.Height) == height && g.BorderWidth == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: window is %dx%d at %d,%d, want %dx%d at %d,%d", what, g.Width, g.Height, g.X, g.Y, width, height, x, y)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (c *client) hasFocus(what string, id xproto.Window) {
	c.t.Helper()
	until(c.t, "focus "+what, 5*time.Second, func() bool {
		r, err := xproto.GetInputFocus(c.x).Reply()
		return err == nil && r.Focus == id
	})
}

func TestWindowsFillTheScreen(t *testing.T) {
	t.Parallel()
	s := startShim(t, sh("sleep 60"), api.Screen{Width: 1280, Height: 720})
	c := &client{view(t, s.wait(api.ObservedRunning)), t}

	main := c.open(484, 316, false)
	c.is("resizable", main, 0, 0, 1280, 720)
	c.hasFocus("of the first", main)

	game := c.open(640, 480, true)
	c.is("fixed", game, 320, 120, 640, 480)
	c.hasFocus("of the newest", game)

	// A window that moves itself is put back; one that changes its fixed size is centred.
	xproto.ConfigureWindow(c.x, main, xproto.ConfigWindowX|xproto.ConfigWindowWidth, []uint32{50, 100})
	c.is("moved", main, 0, 0, 1280, 720)
	c.hints(game, 800, 600)
	xproto.ConfigureWindow(c.x, game, xproto.ConfigWindowWidth|xproto.ConfigWindowHeight, []uint32{800, 600})
	c.is("grown", game, 240, 60, 800, 600)

	if err := s.conn.Send(local.Message{Kind: local.KindAdmit, Screen: &api.Screen{Width: 640, Height: 480}}); err != nil {
		t.Fatal(err)
	}
	c.is("resizable on a smaller screen", main, 0, 0, 640, 480)
	c.is("fixed on a smaller screen", game, 0, 0, 800, 600)

	xproto.DestroyWindow(c.x, game)
	c.hasFocus("after the newest has gone", main)
	again := c.open(10, 10, false)
	c.hasFocus("of another", again)
	xproto.UnmapWindow(c.x, again)
	c.hasFocus("after another was hidden", main)
	s.stop(true)
}
