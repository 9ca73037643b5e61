package input

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
)

// How selections are given and taken: ICCCM 2.2 to 2.7.

const (
	// clipChunk is given at once; more goes by INCR. A request without the
	// extension BIG-REQUESTS holds 256 KiB.
	clipChunk  = 128 << 10
	maxSending = 8
)

// clipAtoms are X's names of what the clipboard speaks of.
type clipAtoms struct {
	clipboard, time, data, incr, targets, timestamp, utf8, textUTF8, text, plain, png xproto.Atom
}

func (a *clipAtoms) intern(x *xgb.Conn) error {
	for _, n := range []struct {
		at   *xproto.Atom
		name string
	}{
		{&a.clipboard, "CLIPBOARD"}, {&a.time, "PERIGEE_TIME"}, {&a.data, "PERIGEE_CLIP"}, {&a.incr, "INCR"},
		{&a.targets, "TARGETS"}, {&a.timestamp, "TIMESTAMP"}, {&a.utf8, "UTF8_STRING"},
		{&a.textUTF8, "text/plain;charset=utf-8"}, {&a.text, "TEXT"}, {&a.plain, ClipText}, {&a.png, ClipPNG},
	} {
		r, err := xproto.InternAtom(x, false, uint16(len(n.name)), n.name).Reply()
		if err != nil {
			return fmt.Errorf("name atom %s: %w", n.name, err)
		}
		*n.at = r.Atom
	}
	return nil
}

// reading is what an application copied, on its way to us.
type reading struct {
	target xproto.Atom
	since  xproto.Timestamp
	incr   bool
	data   []byte
	at     time.Time // of its last step
}

// ask begins to read the clipboard: first what it can be had as.
func (c *Clipboard) ask(since xproto.Timestamp) {
	c.reading = &reading{since: since}
	c.convert(c.atom.targets)
}

func (c *Clipboard) convert(target xproto.Atom) {
	c.reading.target, c.reading.at = target, time.Now()
	xproto.ConvertSelection(c.x, c.win, c.atom.clipboard, target, c.atom.data, c.reading.since)
}

// answered takes the answer to a convert.
func (c *Clipboard) answered(e xproto.SelectionNotifyEvent) {
	r := c.reading
	if r == nil || e.Selection != c.atom.clipboard || e.Target != r.target || r.incr {
		return
	}
	if e.Property == xproto.AtomNone {
		c.reading = nil
		if e.Target == c.atom.targets { // an old program, which has text if anything
			c.reading = &reading{since: r.since}
			c.convert(xproto.AtomString)
		}
		return
	}
	p, ok := c.property()
	switch {
	case !ok:
		c.reading = nil
	case p.Type == c.atom.incr:
		r.incr, r.at = true, time.Now() // the property was deleted: that begins it
	case e.Target == c.atom.targets:
		target, any := c.best(p.Value)
		if !any {
			c.reading = nil
			return
		}
		c.convert(target)
	default:
		r.data = p.Value
		c.finish()
	}
}

// property reads and deletes what was put into our window.
func (c *Clipboard) property() (*xproto.GetPropertyReply, bool) {
	p, err := xproto.GetProperty(c.x, true, c.win, c.atom.data, xproto.AtomAny, 0, MaxClip/4+1).Reply()
	if err != nil || p.BytesAfter > 0 {
		if err == nil {
			xproto.DeleteProperty(c.x, c.win, c.atom.data)
		}
		c.cfg.Log.Info("not copied to the viewer: too large", "most", MaxClip)
		return nil, false
	}
	return p, true
}

// best chooses of the forms that a selection can be had in: text before a
// picture, because what is both (cells of a table) is mostly wanted as text.
func (c *Clipboard) best(targets []byte) (xproto.Atom, bool) {
	var have []xproto.Atom
	for i := 0; i+4 <= len(targets); i += 4 {
		have = append(have, xproto.Atom(binary.LittleEndian.Uint32(targets[i:])))
	}
	for _, t := range []xproto.Atom{c.atom.utf8, c.atom.textUTF8, c.atom.png, xproto.AtomString} {
		if slices.Contains(have, t) {
			return t, true
		}
	}
	return 0, false
}

