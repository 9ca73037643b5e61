package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// A newcomer's way: `perigee dev`, the printed address, a click, a picture;
// then Ctrl-C, and nothing is left.
func TestNewcomer(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "pdev")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	before := snapshot(t)
	bin, err := site.Bin()
	if err != nil {
		t.Fatal(err)
	}
	token := ""
	for _, start := range []string{"first start", "second start"} {
		var out bytes.Buffer
		lines := make(chan string, 64)
		cmd := exec.Command(filepath.Join(bin, "perigee"), "dev", "--data", dir, "--listen", "127.0.0.1:0")
		cmd.Stdout, cmd.Stderr = writerTo(lines), &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		exited := make(chan error, 1)
		go func() { exited <- cmd.Wait() }()
		address := awaitAddress(t, lines, &out)
		if got := regexp.MustCompile(`token=(\S+)`).FindStringSubmatch(address); got == nil || token != "" && got[1] != token {
			t.Errorf("%s: address %s, want the token kept (%s)", start, address, token)
		} else {
			token = got[1]
		}
		clickAndWatch(t, address)
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-exited:
			if err != nil {
				t.Errorf("%s: Ctrl-C: %v\n%s", start, err, out.String())
			}
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			t.Fatalf("%s: did not end\n%s", start, out.String())
		}
		left(t, dir, before)
	}
}

type lineWriter struct {
	lines chan<- string
	rest  string
}

func writerTo(lines chan<- string) *lineWriter { return &lineWriter{lines: lines} }

// Write hands whole lines on; what nobody reads is dropped.
func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest += string(b)
	for {
		line, rest, ok := strings.Cut(w.rest, "\n")
		if !ok {
			return len(b), nil
		}
		w.rest = rest
		select {
		case w.lines <- line:
		default:
		}
	}
}

func awaitAddress(t *testing.T, lines <-chan string, out *bytes.Buffer) string {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case line := <-lines:
			if address, ok := strings.CutPrefix(strings.TrimSpace(line), "open "); ok {
				return address
			}
		case <-deadline:
			t.Fatalf("no address was printed\n%s", out.String())
		}
	}
}

// clickAndWatch plays the application in the player as a person does.
func clickAndWatch(t *testing.T, address string) {
	t.Helper()
	b, err := site.NewBrowser(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	tab, err := b.Open(address)
	if err != nil {
		t.Fatal(err)
	}
	v := &site.Viewer{Tab: tab}
	eventually(t, 10*time.Second, func() error {
		ok, err := site.Eval[bool](tab, `!!document.querySelector("#play") && document.querySelector("#play").offsetParent !== null`)
		if err == nil && !ok {
			err = errors.New("there is no play button")
		}
		return err
	})
	shot(t, tab, "launch")
	eval[any](t, v, `document.querySelector("#play").click()`)
	eventually(t, 20*time.Second, func() error {
		state, err := site.Eval[string](tab, `globalThis.perigee?.state ?? ""`)
		if err == nil && state != "live" {
			err = fmt.Errorf("the player is %q", state)
		}
		return err
	})
	took := eval[float64](t, v, `perigee.times.live - perigee.times.placing`)
	t.Logf("click to picture: %.0f ms", took)
	eval[any](t, v, `document.querySelector("#stats").click()`)
	eventually(t, 10*time.Second, func() error {
		text, err := site.Eval[string](tab, `document.querySelector("#numbers").innerText`)
		if err == nil && !regexp.MustCompile(`H264|VP8|VP9|AV1`).MatchString(text) {
			err = fmt.Errorf("the statistics say %q", text)
		}
		return err
	})
	eventually(t, 10*time.Second, func() error { return colourful(tab) })
	shot(t, tab, "live")
	eval[any](t, v, `document.querySelector("#leave").click()`)
	eventually(t, 5*time.Second, func() error {
		ok, err := site.Eval[bool](tab, `document.querySelector("#ended").offsetParent !== null`)
		if err == nil && !ok {
			err = errors.New("the player does not say that the stream ended")
		}
		return err
	})
	shot(t, tab, "ended")
}

// colourful says whether the page shows more than a plain surface.
func colourful(tab *site.Tab) error {
	b, err := tab.Screenshot()
	if err != nil {
		return err
	}
	img, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		return err
	}
	colours := map[uint32]bool{}
	for y := img.Bounds().Dy() / 3; y < img.Bounds().Dy()*2/3; y += 3 {
		for x := img.Bounds().Dx() / 3; x < img.Bounds().Dx()*2/3; x += 3 {
			r, g, bl, _ := img.At(x, y).RGBA()
			colours[r>>12<<8|g>>12<<4|bl>>12] = true
		}
	}
	if len(colours) < 16 {
		return fmt.Errorf("the middle of the page has %d colours", len(colours))
	}
	return nil
}

// shot keeps a screenshot where PERIGEE_SHOTS names a folder, for people to look at.
func shot(t *testing.T, tab *site.Tab, name string) {
	t.Helper()
	dir := os.Getenv("PERIGEE_SHOTS")
	if dir == "" {
		return
	}
	b, err := tab.Screenshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), b, 0o644); err != nil {
		t.Fatal(err)
	}
}
