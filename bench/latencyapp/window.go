package main

import (
	"fmt"
	"io"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
)

// colours of the block: any two neighbours are far apart, also after a codec.
var blockColours = [...]uint32{0xd01c1c, 0x1f9d3a, 0x2b56e0, 0xe0c020, 0xb02bd0, 0x20c8d0}

const (
	background = 0x20242c
	ball       = 0xffb454
)

// window is our one window, as large as the root, and the picture behind it.
type window struct {
	c      *xgb.Conn
	screen *xproto.ScreenInfo
	id     xproto.Window
	back   xproto.Pixmap // painted first, then shown by one copy: no half pictures
	gc     xproto.Gcontext
	grains xproto.Pixmap // see carpet; 0 = not made yet
	width  int
	height int
}

func openWindow() (*window, error) {
	// xgb writes to stderr by itself, for one that there is no cookie file; what
	// matters of it comes back as an error.
	xgb.Logger.SetOutput(io.Discard)
	c, err := xgb.NewConn()
	if err != nil {
		return nil, fmt.Errorf("connect to the X server (is DISPLAY set?): %w", err)
	}
	w := &window{c: c, screen: xproto.Setup(c).DefaultScreen(c)}
	root := w.screen.Root
	g, err := xproto.GetGeometry(c, xproto.Drawable(root)).Reply()
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("read the size of the root window: %w", err)
	}
	if err := w.open(root, int(g.Width), int(g.Height)); err != nil {
		c.Close()
		return nil, err
	}
	return w, nil
}

func (w *window) open(root xproto.Window, width, height int) error {
	var err error
	if w.id, err = xproto.NewWindowId(w.c); err != nil {
		return fmt.Errorf("get an id for the window: %w", err)
	}
	const events = xproto.EventMaskKeyPress | xproto.EventMaskButtonPress | xproto.EventMaskPointerMotion |
		xproto.EventMaskExposure | xproto.EventMaskStructureNotify
	// Overriding the redirection: no window manager may move or frame it.
	err = xproto.CreateWindowChecked(w.c, w.screen.RootDepth, w.id, root, 0, 0, uint16(width), uint16(height), 0,
		xproto.WindowClassInputOutput, w.screen.RootVisual,
		xproto.CwBackPixmap|xproto.CwOverrideRedirect|xproto.CwEventMask, []uint32{xproto.BackPixmapNone, 1, events}).Check()
	if err != nil {
		return fmt.Errorf("create the window: %w", err)
	}
	if w.gc, err = xproto.NewGcontextId(w.c); err != nil {
		return fmt.Errorf("get an id for the graphics context: %w", err)
	}
	// Without graphics exposures: each copy would come back as an event.
	if err = xproto.CreateGCChecked(w.c, w.gc, xproto.Drawable(w.id), xproto.GcGraphicsExposures, []uint32{0}).Check(); err != nil {
		return fmt.Errorf("create the graphics context: %w", err)
	}
	xproto.ChangeWindowAttributes(w.c, root, xproto.CwEventMask, []uint32{xproto.EventMaskStructureNotify})
	if err := w.resize(width, height); err != nil {
		return err
	}
	if err := xproto.MapWindowChecked(w.c, w.id).Check(); err != nil {
		return fmt.Errorf("map the window: %w", err)
	}
	// There may be no window manager to give us the keyboard.
	xproto.SetInputFocus(w.c, xproto.InputFocusPointerRoot, w.id, xproto.TimeCurrentTime)
	return nil
}

// resize makes the window and the picture behind it as large as the root.
func (w *window) resize(width, height int) error {
	if width == w.width && height == w.height {
		return nil
	}
	if w.width != 0 {
		xproto.FreePixmap(w.c, w.back)
		if w.grains != 0 {
			xproto.FreePixmap(w.c, w.grains)
			w.grains = 0
		}
		xproto.ConfigureWindow(w.c, w.id, xproto.ConfigWindowWidth|xproto.ConfigWindowHeight, []uint32{uint32(width), uint32(height)})
	}
	var err error
	if w.back, err = xproto.NewPixmapId(w.c); err != nil {
		return fmt.Errorf("get an id for the picture: %w", err)
	}
	err = xproto.CreatePixmapChecked(w.c, w.screen.RootDepth, w.back, xproto.Drawable(w.id), uint16(width), uint16(height)).Check()
	if err != nil {
		return fmt.Errorf("create a picture of %dx%d: %w", width, height, err)
	}
	w.width, w.height = width, height
	w.fill(background, rect(0, 0, width, height))
	return nil
}

func (w *window) fill(colour uint32, r ...xproto.Rectangle) {
	if len(r) == 0 {
		return
	}
	xproto.ChangeGC(w.c, w.gc, xproto.GcForeground, []uint32{colour})
	xproto.PolyFillRectangle(w.c, xproto.Drawable(w.back), w.gc, r)
}

// show copies the upper part of the picture, height pixels of it, to the screen.
func (w *window) show(height int) {
	xproto.CopyArea(w.c, xproto.Drawable(w.back), xproto.Drawable(w.id), w.gc, 0, 0, 0, 0, uint16(w.width), uint16(min(height, w.height)))
}

func rect(x, y, width, height int) xproto.Rectangle {
	return xproto.Rectangle{X: int16(x), Y: int16(y), Width: uint16(max(width, 0)), Height: uint16(max(height, 0))}
}
