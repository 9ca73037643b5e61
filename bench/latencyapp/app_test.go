package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/randr"
	"github.com/jezek/xgb/xproto"
	"github.com/jezek/xgb/xtest"
)

// display starts an X server of its own and gives a connection to it.
func display(t *testing.T) *xgb.Conn {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("Xvfb", "-displayfd", "3", "-screen", "0", "1920x1200x24", "-nolisten", "tcp", "-noreset")
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start Xvfb (package xvfb): %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // killed: the status says nothing
	})
	_ = w.Close()
	_ = r.SetReadDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("read the display's number: %v", err)
	}
	t.Setenv("DISPLAY", ":"+strings.TrimSpace(line))
	c, err := xgb.NewConn()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// start runs the program in this process.
func start(t *testing.T, o options) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("run ended with %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("run did not end")
		}
	})
}

// screenshot gives the width of the screen and the pixels of its upper part, BGRX.
func screenshot(t *testing.T, c *xgb.Conn) (int, []byte) {
	t.Helper()
	root := xproto.Drawable(xproto.Setup(c).DefaultScreen(c).Root)
	g, err := xproto.GetGeometry(c, root).Reply()
	if err != nil {
		t.Fatal(err)
	}
	height := min(int(g.Height), rows*fullCell+8)
	img, err := xproto.GetImage(c, xproto.ImageFormatZPixmap, root, 0, 0, g.Width, uint16(height), ^uint32(0)).Reply()
	if err != nil {
		t.Fatal(err)
	}
	return int(g.Width), img.Data
}

func look(t *testing.T, c *xgb.Conn) (State, bool) {
	t.Helper()
	width, pixels := screenshot(t, c)
	return Decode(width, func(x, y int) int {
		i := 4 * (y*width + x)
		return (int(pixels[i]) + int(pixels[i+1]) + int(pixels[i+2])) / 3
	})
}

// see waits until the screen shows a state that fits.
func see(t *testing.T, c *xgb.Conn, what string, fits func(State) bool) State {
	t.Helper()
	var last State
	var read bool
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if last, read = look(t, c); read && fits(last) {
			return last
		}
	}
	t.Fatalf("never saw %s; last state %+v (readable: %v)", what, last, read)
	return last
}

func any1(State) bool { return true }

func TestClockIsTheWallClock(t *testing.T) {
	c := display(t)
	start(t, options{fps: 60})
	first := see(t, c, "a picture", any1)
	// The picture is from between the last tick and now.
	see(t, c, "the present time", func(s State) bool {
		age := int32(uint32(time.Now().UnixMilli()) - s.Clock)
		return age >= 0 && age < 100
	})
	see(t, c, "time going on", func(s State) bool { return s.Clock-first.Clock > 200 })
	if first.Width != 1920 || first.Counter != 0 || first.Kind != 0 {
		t.Errorf("first state %+v", first)
	}
}

func TestPressesAreCountedAndColoured(t *testing.T) {
	c := display(t)
	if err := xtest.Init(c); err != nil {
		t.Fatal(err)
	}
	start(t, options{fps: 30})
	see(t, c, "a picture", any1)
	root := xproto.Setup(c).DefaultScreen(c).Root
	fake := func(kind, detail byte, x, y int16) {
		if err := xtest.FakeInputChecked(c, kind, detail, 0, root, x, y, 0).Check(); err != nil {
			t.Fatal(err)
		}
	}
	before := colour(t, c)
	fake(xproto.KeyPress, 38, 0, 0)
	fake(xproto.KeyRelease, 38, 0, 0)
	see(t, c, "the key", func(s State) bool { return s.Counter == 1 && s.Kind == 1 && s.Detail == 38 })
	if after := colour(t, c); after == before {
		t.Errorf("the block kept its colour %06x", after)
	}
	fake(xproto.MotionNotify, 0, 700, 450)
	see(t, c, "the pointer", func(s State) bool { return s.X == 700 && s.Y == 450 && s.Counter == 1 })
	fake(xproto.ButtonPress, 3, 0, 0)
	fake(xproto.ButtonRelease, 3, 0, 0)
	see(t, c, "the button", func(s State) bool { return s.Counter == 2 && s.Kind == 2 && s.Detail == 3 })
}

// colour gives the block's colour.
func colour(t *testing.T, c *xgb.Conn) uint32 {
	t.Helper()
	width, pixels := screenshot(t, c)
	i := 4 * (20*width + width - 20)
	return uint32(pixels[i+2])<<16 | uint32(pixels[i+1])<<8 | uint32(pixels[i])
}