// more takes the next part of a large selection; an empty one ends it.
func (c *Clipboard) more() {
	r := c.reading
	if r == nil || !r.incr {
		return
	}
	p, ok := c.property()
	if !ok || len(r.data)+len(p.Value) > MaxClip {
		if ok {
			c.cfg.Log.Info("not copied to the viewer: too large", "most", MaxClip)
		}
		c.reading = nil
		return
	}
	if len(p.Value) == 0 {
		c.finish()
		return
	}
	r.data, r.at = append(r.data, p.Value...), time.Now()
}

// finish tells what was read, unless it is what both sides have already.
func (c *Clipboard) finish() {
	r := c.reading
	c.reading = nil
	clip := Clip{ClipText, bytes.TrimRight(r.data, "\x00")}
	switch r.target {
	case c.atom.png:
		clip = Clip{ClipPNG, r.data}
	case xproto.AtomString:
		clip.Data = fromLatin1(clip.Data)
	}
	if len(clip.Data) == 0 || clip.Check() != nil || clip.equal(c.last) {
		return
	}
	c.last = clip
	c.cfg.Copied(clip)
}

// sendKey names a transfer to an application: its window and property.
type sendKey struct {
	win  xproto.Window
	prop xproto.Atom
}

// sending is the rest of a large clip.
type sending struct {
	typ  xproto.Atom
	data []byte
	at   time.Time // of its last step
}

// requested gives an application what it pastes.
func (c *Clipboard) requested(e xproto.SelectionRequestEvent) {
	prop := e.Property
	if prop == xproto.AtomNone {
		prop = e.Target // of very old clients (ICCCM 2.2)
	}
	if !c.owns[e.Selection] || !c.give(e.Requestor, prop, e.Target) {
		prop = xproto.AtomNone
	}
	told := xproto.SelectionNotifyEvent{Time: e.Time, Requestor: e.Requestor, Selection: e.Selection, Target: e.Target, Property: prop}
	xproto.SendEvent(c.x, false, e.Requestor, 0, string(told.Bytes()))
}

func (c *Clipboard) give(win xproto.Window, prop, target xproto.Atom) bool {
	put := func(typ xproto.Atom, values ...uint32) bool {
		var b []byte
		for _, v := range values {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
		xproto.ChangeProperty(c.x, xproto.PropModeReplace, win, prop, typ, 32, uint32(len(values)), b)
		return true
	}
	forms := []xproto.Atom{c.atom.utf8, c.atom.textUTF8, c.atom.plain, c.atom.text, xproto.AtomString}
	if c.own.Type == ClipPNG {
		forms = []xproto.Atom{c.atom.png}
	}
	switch {
	case target == c.atom.targets:
		all := []uint32{uint32(c.atom.targets), uint32(c.atom.timestamp)}
		for _, f := range forms {
			all = append(all, uint32(f))
		}
		return put(xproto.AtomAtom, all...)
	case target == c.atom.timestamp:
		return put(xproto.AtomInteger, uint32(c.since))
	case !slices.Contains(forms, target):
		return false
	}
	typ, data := target, c.own.Data
	switch target {
	case c.atom.text:
		typ = c.atom.utf8 // the owner's choice of an encoding
	case xproto.AtomString:
		data = latin1(data)
	}
	if len(data) <= clipChunk {
		xproto.ChangeProperty(c.x, xproto.PropModeReplace, win, prop, typ, 8, uint32(len(data)), data)
		return true
	}
	if len(c.sending) >= maxSending {
		return false
	}
	// The requestor deletes the property when it wants the next part.
	xproto.ChangeWindowAttributes(c.x, win, xproto.CwEventMask, []uint32{xproto.EventMaskPropertyChange})
	c.sending[sendKey{win, prop}] = &sending{typ: typ, data: data, at: time.Now()}
	return put(c.atom.incr, uint32(len(data)))
}

// next gives the next part of a large clip; an empty one ends it.
func (c *Clipboard) next(k sendKey) {
	s := c.sending[k]
	if s == nil {
		return
	}
	n := min(len(s.data), clipChunk)
	xproto.ChangeProperty(c.x, xproto.PropModeReplace, k.win, k.prop, s.typ, 8, uint32(n), s.data[:n])
	s.data, s.at = s.data[n:], time.Now()
	if n == 0 {
		delete(c.sending, k)
	}
}
