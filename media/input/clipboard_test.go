package input

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os/exec"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/media/xvfb"
)

// clipboard opens one; what it is told comes out of the channel.
func clipboard(t *testing.T, display string) (*Clipboard, chan Clip) {
	t.Helper()
	copied := make(chan Clip, 8)
	c, err := OpenClipboard(t.Context(), ClipboardConfig{Display: display, Log: slog.New(slog.DiscardHandler),
		Copied: func(c Clip) { copied <- c }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, copied
}

func wantClip(t *testing.T, copied chan Clip, want Clip) {
	t.Helper()
	select {
	case got := <-copied:
		if !got.equal(want) {
			t.Fatalf("copied %s of %d bytes, want %s of %d", got.Type, len(got.Data), want.Type, len(want.Data))
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%s of %d bytes was not copied", want.Type, len(want.Data))
	}
}

// Two clipboards of one display: each is an application to the other.
func TestClipboardBothWays(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "64x64x24").Display
	a, heardA := clipboard(t, display)
	b, heardB := clipboard(t, display)
	picture := make([]byte, 5<<20) // goes by INCR, in 40 parts
	for i := range picture {
		picture[i] = byte(rand.Uint32())
	}
	copy(picture, "\x89PNG\r\n\x1a\n")
	for _, clip := range []Clip{
		{ClipText, []byte("grüße, 日本 🦊\n")},
		{ClipPNG, picture},
		{ClipText, bytes.Repeat([]byte("long line "), 300_000)},
	} {
		if err := a.Set(t.Context(), clip); err != nil {
			t.Fatal(err)
		}
		wantClip(t, heardB, clip)
		back := Clip{ClipText, fmt.Appendf(nil, "back %s %d", clip.Type, len(clip.Data))}
		if err := b.Set(t.Context(), back); err != nil {
			t.Fatal(err)
		}
		wantClip(t, heardA, back)
	}
	// What both have is told to nobody again.
	same := Clip{ClipText, []byte("same")}
	if err := a.Set(t.Context(), same); err != nil {
		t.Fatal(err)
	}
	wantClip(t, heardB, same)
	for _, c := range []*Clipboard{b, a, b} {
		if err := c.Set(t.Context(), same); err != nil {
			t.Fatal(err)
		}
	}
	end := Clip{ClipText, []byte("end")}
	if err := a.Set(t.Context(), end); err != nil {
		t.Fatal(err)
	}
	wantClip(t, heardB, end)
	if n := len(heardA); n != 0 {
		t.Errorf("%d echoes", n)
	}
}

// An application that owns the clipboard and gives nothing is given up, and the
// next one is heard.
func TestClipboardOfADeadOwner(t *testing.T) {
	display := xvfb.Start(t, "-screen", "0", "64x64x24").Display
	_, heard := clipboard(t, display)
	dead, _ := clipboard(t, display)
	if err := dead.Set(t.Context(), Clip{ClipText, []byte("gone")}); err != nil {
		t.Fatal(err)
	}
	wantClip(t, heard, Clip{ClipText, []byte("gone")})
	dead.Close()
	next, _ := clipboard(t, display)
	if err := next.Set(t.Context(), Clip{ClipText, []byte("next")}); err != nil {
		t.Fatal(err)
	}
	wantClip(t, heard, Clip{ClipText, []byte("next")})
}

func TestClipIsChecked(t *testing.T) {
	for _, bad := range []Clip{
		{"text/html", []byte("<b>")}, {ClipPNG, []byte("no png")}, {ClipText, []byte{0xff}}, {ClipText, make([]byte, MaxClip+1)},
	} {
		if bad.Check() == nil {
			t.Errorf("%s of %d bytes is taken", bad.Type, len(bad.Data))
		}
	}
	if got := fromLatin1(latin1([]byte("für 日"))); string(got) != "für ?" {
		t.Errorf("Latin-1: %q", got)
	}
}

// A terminal pastes what a viewer brought, and what it marks is copied.
func TestClipboardWithATerminal(t *testing.T) {
	s := newScreen(t)
	c, heard := clipboard(t, s.display)
	if err := c.Set(t.Context(), Clip{ClipText, []byte("für 日本\n")}); err != nil {
		t.Fatal(err)
	}
	// What it is given it marks as its own selection again, by its escape for that (xterm, OSC 52).
	term := exec.Command("xterm", "-u8", "-geometry", "60x10+0+0", "-xrm", "*disallowedWindowOps: ",
		"-e", "sh", "-c", `read -r x; printf '\033]52;c;%s\007' "$(printf 'got %s' "$x" | base64 -w0)"; sleep 60`)
	term.Env = append(term.Environ(), "DISPLAY="+s.display, "LC_ALL=C.UTF-8")
	if err := term.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = term.Process.Kill(); _ = term.Wait() })
	want := Clip{ClipText, []byte("got für 日本")}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		s.do("mouse-move", `{"x":50,"y":50}`)
		for _, pressed := range []string{"true", "false"} {
			s.do("mouse-button", `{"button":2,"pressed":`+pressed+`}`) // pastes PRIMARY
		}
		select {
		case got := <-heard:
			if !got.equal(want) {
				t.Fatalf("the terminal copied %q", got.Data)
			}
			return
		case <-time.After(300 * time.Millisecond): // its window was not there yet
		}
	}
	t.Fatal("the terminal pasted or copied nothing")
}
