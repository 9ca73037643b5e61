package capture

import (
	"context"
	"errors"
	"image"
	"syscall"
	"testing"
	"time"

	"github.com/jezek/xgb/randr"
	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/xvfb"
)

func TestGrabShowsWhatWasDrawn(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "320x180x24").Display
	s := openScreen(t, Config{Display: display, Width: 320, Height: 180})
	p := newPainter(t, display, "")
	first := next(t, s)
	if first.Width != 320 || first.Height != 180 || box(first) != image.Rect(0, 0, 320, 180) {
		t.Fatalf("first picture %dx%d, changed %v: want all of 320x180", first.Width, first.Height, first.Changed)
	}
	drain(t, s)
	before := media.Now()
	p.fill(40, 50, 60, 20, 0xc08040)
	pic := next(t, s)
	if got := pic.at(70, 60); got != 0xc08040 {
		t.Errorf("inside the rectangle %06x, want c08040", got)
	}
	if got := pic.at(10, 10); got != 0 {
		t.Errorf("outside the rectangle %06x, want black", got)
	}
	if want := image.Rect(40, 50, 100, 70); box(pic) != want {
		t.Errorf("changed %v, want %v", pic.Changed, want)
	}
	if pic.Taken < before || pic.Taken > media.Now() {
		t.Errorf("taken at %d, before %d", pic.Taken, before)
	}
	// What lies outside the change is still there from earlier pictures.
	p.fill(200, 120, 10, 10, 0x0000ff)
	pic, _ = drain(t, s)
	if a, b := pic.at(70, 60), pic.at(205, 125); a != 0xc08040 || b != 0x0000ff {
		t.Errorf("pictures do not add up: %06x, %06x", a, b)
	}
}

// box is the box around what changed.
func box(p Picture) (b image.Rectangle) {
	for _, r := range p.Changed {
		b = b.Union(r)
	}
	return b
}

func TestChangesAreToldApart(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "320x180x24").Display
	s := openScreen(t, Config{Display: display, Width: 320, Height: 180})
	p := newPainter(t, display, "")
	drain(t, s)
	// Two far corners: the change is two small parts, no big box. The server is
	// held meanwhile, so that both are one change to us.
	xproto.GrabServer(p.x)
	xproto.ChangeGC(p.x, p.gc, xproto.GcForeground, []uint32{0xff00ff})
	for _, r := range []xproto.Rectangle{{X: 0, Y: 0, Width: 10, Height: 10}, {X: 300, Y: 170, Width: 10, Height: 10}} {
		xproto.PolyFillRectangle(p.x, xproto.Drawable(p.root), p.gc, []xproto.Rectangle{r})
	}
	xproto.UngrabServer(p.x)
	p.x.Sync()
	pic := next(t, s)
	area := 0
	for _, r := range pic.Changed {
		area += r.Dx() * r.Dy()
	}
	if area != 200 || box(pic) != image.Rect(0, 0, 310, 180) {
		t.Errorf("changed %v", pic.Changed)
	}
	// So many parts that one box is cheaper.
	xproto.GrabServer(p.x)
	for i := range 600 {
		xproto.PolyFillRectangle(p.x, xproto.Drawable(p.root), p.gc,
			[]xproto.Rectangle{{X: int16(i % 30 * 10), Y: int16(i / 30 * 8), Width: 2, Height: 2}})
	}
	xproto.UngrabServer(p.x)
	p.x.Sync()
	if pic, _ = drain(t, s); len(pic.Changed) > partsMost {
		t.Errorf("%d parts", len(pic.Changed))
	}
}

func TestStillScreenIsNotTaken(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "320x180x24").Display
	s := openScreen(t, Config{Display: display, Width: 320, Height: 180})
	p := newPainter(t, display, "")
	p.fill(0, 0, 320, 180, 0x123456)
	drain(t, s)
	select {
	case <-s.Drawn():
		t.Error("a still screen was reported as drawn")
	case <-time.After(300 * time.Millisecond):
	}
	if _, ok, err := s.Grab(); ok || err != nil {
		t.Errorf("a still screen was taken: %v, %v", ok, err)
	}
	s.Touch()
	if pic := next(t, s); box(pic) != image.Rect(0, 0, 320, 180) {
		t.Errorf("after Touch changed is %v", pic.Changed)
	}
}

