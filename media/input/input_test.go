package input

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media/xauth"
	"github.com/perigee-cloud/perigee/media/xvfb"
)

func TestMain(m *testing.M) {
	xgb.Logger.SetOutput(io.Discard)
	os.Exit(m.Run())
}

const (
	width, height = 640, 360
	patience      = 10 * time.Second
)

// wide is larger than what the injector is told of.
var wide = []string{"-screen", "0", "800x600x24"}

// screen is a display under test: the injector, and an eye of its own.
type screen struct {
	t      *testing.T
	i      *Injector
	eye    *xgb.Conn
	root   xproto.Window
	server *os.Process
	// display is its name.
	display string
}

func newScreen(t *testing.T) *screen {
	t.Helper()
	server := xvfb.Start(t, wide...)
	display := server.Display
	i, err := Open(t.Context(), Config{Display: display, Width: width, Height: height, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	eye, c, err := connect(t.Context(), display, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	return &screen{t: t, i: i, eye: eye, root: xproto.Setup(eye).DefaultScreen(eye).Root, server: server.Process, display: display}
}

// do handles a message and says whether it was an input.
func (s *screen) do(typ, data string) bool {
	s.t.Helper()
	done, err := s.i.Handle("one", "input::"+typ, []byte(data))
	if err != nil {
		s.t.Fatalf("%s %s: %v", typ, data, err)
	}
	if err := s.i.Sync(); err != nil {
		s.t.Fatal(err)
	}
	return done
}

func (s *screen) pointer() *xproto.QueryPointerReply {
	s.t.Helper()
	p, err := xproto.QueryPointer(s.eye, s.root).Reply()
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// held lists the X key codes that are down.
func (s *screen) held() []byte {
	s.t.Helper()
	k, err := xproto.QueryKeymap(s.eye).Reply()
	if err != nil {
		s.t.Fatal(err)
	}
	var out []byte
	for i := range 256 {
		if k.Keys[i/8]&(1<<(i%8)) != 0 {
			out = append(out, byte(i))
		}
	}
	return out
}

func TestPointer(t *testing.T) {
	s := newScreen(t)
	at := func(what string, x, y int16) {
		t.Helper()
		if p := s.pointer(); p.RootX != x || p.RootY != y {
			t.Errorf("%s: pointer at %d,%d, want %d,%d", what, p.RootX, p.RootY, x, y)
		}
	}
	s.do("mouse-move", `{"x":100,"y":50,"rx":3,"ry":4}`)
	at("absolute", 100, 50)
	s.do("mouse-move", `{"rx":-10,"ry":7}`)
	at("relative", 90, 57)
	s.do("mouse-move", `{"x":12.9,"y":13.1}`)
	at("fractions", 12, 13)
	s.do("mouse-move", `{"x":1e300,"y":-5}`)
	at("beyond the picture", width-1, 0)
	s.do("mouse-move", `{"x":-1e300,"y":99999}`)
	at("beyond the other corner", 0, height-1)
	s.i.Resize(800, 600)
	s.do("mouse-move", `{"x":750,"y":590}`)
	at("after a resize", 750, 590)
	if s.do("mouse-move", `{"rx":0,"ry":0}`) {
		t.Error("no movement counts as an input")
	}
}

func TestButtonsAndTouch(t *testing.T) {
	s := newScreen(t)
	mask := func(what string, want uint16) {
		t.Helper()
		if got := s.pointer().Mask & 0x1f00; got != want {
			t.Errorf("%s: buttons %#x, want %#x", what, got, want)
		}
	}
	for wire, want := range map[int]uint16{1: xproto.KeyButMaskButton1, 2: xproto.KeyButMaskButton2, 3: xproto.KeyButMaskButton3} {
		s.do("mouse-button", fmt.Sprintf(`{"button":%d,"pressed":true}`, wire))
		mask("pressed", want)
		if s.do("mouse-button", fmt.Sprintf(`{"button":%d,"pressed":true}`, wire)) {
			t.Error("a second press of a held button counts")
		}
		s.do("mouse-button", fmt.Sprintf(`{"button":%d,"pressed":false}`, wire))
		mask("released", 0)
	}
	if s.do("mouse-button", `{"button":77,"pressed":true}`) || s.do("mouse-button", `{"pressed":true}`) {
		t.Error("an unknown button was pressed")
	}
	if s.do("touch-move", `{"id":1,"x":5,"y":5}`) || s.do("touch-end", `{"id":1}`) {
		t.Error("a touch that never began counts")
	}
	s.do("touch-start", `{"id":4,"x":30,"y":40}`)
	mask("touched", xproto.KeyButMaskButton1)
	s.do("touch-start", `{"id":5,"x":300,"y":300}`) // a second finger
	s.do("touch-move", `{"id":5,"x":301,"y":301}`)
	s.do("touch-move", `{"id":4,"x":35.5,"y":45}`)
	if p := s.pointer(); p.RootX != 35 || p.RootY != 45 {
		t.Errorf("the first finger is at %d,%d", p.RootX, p.RootY)
	}
	s.do("touch-end", `{"id":5,"last":false}`)
	mask("second finger up", xproto.KeyButMaskButton1)
	s.do("touch-end", `{"id":4,"last":true}`)
	mask("first finger up", 0)
}

// TestWheel and the side buttons are seen as a window sees them.
func TestWheel(t *testing.T) {
	s := newScreen(t)
	w, err := xproto.NewWindowId(s.eye)
	if err != nil {
		t.Fatal(err)
	}
	err = xproto.CreateWindowChecked(s.eye, 0, w, s.root, 0, 0, width, height, 0, xproto.WindowClassInputOutput, 0,
		xproto.CwEventMask, []uint32{xproto.EventMaskButtonPress}).Check()
	if err == nil {
		err = xproto.MapWindowChecked(s.eye, w).Check()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.do("mouse-move", `{"x":100,"y":100}`)
	for _, c := range []struct {
		typ, data string
		want      []byte
	}{
		{"mouse-wheel", `{"x":0,"y":1}`, []byte{4}}, {"mouse-wheel", `{"x":0,"y":-1}`, []byte{5}},
		{"mouse-wheel", `{"x":1,"y":0}`, []byte{6}}, {"mouse-wheel", `{"x":-1,"y":0}`, []byte{7}},
		{"mouse-wheel", `{"x":-1,"y":1}`, []byte{4, 7}}, {"mouse-wheel", `{"y":3}`, []byte{4, 4, 4}},
		{"mouse-button", `{"button":4,"pressed":true}`, []byte{8}}, {"mouse-button", `{"button":5,"pressed":true}`, []byte{9}},
	} {
		s.do(c.typ, c.data)
		var got []byte
		deadline := time.Now().Add(patience)
		for len(got) < len(c.want) && time.Now().Before(deadline) {
			if ev, _ := s.eye.PollForEvent(); ev != nil {
				if b, ok := ev.(xproto.ButtonPressEvent); ok {
					got = append(got, byte(b.Detail))
				}
				continue
			}
			time.Sleep(time.Millisecond)
		}
		if string(got) != string(c.want) {
			t.Errorf("%s %s: buttons %v, want %v", c.typ, c.data, got, c.want)
		}
	}
	if s.do("mouse-wheel", `{"x":0,"y":0}`) {
		t.Error("no turn counts as an input")
	}
}

// wireKeys is the list of the wire contract (2.6.1) with what X calls each key.
var wireKeys = map[int]xproto.Keysym{
	40: 0xff0d, 41: 0xff1b, 42: 0xff08, 43: 0xff09, 44: ' ', // Enter, Escape, Backspace, Tab, Space
	45: '-', 46: '=', 47: '[', 48: ']', 49: '\\', 50: '\'', 51: ';', 54: ',', 55: '.', 56: '/',
	57: 0xffe5,                                                             // CapsLock
	70: 0xff61, 71: 0xff14, 72: 0xff13, 73: 0xff63, 74: 0xff50, 75: 0xff55, // PrintScreen, ScrollLock, Pause, Insert, Home, PageUp
	76: 0xffff, 77: 0xff57, 78: 0xff56, // Delete, End, PageDown
	79: 0xff53, 80: 0xff51, 81: 0xff54, 82: 0xff52, // Right, Left, Down, Up
	83: 0xffe3, 84: 0xffe1, 85: 0xffe9, 86: 0xffeb, 87: 0xfe03, 88: 0xff7f, // Control, Shift, Alt, Meta, AltGraph, NumLock
	89: 0x1008ff11, 90: 0x1008ff13, 91: 0x1008ff2a, 92: 0x1008ff26, // volume down, up, power, back
}

func TestKeys(t *testing.T) {
	for i := range 26 {
		wireKeys[4+i] = xproto.Keysym('a' + i)
	}
	for i := range 10 {
		wireKeys[30+i] = xproto.Keysym('0' + (i+1)%10)
	}
	for i := range 12 {
		wireKeys[58+i] = xproto.Keysym(0xffbe + i) // F1
	}
	s := newScreen(t)
	info := xproto.Setup(s.eye)
	first, n := info.MinKeycode, byte(info.MaxKeycode-info.MinKeycode+1)
	m, err := xproto.GetKeyboardMapping(s.eye, first, n).Reply()
	if err != nil {
		t.Fatal(err)
	}
	for code := -1; code < 130; code++ {
		want, known := wireKeys[code]
		done := s.do("key", fmt.Sprintf(`{"code":%d,"pressed":true}`, code))
		held := s.held()
		if !known {
			if done || len(held) != 0 {
				t.Errorf("code %d, which the contract does not have, holds %v", code, held)
			}
			continue
		}
		if !done || len(held) != 1 {
			t.Errorf("code %d holds %v", code, held)
			continue
		}
		syms := m.Keysyms[int(held[0]-byte(first))*int(m.KeysymsPerKeycode):][:m.KeysymsPerKeycode]
		alt := code == 87 && syms[0] == 0xffea // AltGraph is Alt_R on a US layout
		if syms[0] != want && !alt {
			t.Errorf("code %d is key %d with symbol %#x, want %#x", code, held[0], syms[0], want)
		}
		if s.do("key", fmt.Sprintf(`{"code":%d,"pressed":true}`, code)) {
			t.Errorf("code %d: a repeated press counts", code)
		}
		s.do("key", fmt.Sprintf(`{"code":%d,"pressed":false}`, code))
		if held := s.held(); len(held) != 0 {
			t.Errorf("code %d stays down: %v", code, held)
		}
	}
}

func TestRelease(t *testing.T) {
	s := newScreen(t)
	s.do("key", `{"code":4,"pressed":true}`)
	s.do("key", `{"code":84,"pressed":true}`)
	s.do("mouse-button", `{"button":3,"pressed":true}`)
	s.do("touch-start", `{"id":1,"x":1,"y":1}`)
	if len(s.held()) != 2 || s.pointer().Mask&0x1f00 == 0 {
		t.Fatal("nothing is held")
	}
	s.i.Release("one")
	if err := s.i.Sync(); err != nil {
		t.Fatal(err)
	}
	if held := s.held(); len(held) != 0 {
		t.Errorf("keys %v stay down", held)
	}
	if m := s.pointer().Mask & 0x1f00; m != 0 {
		t.Errorf("buttons %#x stay down", m)
	}
	if !s.do("touch-start", `{"id":9,"x":1,"y":1}`) {
		t.Error("the next viewer's touch does not count")
	}
}

// Of two drivers each holds for itself.
func TestWhoLeavesTakesNothingFromAnother(t *testing.T) {
	s := newScreen(t)
	by := func(d Driver, typ, data string) {
		t.Helper()
		if _, err := s.i.Handle(d, "input::"+typ, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	downs := func() (int, uint16) {
		t.Helper()
		if err := s.i.Sync(); err != nil {
			t.Fatal(err)
		}
		return len(s.held()), s.pointer().Mask & 0x1f00
	}
	const left = 1 << 8
	by("one", "key", `{"code":4,"pressed":true}`)
	by("two", "key", `{"code":4,"pressed":true}`)
	by("two", "key", `{"code":5,"pressed":true}`)
	by("one", "mouse-button", `{"button":1,"pressed":true}`)
	by("two", "mouse-button", `{"button":1,"pressed":true}`)
	by("two", "mouse-button", `{"button":3,"pressed":true}`)
	if keys, buttons := downs(); keys != 2 || buttons != left|1<<10 {
		t.Fatalf("%d keys and buttons %#x are down", keys, buttons)
	}
	s.i.Release("two")
	if keys, buttons := downs(); keys != 1 || buttons != left {
		t.Errorf("%d keys and buttons %#x are down after one of two left", keys, buttons)
	}
	s.i.Release("nobody")
	by("one", "key", `{"code":4,"pressed":false}`)
	by("one", "mouse-button", `{"button":1,"pressed":false}`)
	if keys, buttons := downs(); keys != 0 || buttons != 0 {
		t.Errorf("%d keys and buttons %#x stay down", keys, buttons)
	}
}

func TestUnknownAndMalformed(t *testing.T) {
	s := newScreen(t)
	for _, typ := range []string{"gamepad-button", "ime-event", "nonsense"} {
		if s.do(typ, `{"id":0,"index":1,"pressed":true}`) {
			t.Errorf("%s counts", typ)
		}
	}
	for _, data := range []string{``, `null-ish`, `[]`, `{"x":"left"}`, `{"code":1.5}`, `{"pressed":1}`} {
		if done, err := s.i.Handle("one", "input::key", []byte(data)); done || api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%q: %v, %v", data, done, err)
		}
	}
	if s.do("mouse-move", `null`) || s.do("touch-start", `{"id":1}`) {
		t.Error("a message without its fields counts")
	}
}

func TestCookie(t *testing.T) {
	b := xauth.File([]byte("0123456789abcdef"))
	auth := filepath.Join(t.TempDir(), "xauth")
	if err := os.WriteFile(auth, b, 0o600); err != nil {
		t.Fatal(err)
	}
	display := xvfb.Start(t, append(wide, "-auth", auth)...).Display
	log := slog.New(slog.DiscardHandler)
	i, err := Open(t.Context(), Config{Display: display, XAuth: auth, Width: width, Height: height, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	i.Close()
	for name, c := range map[string]Config{
		"no cookie": {Display: display}, "no file": {Display: display, XAuth: auth + "2"}, "no server": {Display: ":65000"},
		"no display": {}, "remote display": {Display: "example.com:0"},
	} {
		c.Log = log
		if i, err := Open(t.Context(), c); err == nil {
			i.Close()
			t.Errorf("%s: opened", name)
		}
	}
}

func TestServerGoes(t *testing.T) {
	s := newScreen(t)
	if err := s.server.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.i.Done():
	case <-time.After(patience):
		t.Fatal("the end of the server was not noticed")
	}
	done := make(chan struct{})
	go func() { // must neither hang nor crash
		_, _ = s.i.Handle("one", "input::key", []byte(`{"code":4,"pressed":true}`))
		s.i.Release("one")
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("input hangs without a server")
	}
	if err := s.i.Sync(); err == nil {
		t.Error("a server that is gone answers")
	}
}

func TestServerHangs(t *testing.T) {
	s := newScreen(t)
	if err := s.server.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(patience)
	for n := 0; ; n++ { // until the socket is full and the connection given up
		select {
		case <-s.i.Done():
			return
		case <-deadline:
			t.Fatalf("still waiting for a stopped server after %d inputs", n)
		default:
		}
		_, _ = s.i.Handle("one", "input::mouse-move", []byte(`{"x":1,"y":1}`))
	}
}
