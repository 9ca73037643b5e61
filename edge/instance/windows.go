package instance

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
)

// windows is the display's window manager, of a kiosk: there is one user and
// mostly one window. A window that can be resized fills the screen and follows
// its size, one of a fixed size stands in the middle, the newest has the
// keyboard. Without it windows keep to a corner, and keys go to whatever lies
// under the pointer.
type windows struct {
	x    *xgb.Conn
	root xproto.Window

	normalHints, transientFor, protocols, takeFocus, netPing xproto.Atom

	mu            sync.Mutex // guards the fields below
	width, height int
	shown         []*window // lowest first
	asked         pinged
}

type window struct {
	id            xproto.Window
	fixed         bool // keeps the size it asked for
	width, height int
}

// manage makes this connection the window manager of its display, which is so
// large now.
func (c *control) manage(width, height int) error {
	w := &windows{x: c.x, root: c.root, width: width, height: height}
	for _, a := range []struct {
		name string
		at   *xproto.Atom
	}{
		{"WM_NORMAL_HINTS", &w.normalHints}, {"WM_TRANSIENT_FOR", &w.transientFor},
		{"WM_PROTOCOLS", &w.protocols}, {"WM_TAKE_FOCUS", &w.takeFocus}, {"_NET_WM_PING", &w.netPing},
	} {
		r, err := xproto.InternAtom(c.x, false, uint16(len(a.name)), a.name).Reply()
		if err != nil {
			return fmt.Errorf("name atom %s: %w", a.name, err)
		}
		*a.at = r.Atom
	}
	mask := []uint32{xproto.EventMaskSubstructureRedirect | xproto.EventMaskSubstructureNotify}
	if err := xproto.ChangeWindowAttributesChecked(c.x, c.root, xproto.CwEventMask, mask).Check(); err != nil {
		return fmt.Errorf("manage windows: %w", err)
	}
	c.windows.Store(w)
	return nil
}

// handle takes one event of the display.
func (w *windows) handle(ev xgb.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e := ev.(type) {
	case xproto.MapRequestEvent:
		w.mapped(e.Window)
	case xproto.ConfigureRequestEvent:
		w.configure(e)
	case xproto.ClientMessageEvent:
		w.answered(e)
	case xproto.UnmapNotifyEvent:
		w.gone(e.Window)
	case xproto.DestroyNotifyEvent:
		w.gone(e.Window)
	}
}

func (w *windows) find(id xproto.Window) *window {
	for _, v := range w.shown {
		if v.id == id {
			return v
		}
	}
	return nil
}

// mapped shows a window.
func (w *windows) mapped(id xproto.Window) {
	v := w.find(id)
	if v == nil {
		g, err := xproto.GetGeometry(w.x, xproto.Drawable(id)).Reply()
		if err != nil {
			return // it is gone already
		}
		v = &window{id: id, fixed: w.isFixed(id), width: int(g.Width), height: int(g.Height)}
		w.shown = append(w.shown, v)
	}
	w.place(v)
	xproto.MapWindow(w.x, id)
	w.focus(v)
}

// isFixed says whether a window wants its own size: a dialog, or one whose
// hints allow one size only.
func (w *windows) isFixed(id xproto.Window) bool {
	if len(w.property(id, w.transientFor)) > 0 {
		return true
	}
	// WM_NORMAL_HINTS (ICCCM 4.1.2.3): flags, 4 unused, least and largest size.
	h := w.property(id, w.normalHints)
	const minSize, maxSize = 1 << 4, 1 << 5
	if len(h) < 9*4 {
		return false
	}
	field := func(i int) uint32 { return binary.LittleEndian.Uint32(h[4*i:]) }
	both := uint32(minSize | maxSize)
	return field(0)&both == both && field(5) == field(7) && field(6) == field(8)
}

func (w *windows) property(id xproto.Window, name xproto.Atom) []byte {
	r, err := xproto.GetProperty(w.x, false, id, name, xproto.AtomAny, 0, 64).Reply()
	if err != nil {
		return nil // the window is gone
	}
	return r.Value
}

