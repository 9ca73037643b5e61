// Package capture takes pictures of an X display's root window by shared
// memory, when something has been drawn and not on a timer. It is pure Go.
package capture

import (
	"context"
	"errors"
	"fmt"
	"image"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/damage"
	"github.com/jezek/xgb/randr"
	"github.com/jezek/xgb/shm"
	"github.com/jezek/xgb/xfixes"
	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/media"
)

// Config of a Screen.
type Config struct {
	// Display is ":7" or the path of the server's socket; XAuth is the cookie
	// file, "" for none.
	Display, XAuth string
	// Width and Height are the wanted size in pixels. The picture is never
	// larger than the root window, whose size is followed.
	Width, Height int
	// Cursor draws the pointer into the picture.
	Cursor bool
	Log    *slog.Logger
}

// Picture is what the display showed.
type Picture struct {
	// Pix holds rows of 4-byte pixels (blue, green, red, unused), Stride bytes
	// apart. It is shared memory: valid until the next Grab, Resize or Close.
	Pix                   []byte
	Stride, Width, Height int
	// Changed are the parts that may differ from the Picture before; the whole
	// picture at the first one and after a change of size. Valid as Pix is.
	Changed []image.Rectangle
	// Taken is when it was taken (media.Now).
	Taken int64
}

// ErrClosed says that the X server or the connection to it has gone.
var ErrClosed = errors.New("X display closed")

// roundTrip bounds one question to the X server; a stopped server must not
// hold us for ever.
const roundTrip = 2 * time.Second

// Screen is a display being captured. Grab, Resize and Close are for one
// goroutine; Run is for another.
type Screen struct {
	cfg   Config
	x     *xgb.Conn
	link  *link
	root  xproto.Window
	dmg   damage.Damage
	area  xfixes.Region // where the server puts what was drawn
	held  xfixes.Region // and what of it Hold took over
	drawn chan struct{}
	ran   atomic.Bool   // Run was called
	done  chan struct{} // closed when Run ends

	// Of the goroutine that grabs:
	seg           *segment
	width, height int // of the picture before; 0 = none yet
	pointer       pointer
	parts         []image.Rectangle
	holding       bool // held has something

	mu      sync.Mutex
	size    image.Point     // the root window's
	changed image.Rectangle // to be taken whatever the server says
	damaged bool            // the server knows what was drawn
}

// Run takes the server's events until ctx ends or the server goes. It then
// closes the connection.
func (s *Screen) Run(ctx context.Context) error {
	s.ran.Store(true)
	defer close(s.done)
	stop := context.AfterFunc(ctx, s.hangUp)
	defer stop()
	if s.cfg.Cursor {
		watchCtx, cancel := context.WithCancel(ctx)
		watched := make(chan struct{})
		go func() { defer close(watched); s.watchPointer(watchCtx) }()
		defer func() { cancel(); <-watched }()
	}
	for {
		ev, err := s.x.WaitForEvent()
		switch ev := ev.(type) {
		case nil:
			if err != nil { // an error to a request nobody waits for: Detach, Subtract
				s.cfg.Log.Debug("X request refused", "error", err)
				continue
			}
			if ctx.Err() != nil {
				return nil
			}
			return ErrClosed
		case damage.NotifyEvent:
			s.mu.Lock()
			s.damaged = true
			s.mu.Unlock()
			s.signal()
		case xproto.ConfigureNotifyEvent:
			if ev.Window == s.root {
				s.resized(int(ev.Width), int(ev.Height))
			}
		case randr.ScreenChangeNotifyEvent:
			s.resized(int(ev.Width), int(ev.Height))
		}
	}
}

// hangUp closes the connection; a server that no longer answers has a second.
func (s *Screen) hangUp() {
	s.link.end(time.Second)
	s.x.Close()
}

// Close ends Run, if it is running, and frees the shared memory.
func (s *Screen) Close() {
	s.hangUp()
	if s.ran.Load() {
		<-s.done // hangUp bounds it
	}
	if s.seg != nil {
		s.seg.unmap()
		s.seg = nil
	}
}

// Drawn receives when something was drawn since the last Grab, and whenever
// the size changed.
func (s *Screen) Drawn() <-chan struct{} { return s.drawn }

// Touch makes the next Grab take the whole picture.
func (s *Screen) Touch() {
	s.mu.Lock()
	all := image.Rectangle{Max: s.size}
	s.mu.Unlock()
	s.touch(all)
}

func (s *Screen) touch(r image.Rectangle) {
	s.mu.Lock()
	s.changed = s.changed.Union(r)
	s.mu.Unlock()
	s.signal()
}

func (s *Screen) signal() {
	select {
	case s.drawn <- struct{}{}:
	default: // one is pending already
	}
}

func (s *Screen) resized(width, height int) {
	s.mu.Lock()
	same := s.size == image.Pt(width, height)
	s.size = image.Pt(width, height)
	s.mu.Unlock()
	if !same {
		s.Touch()
	}
}

// Resize changes the wanted size; the next Grab takes the whole picture.
func (s *Screen) Resize(width, height int) error {
	if err := checkSize(width, height); err != nil {
		return err
	}
	s.cfg.Width, s.cfg.Height = width, height
	s.Touch()
	return nil
}

