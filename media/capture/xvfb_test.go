package capture

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/media/xauth"
)

func TestMain(m *testing.M) {
	xgb.Logger.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// painter draws on a display as an application would.
type painter struct {
	t    testing.TB
	x    *xgb.Conn
	root xproto.Window
	gc   xproto.Gcontext
}

func newPainter(t testing.TB, display, xauth string) *painter {
	t.Helper()
	l, err := dial(context.Background(), display, xauth)
	if err != nil {
		t.Fatal(err)
	}
	x, err := xgb.NewConnNet(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.Close)
	p := &painter{t: t, x: x, root: xproto.Setup(x).DefaultScreen(x).Root}
	if p.gc, err = xproto.NewGcontextId(x); err != nil {
		t.Fatal(err)
	}
	xproto.CreateGC(x, p.gc, xproto.Drawable(p.root), 0, nil)
	return p
}

// fill paints a rectangle and waits until the server has done so.
func (p *painter) fill(x, y, w, h int, rgb uint32) {
	p.t.Helper()
	xproto.ChangeGC(p.x, p.gc, xproto.GcForeground, []uint32{rgb})
	err := xproto.PolyFillRectangleChecked(p.x, xproto.Drawable(p.root), p.gc,
		[]xproto.Rectangle{{X: int16(x), Y: int16(y), Width: uint16(w), Height: uint16(h)}}).Check()
	if err != nil {
		p.t.Fatal(err)
	}
}

// openScreen opens and runs a Screen.
func openScreen(t testing.TB, cfg Config) *Screen {
	t.Helper()
	cfg.Log = slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(run) }()
	t.Cleanup(func() {
		stop()
		s.Close()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Error("Run did not end")
		}
	})
	return s
}

// next waits for something drawn and takes it.
func next(t testing.TB, s *Screen) Picture {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		select {
		case <-s.Drawn():
			p, ok, err := s.Grab()
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				return p
			}
		case <-deadline:
			t.Fatal("nothing drawn within 5 s")
		}
	}
}

// drain takes pictures until nothing has been drawn for a while.
func drain(t testing.TB, s *Screen) (last Picture, n int) {
	t.Helper()
	for {
		select {
		case <-s.Drawn():
			if p, ok, err := s.Grab(); err != nil {
				t.Fatal(err)
			} else if ok {
				last = p
				n++
			}
		case <-time.After(100 * time.Millisecond):
			return last, n
		}
	}
}

func (p Picture) at(x, y int) uint32 {
	return binary.LittleEndian.Uint32(p.Pix[y*p.Stride+x*4:]) & 0xffffff
}

// writeCookie makes an Xauthority file with one cookie for any display.
func writeCookie(t *testing.T, cookie string) string {
	t.Helper()
	b := xauth.File([]byte(cookie))
	path := filepath.Join(t.TempDir(), "xauth")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
