package main

import (
	"math/rand/v2"

	"github.com/jezek/xgb/xproto"
)

const (
	grain     = 2  // pixels a side
	grainFrom = 96 // greys from here
	grainSpan = 48 // so many: faint enough to vanish at the lowest bitrates
	spare     = 256
	stripe    = 32 // rows sent at once: a request is bounded
)

// carpet fills the picture below top with grains that a pixmap of the server's
// holds, taken from another place for each frame.
func (w *window) carpet(frame, top int) {
	if w.grains == 0 && !w.weave() {
		return
	}
	// Steps that no encoder's search for motion follows.
	x, y := frame*89%spare, frame*151%spare
	xproto.CopyArea(w.c, xproto.Drawable(w.grains), xproto.Drawable(w.back), w.gc, int16(x), int16(y), 0, int16(top),
		uint16(w.width), uint16(max(w.height-top, 0)))
}

// weave makes the pixmap; without one there is no carpet.
func (w *window) weave() bool {
	id, err := xproto.NewPixmapId(w.c)
	if err != nil {
		return false
	}
	width, height := w.width+spare, w.height+spare
	if xproto.CreatePixmapChecked(w.c, w.screen.RootDepth, id, xproto.Drawable(w.id), uint16(width), uint16(height)).Check() != nil {
		return false
	}
	rnd := rand.New(rand.NewPCG(1, 2)) // the same carpet at every start
	data := make([]byte, width*stripe*4)
	for y := 0; y < height; y += stripe {
		for gy := 0; gy < stripe; gy += grain {
			for gx := 0; gx < width; gx += grain {
				v := byte(grainFrom + rnd.IntN(grainSpan))
				for i := range grain * grain {
					if px := gx + i%grain; px < width {
						copy(data[((gy+i/grain)*width+px)*4:], []byte{v, v, v, 0})
					}
				}
			}
		}
		rows := min(stripe, height-y)
		xproto.PutImage(w.c, xproto.ImageFormatZPixmap, xproto.Drawable(id), w.gc, uint16(width), uint16(rows), 0, int16(y), 0,
			w.screen.RootDepth, data[:width*rows*4])
	}
	w.grains = id
	return true
}
