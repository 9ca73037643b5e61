package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/damage"
	"github.com/jezek/xgb/randr"
	"github.com/jezek/xgb/shm"
	"github.com/jezek/xgb/xfixes"
	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/media/xauth"
)

// Open connects to the display, trying again until ctx ends while the server
// is not up yet. The caller runs Run and at last calls Close.
func Open(ctx context.Context, cfg Config) (*Screen, error) {
	if err := checkSize(cfg.Width, cfg.Height); err != nil {
		return nil, err
	}
	for {
		s, err := open(ctx, cfg)
		if err == nil || errors.Is(err, xauth.ErrDisplay) || errors.Is(err, errUnfit) {
			return s, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("X display %s is not up: %w", cfg.Display, errors.Join(err, ctx.Err()))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// errUnfit says that this X server will never do.
var errUnfit = errors.New("X display cannot be captured")

func open(ctx context.Context, cfg Config) (*Screen, error) {
	l, err := dial(ctx, cfg.Display, cfg.XAuth)
	if err != nil {
		return nil, err
	}
	s := &Screen{cfg: cfg, link: l, drawn: make(chan struct{}, 1), done: make(chan struct{})}
	l.bound(roundTrip)
	if s.x, err = xgb.NewConnNet(l); err != nil {
		_ = l.Close() // the connection was never used
		return nil, fmt.Errorf("open X display %s: %w", cfg.Display, err)
	}
	if err = s.setup(); err != nil {
		s.x.Close()
		return nil, err
	}
	l.bound(0)
	return s, nil
}

// setup asks for what is needed: extensions, news of the root window, damage.
func (s *Screen) setup() error {
	info := xproto.Setup(s.x)
	screen := info.DefaultScreen(s.x)
	s.root = screen.Root
	for _, ext := range []struct {
		name string
		init func(*xgb.Conn) error
	}{{"MIT-SHM", shm.Init}, {"XFIXES", xfixes.Init}, {"DAMAGE", damage.Init}, {"RANDR", randr.Init}} {
		if err := ext.init(s.x); err != nil {
			return fmt.Errorf("X extension %s: %w", ext.name, errors.Join(errUnfit, err))
		}
	}
	if !pixelsFit(info, screen) {
		return fmt.Errorf("its pixels are not 32-bit BGRX (start it with depth 24): %w", errUnfit)
	}
	if _, err := xfixes.QueryVersion(s.x, 5, 0).Reply(); err != nil {
		return fmt.Errorf("agree on XFIXES: %w", err)
	}
	if _, err := damage.QueryVersion(s.x, 1, 1).Reply(); err != nil {
		return fmt.Errorf("agree on DAMAGE: %w", err)
	}
	v, err := shm.QueryVersion(s.x).Reply()
	if err != nil {
		return fmt.Errorf("agree on MIT-SHM: %w", err)
	}
	if v.MajorVersion < 1 || v.MajorVersion == 1 && v.MinorVersion < 2 {
		return fmt.Errorf("MIT-SHM %d.%d cannot take a file descriptor: %w", v.MajorVersion, v.MinorVersion, errUnfit)
	}
	// The root's own ConfigureNotify tells its size, whoever changed it.
	if err := xproto.ChangeWindowAttributesChecked(s.x, s.root, xproto.CwEventMask,
		[]uint32{xproto.EventMaskStructureNotify}).Check(); err != nil {
		return fmt.Errorf("listen to the root window: %w", err)
	}
	randr.SelectInput(s.x, s.root, randr.NotifyMaskScreenChange)
	if s.dmg, err = damage.NewDamageId(s.x); err != nil {
		return fmt.Errorf("make damage: %w", err)
	}
	for _, region := range []*xfixes.Region{&s.area, &s.held} {
		if *region, err = xfixes.NewRegionId(s.x); err != nil {
			return fmt.Errorf("make region: %w", err)
		}
		if err := xfixes.CreateRegionChecked(s.x, *region, nil).Check(); err != nil {
			return fmt.Errorf("make region: %w", err)
		}
	}
	// NonEmpty: one event for each Grab, however much is drawn.
	if err := damage.CreateChecked(s.x, s.dmg, xproto.Drawable(s.root), damage.ReportLevelNonEmpty).Check(); err != nil {
		return fmt.Errorf("watch the root window: %w", err)
	}
	g, err := xproto.GetGeometry(s.x, xproto.Drawable(s.root)).Reply()
	if err != nil {
		return fmt.Errorf("measure the root window: %w", err)
	}
	s.resized(int(g.Width), int(g.Height))
	return nil
}

// pixelsFit tells whether pixels are what Picture promises.
func pixelsFit(info *xproto.SetupInfo, screen *xproto.ScreenInfo) bool {
	if info.ImageByteOrder != xproto.ImageOrderLSBFirst {
		return false
	}
	for _, f := range info.PixmapFormats {
		if f.Depth == screen.RootDepth && f.BitsPerPixel != 32 {
			return false
		}
	}
	for _, d := range screen.AllowedDepths {
		for _, v := range d.Visuals {
			if v.VisualId == screen.RootVisual {
				return v.RedMask == 0xff0000 && v.GreenMask == 0xff00 && v.BlueMask == 0xff
			}
		}
	}
	return false
}

func checkSize(width, height int) error {
	if width < 16 || height < 16 || width%2 != 0 || height%2 != 0 {
		return fmt.Errorf("capture size %dx%d: both sides must be even and at least 16", width, height)
	}
	return nil
}