// Hold lets Drawn receive once more, when something is drawn after what is
// waiting to be grabbed now.
func (s *Screen) Hold() {
	s.mu.Lock()
	damaged := s.damaged
	s.damaged = false
	s.mu.Unlock()
	if !damaged || s.holding {
		return
	}
	s.holding = true
	damage.Subtract(s.x, s.dmg, 0, s.held)
}

// Grab takes what has been drawn since the last call; false: nothing was.
func (s *Screen) Grab() (Picture, bool, error) {
	for {
		p, ok, err := s.grab()
		var match xproto.MatchError
		if err == nil || !errors.As(err, &match) {
			return p, ok, err
		}
		// The root window shrank under us: measure, and again.
		s.link.bound(roundTrip)
		g, err := xproto.GetGeometry(s.x, xproto.Drawable(s.root)).Reply()
		s.link.bound(0)
		if err != nil || g == nil {
			return Picture{}, false, s.lost("measure the root window", err)
		}
		s.resized(int(g.Width), int(g.Height))
	}
}

func (s *Screen) grab() (Picture, bool, error) {
	s.mu.Lock()
	size, changed, damaged := s.size, s.changed, s.damaged
	s.changed, s.damaged = image.Rectangle{}, false
	s.mu.Unlock()
	w, h := min(s.cfg.Width, size.X)&^1, min(s.cfg.Height, size.Y)&^1
	all := image.Rect(0, 0, w, h)
	s.link.bound(roundTrip)
	defer s.link.bound(0)
	if w != s.width || h != s.height {
		if err := s.fit(w, h); err != nil {
			return Picture{}, false, err
		}
		changed = all
	}
	s.parts = append(s.parts[:0], changed)
	if damaged || s.holding {
		if err := s.takeDamage(); err != nil {
			return Picture{}, false, err
		}
	}
	if s.cfg.Cursor {
		box, err := s.pointer.look(s.x)
		if err != nil {
			return Picture{}, false, s.lost("read the pointer", err)
		}
		s.parts = append(s.parts, box)
	}
	var rows image.Rectangle
	s.parts, rows = clip(s.parts, all)
	if rows.Empty() {
		return Picture{}, false, nil
	}
	// Whole rows: they lie at their place in the shared picture.
	stride := w * 4
	reply, err := shm.GetImage(s.x, xproto.Drawable(s.root), 0, int16(rows.Min.Y), uint16(w), uint16(rows.Dy()),
		^uint32(0), xproto.ImageFormatZPixmap, s.seg.id, uint32(rows.Min.Y*stride)).Reply()
	if err != nil || reply == nil {
		s.touch(rows)
		return Picture{}, false, s.lost("take picture", err)
	}
	p := Picture{Pix: s.seg.pix, Stride: stride, Width: w, Height: h, Changed: s.parts, Taken: media.Now()}
	if s.cfg.Cursor {
		s.pointer.draw(p, rows)
	}
	return p, true, nil
}

// partsMost bounds how finely changes are told; more parts than this are one box.
const partsMost = 256

// takeDamage takes over what the server noted as drawn. This comes before the
// picture is taken: what is drawn between the two is in the picture and
// reported again, never lost.
func (s *Screen) takeDamage() error {
	damage.Subtract(s.x, s.dmg, 0, s.area)
	if s.holding {
		s.holding = false
		xfixes.UnionRegion(s.x, s.area, s.held, s.area)
	}
	r, err := xfixes.FetchRegion(s.x, s.area).Reply()
	if err != nil || r == nil {
		return s.lost("read what was drawn", err)
	}
	if len(r.Rectangles) > partsMost {
		s.parts = append(s.parts, rect(r.Extents))
		return nil
	}
	for _, part := range r.Rectangles {
		s.parts = append(s.parts, rect(part))
	}
	return nil
}

// clip cuts parts to the picture, drops empty ones, and gives the box around
// the others.
func clip(parts []image.Rectangle, all image.Rectangle) (kept []image.Rectangle, box image.Rectangle) {
	kept = parts[:0]
	for _, p := range parts {
		if p = p.Intersect(all); !p.Empty() {
			kept = append(kept, p)
			box = box.Union(p)
		}
	}
	return kept, box
}

// fit makes the shared memory as large as the picture.
func (s *Screen) fit(w, h int) error {
	if w < 16 || h < 16 {
		return fmt.Errorf("root window of %dx%d is too small to capture", w, h)
	}
	if s.seg != nil {
		s.seg.release(s.x)
		s.seg, s.width, s.height = nil, 0, 0
	}
	seg, err := newSegment(s.x, s.link, w*h*4)
	if err != nil {
		return s.lost("fit to the screen", err)
	}
	s.seg, s.width, s.height = seg, w, h
	return nil
}

// lost wraps an error of a request; xgb gives none when the server has gone.
func (s *Screen) lost(verb string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", verb, ErrClosed)
	}
	return fmt.Errorf("%s: %w", verb, err)
}

func rect(r xproto.Rectangle) image.Rectangle {
	return image.Rect(int(r.X), int(r.Y), int(r.X)+int(r.Width), int(r.Y)+int(r.Height))
}
