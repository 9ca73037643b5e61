package input

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/api"
)

func imeText1(t *testing.T, text string) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"type": imeText, "data": map[string]any{"text": text}})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// typed reads key presses as an application does: by the symbol that the key
// has when its press is come to.
func (s *screen) typed(n int) string {
	s.t.Helper()
	var out strings.Builder
	deadline := time.Now().Add(patience)
	for out.Len() < n && time.Now().Before(deadline) {
		ev, _ := s.eye.PollForEvent()
		press, ok := ev.(xproto.KeyPressEvent)
		if !ok {
			if ev == nil {
				time.Sleep(time.Millisecond)
			}
			continue
		}
		m, err := xproto.GetKeyboardMapping(s.eye, press.Detail, 1).Reply()
		if err != nil {
			s.t.Fatal(err)
		}
		level := int(press.State & xproto.KeyButMaskShift)
		switch sym := m.Keysyms[level]; {
		case sym >= 0x01000000:
			out.WriteRune(rune(sym - 0x01000000))
		case sym == 0xff0d:
			out.WriteByte('\n')
		case sym < 0x100:
			out.WriteRune(rune(sym))
		}
	}
	return out.String()
}

func TestText(t *testing.T) {
	s := newScreen(t)
	grab, err := xproto.GrabKeyboard(s.eye, false, s.root, xproto.TimeCurrentTime, xproto.GrabModeAsync, xproto.GrabModeAsync).Reply()
	if err != nil || grab.Status != xproto.GrabStatusSuccess {
		t.Fatalf("grab: %+v, %v", grab, err)
	}
	many := make([]rune, 0, 200) // more than there are free keys
	for r := rune('一'); len(many) < 200; r++ {
		many = append(many, r)
	}
	for _, want := range []string{"Grüße, naïve café\n", "日本語 한국어 привет", "😀¿ß€", string(many), "a<b>c"} {
		data, done := []byte(imeText1(t, want)), make(chan bool, 1)
		go func() { // an application reads while the text is typed
			ok, _ := s.i.Handle("one", typeText, data)
			done <- ok
		}()
		if got := s.typed(len(want)); got != want {
			t.Errorf("typed %q, want %q", got, want)
		}
		if !<-done {
			t.Errorf("%q does not count", want)
		}
	}
	s.do("key", `{"code":84,"pressed":true}`) // Shift is held: the text stays as it is
	s.do("ime-event", imeText1(t, "ähm"))
	if got := s.typed(len("ähm")); got != "ähm" {
		t.Errorf("typed %q under Shift", got)
	}
	s.do("key", `{"code":84,"pressed":false}`)
	if s.do("ime-event", imeText1(t, "\x00\x1b")) || s.do("ime-event", `{"type":4,"data":{"text":"x"}}`) || s.do("ime-event", `{"type":2,"data":{"code":4711}}`) {
		t.Error("control characters, a composition or an unknown key count")
	}
	if !s.do("ime-event", `{"type":2,"data":{"code":66,"times":2}}`) || s.typed(2) != "\n\n" {
		t.Error("Android's Enter is not typed")
	}
	if done, err := s.i.Handle("one", typeText, []byte(imeText1(t, strings.Repeat("x", MaxText+1)))); done || api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a text that is too long: %v, %v", done, err)
	}
}

// A real terminal reads what was typed.
func TestTextReachesAProgram(t *testing.T) {
	path, err := exec.LookPath("xterm")
	if err != nil {
		t.Skip("xterm is not installed")
	}
	s := newScreen(t)
	file := t.TempDir() + "/typed"
	cmd := exec.Command(path, "-display", s.display, "-u8", "-e", "sh", "-c", "read -r line; printf %s \"$line\" >"+file+".part; mv "+file+".part "+file)
	cmd.Env = append(cmd.Environ(), "LC_ALL=C.UTF-8")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	deadline := time.Now().Add(patience)
	for { // until its window is there and takes the keys
		tree, err := xproto.QueryTree(s.eye, s.root).Reply()
		if err != nil {
			t.Fatal(err)
		}
		shown := false
		for _, w := range tree.Children {
			a, err := xproto.GetWindowAttributes(s.eye, w).Reply()
			if shown = err == nil && a.MapState == xproto.MapStateViewable; shown {
				xproto.SetInputFocus(s.eye, xproto.InputFocusPointerRoot, w, xproto.TimeCurrentTime)
				break
			}
		}
		if shown {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the terminal shows no window")
		}
		time.Sleep(10 * time.Millisecond)
	}
	const want = "Grüße 日本 😀 'naïve'"
	s.do("ime-event", imeText1(t, want+"\n"))
	for {
		b, err := os.ReadFile(file)
		if err == nil {
			if string(b) != want {
				t.Errorf("the terminal read %q, want %q", b, want)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the terminal read nothing")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
