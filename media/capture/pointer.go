package capture

import (
	"context"
	"fmt"
	"image"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xfixes"
	"github.com/jezek/xgb/xproto"
)

// pointer draws the X pointer, which is no part of the root window's picture.
type pointer struct {
	image *xfixes.GetCursorImageReply
	box   image.Rectangle // where it was drawn
}

// look reads the pointer and gives the box that its change touches.
func (p *pointer) look(x *xgb.Conn) (image.Rectangle, error) {
	img, err := xfixes.GetCursorImage(x).Reply()
	if err != nil {
		return image.Rectangle{}, err
	}
	if img == nil {
		return image.Rectangle{}, ErrClosed
	}
	at := image.Pt(int(img.X)-int(img.Xhot), int(img.Y)-int(img.Yhot))
	box := image.Rectangle{Min: at, Max: at.Add(image.Pt(int(img.Width), int(img.Height)))}
	if p.image != nil && p.box == box && p.image.CursorSerial == img.CursorSerial {
		p.image = img
		return image.Rectangle{}, nil
	}
	touched := box.Union(p.box)
	p.image, p.box = img, box
	return touched, nil
}

// draw blends the pointer (premultiplied ARGB) into the rows just taken; the
// other rows hold it already.
func (p *pointer) draw(to Picture, rows image.Rectangle) {
	box := p.box.Intersect(image.Rect(0, rows.Min.Y, to.Width, rows.Max.Y))
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			c := p.image.CursorImage[(y-p.box.Min.Y)*p.box.Dx()+x-p.box.Min.X]
			a := 255 - c>>24
			d := to.Pix[y*to.Stride+x*4:][:3]
			d[0] = byte(c&255 + uint32(d[0])*a/255)
			d[1] = byte(c>>8&255 + uint32(d[1])*a/255)
			d[2] = byte(c>>16&255 + uint32(d[2])*a/255)
		}
	}
}

// pointerPoll is how often the pointer's place is asked for: X tells nobody but
// the window below it that it moved.
const pointerPoll = time.Second / 60

// watchPointer marks the picture as changed when the pointer moves.
func (s *Screen) watchPointer(ctx context.Context) {
	if err := xfixes.SelectCursorInputChecked(s.x, s.root, xfixes.CursorNotifyMaskDisplayCursor).Check(); err != nil {
		s.cfg.Log.Warn("pointer shape is not followed", "error", fmt.Errorf("listen to the pointer: %w", err))
	}
	t := time.NewTicker(pointerPoll)
	defer t.Stop()
	var last image.Point
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		r, err := xproto.QueryPointer(s.x, s.root).Reply()
		if err != nil || r == nil {
			return // the connection has gone; Run says so
		}
		if at := image.Pt(int(r.RootX), int(r.RootY)); at != last {
			s.touch(image.Rectangle{Min: at, Max: at.Add(image.Pt(1, 1))})
			last = at
		}
	}
}