// place puts a window where it belongs.
func (w *windows) place(v *window) {
	x, y, width, height := 0, 0, w.width, w.height
	if v.fixed {
		width, height = v.width, v.height
		x, y = max((w.width-width)/2, 0), max((w.height-height)/2, 0)
	}
	xproto.ConfigureWindow(w.x, v.id, xproto.ConfigWindowX|xproto.ConfigWindowY|xproto.ConfigWindowWidth|
		xproto.ConfigWindowHeight|xproto.ConfigWindowBorderWidth,
		[]uint32{uint32(x), uint32(y), uint32(width), uint32(height), 0})
	// A client that asked for something else waits to be told (ICCCM 4.1.5).
	told := xproto.ConfigureNotifyEvent{
		Event: v.id, Window: v.id, X: int16(x), Y: int16(y), Width: uint16(width), Height: uint16(height),
	}
	xproto.SendEvent(w.x, false, v.id, xproto.EventMaskStructureNotify, string(told.Bytes()))
}

// configure answers a window that wants another place or size.
func (w *windows) configure(e xproto.ConfigureRequestEvent) {
	v := w.find(e.Window)
	if v == nil { // not shown yet: as it likes
		v = &window{id: e.Window}
		var values []uint32
		for _, f := range []struct {
			bit   uint16
			value uint32
		}{
			{xproto.ConfigWindowX, uint32(int32(e.X))}, {xproto.ConfigWindowY, uint32(int32(e.Y))},
			{xproto.ConfigWindowWidth, uint32(e.Width)}, {xproto.ConfigWindowHeight, uint32(e.Height)},
		} {
			if e.ValueMask&f.bit != 0 {
				values = append(values, f.value)
			}
		}
		mask := e.ValueMask & (xproto.ConfigWindowX | xproto.ConfigWindowY | xproto.ConfigWindowWidth | xproto.ConfigWindowHeight)
		xproto.ConfigureWindow(w.x, v.id, mask, values)
		return
	}
	// Hints may have changed since: programs fix their size on a switch of mode.
	v.fixed = w.isFixed(v.id)
	if e.ValueMask&xproto.ConfigWindowWidth != 0 {
		v.width = int(e.Width)
	}
	if e.ValueMask&xproto.ConfigWindowHeight != 0 {
		v.height = int(e.Height)
	}
	if e.ValueMask&xproto.ConfigWindowStackMode != 0 && e.StackMode == xproto.StackModeAbove {
		w.focus(v)
	}
	w.place(v)
}

// focus raises a window and gives it the keyboard.
func (w *windows) focus(v *window) {
	if i := slices.Index(w.shown, v); i >= 0 {
		w.shown = append(slices.Delete(w.shown, i, i+1), v)
	}
	xproto.ConfigureWindow(w.x, v.id, xproto.ConfigWindowStackMode, []uint32{xproto.StackModeAbove})
	xproto.SetInputFocus(w.x, xproto.InputFocusPointerRoot, v.id, xproto.TimeCurrentTime)
	if w.takes(v.id, w.takeFocus) {
		told := xproto.ClientMessageEvent{Format: 32, Window: v.id, Type: w.protocols,
			Data: xproto.ClientMessageDataUnionData32New([]uint32{uint32(w.takeFocus), 0, 0, 0, 0})}
		xproto.SendEvent(w.x, false, v.id, 0, string(told.Bytes()))
	}
}

// takes says whether a window takes part in a protocol of the window manager.
func (w *windows) takes(id xproto.Window, protocol xproto.Atom) bool {
	p := w.property(id, w.protocols)
	for i := 0; i+4 <= len(p); i += 4 {
		if xproto.Atom(binary.LittleEndian.Uint32(p[i:])) == protocol {
			return true
		}
	}
	return false
}

// gone forgets a window; the one below gets the keyboard.
func (w *windows) gone(id xproto.Window) {
	i := slices.IndexFunc(w.shown, func(v *window) bool { return v.id == id })
	if i < 0 {
		return
	}
	top := i == len(w.shown)-1
	w.shown = slices.Delete(w.shown, i, i+1)
	if top && len(w.shown) > 0 {
		w.focus(w.shown[len(w.shown)-1])
	}
}

// resized fits every window to a new size of the screen.
func (w *windows) resized(width, height int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.width, w.height = width, height
	for _, v := range w.shown {
		w.place(v)
	}
}
