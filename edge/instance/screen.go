package instance

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/randr"
	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media/xauth"
)

// xTimeout bounds one round of questions to the X server.
const xTimeout = 5 * time.Second

// control is the shim's own connection to its X server.
type control struct {
	x    *xgb.Conn
	link *xLink
	root xproto.Window

	mu sync.Mutex // one resize at a time

	windows atomic.Pointer[windows] // nil until manage
}

// xLink sends our cookie in place of xgb's setup, which it would read from the
// environment.
type xLink struct {
	net.Conn
	setup []byte
}

// Write is xgb's: one request a call, the setup first.
func (l *xLink) Write(p []byte) (int, error) {
	if l.setup == nil {
		return l.Conn.Write(p)
	}
	_, err := l.Conn.Write(l.setup)
	l.setup = nil
	return len(p), err
}

// dialX connects and takes the display's events.
func dialX(socket string, cookie []byte) (*control, error) {
	c, err := dialQuiet(socket, cookie)
	if err == nil {
		go c.events()
	}
	return c, err
}

func dialQuiet(socket string, cookie []byte) (*control, error) {
	c, err := net.DialTimeout("unix", socket, xTimeout)
	if err != nil {
		return nil, fmt.Errorf("connect to the X server: %w", err)
	}
	l := &xLink{Conn: c, setup: xauth.Setup(cookie)}
	_ = c.SetDeadline(time.Now().Add(xTimeout)) // it fails on a closed socket only
	x, err := xgb.NewConnNet(l)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to the X server: %w", err)
	}
	ctl := &control{x: x, link: l, root: xproto.Setup(x).DefaultScreen(x).Root}
	if err := randr.Init(x); err != nil {
		ctl.close()
		return nil, fmt.Errorf("the X server has no RandR: %w", err)
	}
	_ = c.SetDeadline(time.Time{})
	return ctl, nil
}

// events takes the display's events until the connection ends.
func (c *control) events() {
	for {
		ev, err := c.x.WaitForEvent()
		if ev == nil && err == nil {
			return
		}
		if w := c.windows.Load(); w != nil && ev != nil {
			w.handle(ev)
		} // errors are of windows that went away meanwhile
	}
}

func (c *control) close() { c.x.Close() }

// resize sets the screen's size in pixels by RandR and checks that it holds.
func (c *control) resize(width, height int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.link.SetDeadline(time.Now().Add(xTimeout)) // it fails on a closed socket only
	defer func() { _ = c.link.SetDeadline(time.Time{}) }()
	if err := c.setMode(width, height); err != nil {
		return fmt.Errorf("set the screen to %dx%d: %w", width, height, err)
	}
	g, err := xproto.GetGeometry(c.x, xproto.Drawable(c.root)).Reply()
	if err != nil {
		return fmt.Errorf("ask for the screen's size: %w", err)
	}
	if int(g.Width) != width || int(g.Height) != height {
		return fmt.Errorf("the screen is %dx%d although %dx%d was set", g.Width, g.Height, width, height)
	}
	if w := c.windows.Load(); w != nil {
		w.resized(width, height)
	}
	return nil
}

func (c *control) setMode(width, height int) error {
	res, err := randr.GetScreenResourcesCurrent(c.x, c.root).Reply()
	if err != nil {
		return fmt.Errorf("ask for outputs: %w", err)
	}
	if len(res.Outputs) == 0 || len(res.Crtcs) == 0 {
		return errors.New("the X server has no output")
	}
	out, crtc := res.Outputs[0], res.Crtcs[0]
	now, err := randr.GetCrtcInfo(c.x, crtc, res.ConfigTimestamp).Reply()
	if err != nil {
		return fmt.Errorf("ask for the present mode: %w", err)
	}
	mode, err := c.mode(res, out, width, height)
	if err != nil || now.Mode == mode && int(now.Width) == width && int(now.Height) == height {
		return err
	}
	// Off, resized, on again: a mode must lie within the screen at every step.
	if err := c.setCrtc(crtc, 0, nil); err != nil {
		return fmt.Errorf("switch the output off: %w", err)
	}
	mm := func(px int) uint32 { return uint32(px * 254 / 960) } // 96 dots per inch
	if err := randr.SetScreenSizeChecked(c.x, c.root, uint16(width), uint16(height), mm(width), mm(height)).Check(); err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	if err := c.setCrtc(crtc, mode, []randr.Output{out}); err != nil {
		return fmt.Errorf("switch the output on: %w", err)
	}
	return nil
}

func (c *control) setCrtc(crtc randr.Crtc, mode randr.Mode, outs []randr.Output) error {
	r, err := randr.SetCrtcConfig(c.x, crtc, 0, 0, 0, 0, mode, randr.RotationRotate0, outs).Reply()
	if err != nil {
		return err
	}
	if r.Status != randr.SetConfigSuccess {
		return fmt.Errorf("the X server answered status %d", r.Status)
	}
	return nil
}

// mode finds the mode of a size among the output's, or makes it.
func (c *control) mode(res *randr.GetScreenResourcesCurrentReply, out randr.Output, width, height int) (randr.Mode, error) {
	info, err := randr.GetOutputInfo(c.x, out, res.ConfigTimestamp).Reply()
	if err != nil {
		return 0, fmt.Errorf("ask for modes: %w", err)
	}
	for _, m := range res.Modes {
		if int(m.Width) != width || int(m.Height) != height {
			continue
		}
		for _, have := range info.Modes {
			if uint32(have) == m.Id {
				return have, nil
			}
		}
	}
	name := strconv.Itoa(width) + "x" + strconv.Itoa(height)
	m := randr.ModeInfo{
		Width: uint16(width), Height: uint16(height), NameLen: uint16(len(name)),
		// Timings mean nothing to a virtual screen, but must be in order.
		Htotal: uint16(width), HsyncStart: uint16(width), HsyncEnd: uint16(width),
		Vtotal: uint16(height), VsyncStart: uint16(height), VsyncEnd: uint16(height),
		DotClock: uint32(width * height * api.DefaultFPS),
	}
	r, err := randr.CreateMode(c.x, c.root, m, name).Reply()
	if err != nil {
		return 0, fmt.Errorf("make mode: %w", err)
	}
	if err := randr.AddOutputModeChecked(c.x, out, r.Mode).Check(); err != nil {
		return 0, fmt.Errorf("add mode: %w", err)
	}
	return r.Mode, nil
}