// What waits is not lost, and what is drawn over it is told.
func TestHoldTellsOfMore(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "320x180x24").Display
	s := openScreen(t, Config{Display: display, Width: 320, Height: 180})
	p := newPainter(t, display, "")
	drain(t, s)
	told := func() {
		t.Helper()
		select {
		case <-s.Drawn():
		case <-time.After(5 * time.Second):
			t.Fatal("nothing was reported as drawn")
		}
	}
	p.fill(10, 10, 20, 20, 0xff0000)
	told()
	s.Hold()
	s.Hold()   // once more changes nothing
	s.x.Sync() // the server has it: what was drawn before that is held, too
	p.fill(100, 100, 20, 20, 0x00ff00)
	told()
	pic, ok, err := s.Grab()
	if err != nil || !ok {
		t.Fatalf("nothing to grab: %v", err)
	}
	if box(pic) != image.Rect(10, 10, 120, 120) || pic.at(15, 15) != 0xff0000 || pic.at(105, 105) != 0x00ff00 {
		t.Errorf("changed %v: %06x and %06x", pic.Changed, pic.at(15, 15), pic.at(105, 105))
	}
	p.fill(50, 50, 10, 10, 0x0000ff)
	if pic = next(t, s); box(pic) != image.Rect(50, 50, 60, 60) {
		t.Errorf("after a hold changed is %v", pic.Changed)
	}
}

func TestNothingIsLostUnderLoad(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "320x180x24").Display
	s := openScreen(t, Config{Display: display, Width: 320, Height: 180})
	p := newPainter(t, display, "")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 500 {
			p.fill(i%32*10, i/32*10, 10, 10, uint32(i+1))
		}
	}()
	<-done
	drain(t, s)
	s2 := openScreen(t, Config{Display: display, Width: 320, Height: 180})
	fresh := next(t, s2)
	pic, _, err := s.Grab()
	if err != nil {
		t.Fatal(err)
	}
	pic.Pix, pic.Stride = s.seg.pix, 320*4
	for y := range 180 {
		for x := range 320 {
			if a, b := pic.at(x, y), fresh.at(x, y); a != b {
				t.Fatalf("pixel %d,%d is %06x, should be %06x", x, y, a, b)
			}
		}
	}
}

func TestSizeFollowsTheRootWindow(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "800x600x24").Display
	s := openScreen(t, Config{Display: display, Width: 640, Height: 480})
	p := newPainter(t, display, "")
	if pic := next(t, s); pic.Width != 640 || pic.Height != 480 {
		t.Fatalf("%dx%d, want 640x480", pic.Width, pic.Height)
	}
	if err := randr.Init(p.x); err != nil {
		t.Fatal(err)
	}
	if err := setScreen(p, 500, 301); err != nil {
		t.Fatal(err)
	}
	pic, _ := drain(t, s)
	if pic.Width != 500 || pic.Height != 300 {
		t.Errorf("%dx%d after the screen became 500x301, want 500x300", pic.Width, pic.Height)
	}
	p.fill(400, 200, 50, 50, 0x00ff00)
	if pic, _ = drain(t, s); pic.at(420, 220) != 0x00ff00 {
		t.Error("drawing after the change of size is not seen")
	}
	if err := s.Resize(320, 240); err != nil {
		t.Fatal(err)
	}
	if pic, _ = drain(t, s); pic.Width != 320 || pic.Height != 240 {
		t.Errorf("%dx%d after Resize to 320x240", pic.Width, pic.Height)
	}
	if err := s.Resize(321, 240); err == nil {
		t.Error("an odd size was accepted")
	}
}

// setScreen sets the root window's size as the shim does.
func setScreen(p *painter, w, h int) error {
	res, err := randr.GetScreenResources(p.x, p.root).Reply()
	if err != nil {
		return err
	}
	// The CRTC must not reach beyond the screen.
	for _, c := range res.Crtcs {
		if _, err := randr.SetCrtcConfig(p.x, c, 0, res.ConfigTimestamp, 0, 0, 0, randr.RotationRotate0, nil).Reply(); err != nil {
			return err
		}
	}
	return randr.SetScreenSizeChecked(p.x, p.root, uint16(w), uint16(h), 100, 100).Check()
}