func TestFollowsTheScreensSize(t *testing.T) {
	c := display(t)
	if err := randr.Init(c); err != nil {
		t.Fatal(err)
	}
	start(t, options{fps: 60})
	see(t, c, "the first size", func(s State) bool { return s.Width == 1920 })
	root := xproto.Setup(c).DefaultScreen(c).Root
	for _, size := range [][2]uint16{{1280, 720}, {800, 600}, {1600, 900}} {
		setSize(t, c, root, size[0], size[1])
		see(t, c, "the new size", func(s State) bool { return s.Width == size[0] })
		if got := colour(t, c); got != blockColours[0] {
			t.Errorf("%v: the upper right corner is %06x", size, got)
		}
	}
}

// setSize makes the screen smaller or larger by a new mode, as an edge does.
func setSize(t *testing.T, c *xgb.Conn, root xproto.Window, width, height uint16) {
	t.Helper()
	res, err := randr.GetScreenResources(c, root).Reply()
	if err != nil {
		t.Fatal(err)
	}
	// Xvfb takes names once for its whole life.
	name := fmt.Sprintf("test-%dx%d", width, height)
	info := randr.ModeInfo{Width: width, Height: height, NameLen: uint16(len(name))}
	mode, err := randr.CreateMode(c, root, info, name).Reply()
	if err != nil {
		t.Fatalf("create the mode: %v", err)
	}
	if err := randr.AddOutputModeChecked(c, res.Outputs[0], mode.Mode).Check(); err != nil {
		t.Fatal(err)
	}
	set := func(m randr.Mode, outputs []randr.Output) {
		if _, err := randr.SetCrtcConfig(c, res.Crtcs[0], 0, res.ConfigTimestamp, 0, 0, m, randr.RotationRotate0, outputs).Reply(); err != nil {
			t.Fatalf("set the mode: %v", err)
		}
	}
	set(0, nil)
	if err := randr.SetScreenSizeChecked(c, root, width, height, uint32(width)/4, uint32(height)/4).Check(); err != nil {
		t.Fatal(err)
	}
	set(mode.Mode, res.Outputs[:1])
}

func TestStillPaintsOnce(t *testing.T) {
	c := display(t)
	start(t, options{fps: 60, still: true})
	first := see(t, c, "a picture", any1)
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if s, ok := look(t, c); !ok || s != first {
			t.Fatalf("the picture changed: %+v, %v, first %+v", s, ok, first)
		}
	}
}

func TestRectsMoveOverTheWholePicture(t *testing.T) {
	c := display(t)
	start(t, options{fps: 60, rects: true})
	see(t, c, "a picture", any1)
	root := xproto.Drawable(xproto.Setup(c).DefaultScreen(c).Root)
	lower := func() string {
		img, err := xproto.GetImage(c, xproto.ImageFormatZPixmap, root, 0, 900, 1920, 300, ^uint32(0)).Reply()
		if err != nil {
			t.Fatal(err)
		}
		return string(img.Data)
	}
	first := lower()
	for end := time.Now().Add(5 * time.Second); lower() == first; {
		if time.Now().After(end) {
			t.Fatal("the lower part never changed")
		}
	}
	see(t, c, "the clock in front", any1)
}

func TestEchoSurvivesAReconnect(t *testing.T) {
	folder := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- echo(ctx, folder, "chat") }()
	defer func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("echo ended with %v", err)
		}
	}()
	for range 2 { // the second is a viewer that came later
		l, err := net.Listen("unix", filepath.Join(folder, "webrtc_data_chat"))
		if err != nil {
			t.Fatal(err)
		}
		_ = l.(*net.UnixListener).SetDeadline(time.Now().Add(10 * time.Second))
		c, err := l.Accept()
		if err != nil {
			t.Fatalf("echo never came: %v", err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
			t.Fatalf("echo gave %q, %v", got, err)
		}
		_ = c.Close()
		_ = l.Close()
	}
}

func TestWithoutADisplay(t *testing.T) {
	t.Setenv("DISPLAY", ":65099")
	err := run(t.Context(), options{fps: 60})
	if err == nil || !strings.Contains(err.Error(), "DISPLAY") {
		t.Errorf("got %v, want an error that names DISPLAY", err)
	}
}

func TestCheckNamesTheFlag(t *testing.T) {
	for want, o := range map[string]options{
		"-fps": {fps: 0}, "-still": {fps: 60, still: true, rects: true},
	} {
		if err := check(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("check(%+v) = %v, want it to name %s", o, err, want)
		}
	}
	if err := check(options{fps: 60}); err != nil {
		t.Errorf("the defaults: %v", err)
	}
}