func TestPointerIsDrawnWhenAsked(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "320x180x24", "-retro").Display
	p := newPainter(t, display, "")
	p.fill(0, 0, 320, 180, 0x204060)
	s := openScreen(t, Config{Display: display, Width: 320, Height: 180, Cursor: true})
	count := func(pic Picture) (n int, box image.Rectangle) {
		for y := range pic.Height {
			for x := range pic.Width {
				if pic.at(x, y) != 0x204060 {
					n++
					box = box.Union(image.Rect(x, y, x+1, y+1))
				}
			}
		}
		return n, box
	}
	warp := func(x, y int) {
		if err := xproto.WarpPointerChecked(p.x, 0, p.root, 0, 0, 0, 0, int16(x), int16(y)).Check(); err != nil {
			t.Fatal(err)
		}
	}
	warp(60, 60)
	pic, _ := drain(t, s)
	n, box := count(pic)
	if n == 0 || !box.In(image.Rect(30, 30, 90, 90)) {
		t.Fatalf("pointer at 60,60 drawn in %v (%d pixels)", box, n)
	}
	warp(200, 100)
	pic, _ = drain(t, s)
	if n, box = count(pic); n == 0 || !box.In(image.Rect(170, 70, 230, 130)) {
		t.Errorf("pointer at 200,100 drawn in %v (%d pixels): the old one must be gone", box, n)
	}
}

func TestCookieIsNeededAndUsed(t *testing.T) {
	good, bad := writeCookie(t, "0123456789abcdef"), writeCookie(t, "fedcba9876543210")
	display := xvfb.Start(t, "-screen", "0", "320x180x24", "-auth", good).Display
	s := openScreen(t, Config{Display: display, XAuth: good, Width: 320, Height: 180})
	next(t, s)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, Config{Display: display, XAuth: bad, Width: 320, Height: 180}); err == nil {
		t.Error("a wrong cookie opened the display")
	}
}

func TestServerGone(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "320x180x24").Display
	cfg := Config{Display: display, Width: 320, Height: 180}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	_ = s.link.CloseRead() // as if the server had died
	select {
	case err := <-ended:
		if !errors.Is(err, ErrClosed) {
			t.Errorf("Run ended with %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Run did not notice")
	}
	s.Touch()
	if _, _, err := s.Grab(); !errors.Is(err, ErrClosed) {
		t.Errorf("Grab after the end: %v", err)
	}
	s.Close()
}

// A server that is stopped, not dead, must not hold us.
func TestServerStopped(t *testing.T) {
	x := xvfb.Start(t, "-screen", "0", "320x180x24")
	s := openScreen(t, Config{Display: x.Display, Width: 320, Height: 180})
	next(t, s)
	if err := x.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Process.Signal(syscall.SIGCONT) })
	s.Touch()
	begun := time.Now()
	if _, _, err := s.Grab(); !errors.Is(err, ErrClosed) {
		t.Errorf("Grab from a stopped server: %v", err)
	}
	s.Close()
	if took := time.Since(begun); took > 2*roundTrip {
		t.Errorf("it held us for %v", took)
	}
}

func TestOpenRefusesAndWaits(t *testing.T) {
	ctx := context.Background()
	for _, c := range []Config{
		{Display: "host:1", Width: 320, Height: 180},
		{Display: "", Width: 320, Height: 180},
		{Display: ":x", Width: 320, Height: 180},
		{Display: ":1", Width: 321, Height: 180},
		{Display: ":1", Width: 320, Height: 0},
	} {
		if _, err := Open(ctx, c); err == nil {
			t.Errorf("%+v was opened", c)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, Config{Display: t.TempDir() + "/X9", Width: 320, Height: 180}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that never comes: %v", err)
	}
}

func BenchmarkGrab(b *testing.B) {
	display := xvfb.Start(b, "-screen", "0", "1280x720x24").Display
	s := openScreen(b, Config{Display: display, Width: 1280, Height: 720})
	for b.Loop() {
		s.Touch()
		if _, _, err := s.Grab(); err != nil {
			b.Fatal(err)
		}
	}
}
