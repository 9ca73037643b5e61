package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"image/png"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	cdpinput "github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"

	"github.com/perigee-cloud/perigee/cmd/run/site"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media/input"
)

// exchanger is what runs in the terminal: each step's result lies in Downloads.
const exchanger = `mkdir -p ~/Downloads; cd ~/Downloads
read -r typed; printf %s "$typed" >typed.txt
while [ -z "$pasted" ]; do read -r pasted; done; printf %s "$pasted" >pasted.txt
printf '\033]52;c;%s\007' "$(printf 'from the application: ü 日本' | base64 -w0)"
while ! [ -e ~/Uploads/note.bin ]; do sleep 0.05; done
sha256sum <~/Uploads/note.bin >sum.txt
while ! [ -e /dev/input/js0 ]; do sleep 0.05; done
timeout 60 jstest --event /dev/input/js0 | grep --line-buffered -m2 -E 'type (1|2), .*number (0|1), value -?[1-9]' >pad.tmp; mv pad.tmp pad.txt
sleep 1000`

// command sends one command of the browser's protocol.
func command[P, R any](t *testing.T, v *site.Viewer, cmd cdp.Command[P, R], params P) {
	t.Helper()
	err := v.Do(func(ctx context.Context, _ *chromedp.Target) (none chromedp.Void, err error) {
		_, err = chromedp.Call(ctx, cmd, params)
		return none, err
	})
	if err != nil {
		t.Fatalf("%s: %v", cmd.Method, err)
	}
}

func key(t *testing.T, v *site.Viewer, down bool, key, code string, virtual, modifiers int64) {
	t.Helper()
	typ := cdpinput.DispatchKeyEventTypeRawKeyDown
	if !down {
		typ = cdpinput.DispatchKeyEventTypeKeyUp
	}
	command(t, v, cdpinput.DispatchKeyEvent, cdpinput.DispatchKeyEventParams{Type: typ, Key: key, Code: code, WindowsVirtualKeyCode: virtual, Modifiers: modifiers})
}

// until waits for an expression of the page to be true.
func until(t *testing.T, v *site.Viewer, what, expression string) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		ok, err := site.Eval[bool](v.Tab, expression)
		if err == nil && !ok {
			err = errors.New("no " + what)
		}
		return err
	})
}

// downloaded fetches a file that the application wrote, through the page.
func downloaded(t *testing.T, v *site.Viewer, name string) string {
	t.Helper()
	until(t, v, name, fmt.Sprintf(`!!perigee.files?.list.some(f => f.name === %q && f.size > 0)`, name))
	return eval[string](t, v, fmt.Sprintf(`perigee.files.download(%q).then(b => b.text())`, name))
}

// What a person exchanges with an application beside keys and picture, through
// the player, with a real terminal and real programs in it.
func TestExchange(t *testing.T) {
	w := newWorld(t)
	if _, err := w.CLI(t.Context(), "app", "put", "exchange", "--", "xterm", "-u8", "-maximized", "-xrm", "*disallowedWindowOps: ", "-e", "sh", "-c", exchanger); err != nil {
		t.Fatal(err)
	}
	b, err := site.NewBrowser(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	w.browser = b
	tab, err := b.Open(w.API + "/?app=exchange&token=" + w.token)
	if err != nil {
		t.Fatal(err)
	}
	v := &site.Viewer{Tab: tab}
	t.Cleanup(func() {
		if t.Failed() {
			shot(t, tab, "exchange-failed")
			x, err := site.Eval[string](tab, `JSON.stringify([perigee.files.list, perigee.files.ended, perigee.files.parcels.open, [...perigee.peerConnection ? [perigee.peerConnection.connectionState] : []]])`)
			t.Log(x, err)
			if list, err := filepath.Glob(filepath.Join(w.edge.Dir, "run", "*", "*.log")); err == nil {
				for _, f := range list {
					b, _ := os.ReadFile(f)
					t.Log(f, string(b[max(0, len(b)-3000):]))
				}
			}
		}
	})
	for _, p := range []string{"clipboard-read", "clipboard-write"} {
		if err := v.Do(func(ctx context.Context, _ *chromedp.Target) (none chromedp.Void, err error) {
			_, err = chromedp.CallBrowser(ctx, browser.SetPermission, browser.SetPermissionParams{
				Permission: &browser.PermissionDescriptor{Name: p}, Setting: browser.PermissionSettingGranted})
			return none, err
		}); err != nil {
			t.Fatal(err)
		}
	}
	until(t, v, "play button", `document.querySelector("#play")?.offsetParent != null`)
	eval[any](t, v, `document.querySelector("#play").click()`)
	until(t, v, "picture", `perigee?.state === "live"`)
	until(t, v, "exchange", `!!perigee.clipboard && !!perigee.files && perigee.gamepads === 0`)
	until(t, v, "terminal", `(async () => { const c = new OffscreenCanvas(64, 64).getContext("2d"); c.drawImage(perigee.video, 0, 0, 64, 64); return c.getImageData(30, 30, 1, 1).data[0] > 200; })()`)

	writes(t, v)
	pastes(t, v)
	copies(t, v)
	pictures(t, w, v)
	uploads(t, v)
	plays(t, v)
	shot(t, tab, "exchange")
}

// writes composes as an input method does; what comes of it reaches the terminal.
func writes(t *testing.T, v *site.Viewer) {
	t.Helper()
	eval[any](t, v, `document.querySelector("#type").click()`)
	until(t, v, "field", `document.activeElement?.tagName === "TEXTAREA"`)
	for _, part := range []string{"に", "にほ", "日本"} {
		command(t, v, cdpinput.ImeSetComposition, cdpinput.ImeSetCompositionParams{Text: part, SelectionStart: 1, SelectionEnd: 1})
	}
	command(t, v, cdpinput.InsertText, cdpinput.InsertTextParams{Text: "日本"})
	for _, part := range []string{" grün", " é😀"} { // a dead key, an emoji's list
		command(t, v, cdpinput.InsertText, cdpinput.InsertTextParams{Text: part})
	}
	key(t, v, true, "Enter", "Enter", 13, 0)
	key(t, v, false, "Enter", "Enter", 13, 0)
	if got := downloaded(t, v, "typed.txt"); got != "日本 grün é😀" {
		t.Errorf("the terminal read %q", got)
	}
	eval[any](t, v, `document.querySelector("#type").click()`)
	until(t, v, "focus", `document.activeElement?.id === "surface"`)
}

// pastes presses the keys that paste in a terminal.
func pastes(t *testing.T, v *site.Viewer) {
	t.Helper()
	eval[any](t, v, `navigator.clipboard.writeText("pasted: ß 日本 🦊")`)
	key(t, v, true, "Shift", "ShiftLeft", 16, 8)
	key(t, v, true, "Insert", "Insert", 45, 8)
	key(t, v, false, "Insert", "Insert", 45, 8)
	key(t, v, false, "Shift", "ShiftLeft", 16, 0)
	eventually(t, 10*time.Second, func() error { // a terminal asks for what it pastes, and goes on with keys meanwhile
		key(t, v, true, "Enter", "Enter", 13, 0)
		key(t, v, false, "Enter", "Enter", 13, 0)
		time.Sleep(300 * time.Millisecond)
		ok, err := site.Eval[bool](v.Tab, `perigee.files.list.some(f => f.name === "pasted.txt" && f.size > 0)`)
		if err == nil && !ok {
			err = errors.New("nothing was pasted")
		}
		return err
	})
	if got := downloaded(t, v, "pasted.txt"); got != "pasted: ß 日本 🦊" {
		t.Errorf("the terminal read %q", got)
	}
}

// copies waits for what the terminal copied then.
func copies(t *testing.T, v *site.Viewer) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		got, err := site.Eval[string](v.Tab, `navigator.clipboard.readText()`)
		if err == nil && got != "from the application: ü 日本" {
			err = fmt.Errorf("the browser's clipboard holds %q", got)
		}
		return err
	})
}

// pictures copies one each way; the application is a client of its display.
func pictures(t *testing.T, w *world, v *site.Viewer) {
	t.Helper()
	sessions, err := local.Run(filepath.Join(w.edge.Dir, "run")).Sessions()
	if err != nil || len(sessions) != 1 {
		t.Fatalf("sessions: %v, %v", sessions, err)
	}
	st, err := sessions[0].ReadInstance()
	if err != nil {
		t.Fatal(err)
	}
	copied := make(chan input.Clip, 4)
	app, err := input.OpenClipboard(t.Context(), input.ClipboardConfig{Display: st.Display, XAuth: st.XAuth, Log: slog.New(slog.DiscardHandler),
		Copied: func(c input.Clip) { copied <- c }})
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	eval[any](t, v, `(async () => {
		const c = new OffscreenCanvas(300, 200), x = c.getContext("2d");
		x.fillStyle = "#36c"; x.fillRect(0, 0, 150, 200);
		await navigator.clipboard.write([new ClipboardItem({"image/png": await c.convertToBlob({type: "image/png"})})]);
	})()`)
	key(t, v, true, "Control", "ControlLeft", 17, 2)
	key(t, v, true, "v", "KeyV", 86, 2)
	key(t, v, false, "v", "KeyV", 86, 2)
	key(t, v, false, "Control", "ControlLeft", 17, 0)
	select {
	case c := <-copied:
		img, err := png.Decode(bytes.NewReader(c.Data))
		if err != nil || c.Type != input.ClipPNG || img.Bounds().Dx() != 300 {
			t.Errorf("the application got %s of %d bytes: %v", c.Type, len(c.Data), err)
		}
		if err := app.Set(t.Context(), input.Clip{Type: input.ClipPNG, Data: append(c.Data, "changed"...)}); err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no picture came")
	}
	eval[any](t, v, `navigator.clipboard.writeText("-")`)
	if err := app.Set(t.Context(), input.Clip{Type: input.ClipText, Data: []byte("+")}); err != nil {
		t.Fatal(err)
	}
	until(t, v, "text", `navigator.clipboard.readText().then(t => t === "+")`)
}

// uploads sends a file as the player's own field does.
func uploads(t *testing.T, v *site.Viewer) {
	t.Helper()
	content := bytes.Repeat([]byte("0123456789abcdef"), 500_000) // 8 MB
	file := filepath.Join(t.TempDir(), "note.bin")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := v.Do(chromedp.SetUploadFiles("#file-input", []string{file})); err != nil {
		t.Fatal(err)
	}
	until(t, v, "end of the upload", `document.querySelector("#transfers li small")?.textContent.endsWith("done")`)
	t.Logf("8 MB sent in %s", time.Since(begun).Round(time.Millisecond))
	shot(t, v.Tab, "upload")
	sum := sha256.Sum256(content)
	if got := downloaded(t, v, "sum.txt"); !strings.HasPrefix(got, hex.EncodeToString(sum[:])) {
		t.Errorf("the application has another file: %s", got)
	}
	eval[any](t, v, `document.querySelector("#swap").click()`)
}

// plays has a browser with a gamepad; jstest says what it does.
func plays(t *testing.T, v *site.Viewer) {
	t.Helper()
	eval[any](t, v, `(() => {
		window.pad = {id: "Test pad", index: 0, connected: true, mapping: "standard", axes: [0, 0, 0, 0],
			buttons: Array.from({length: 17}, () => ({pressed: false, value: 0}))};
		navigator.getGamepads = () => [window.pad];
		window.dispatchEvent(new Event("gamepadconnected"));
	})()`)
	until(t, v, "gamepad", `perigee.gamepads === 1`)
	// Until jstest runs, which begins with the device.
	eventually(t, 20*time.Second, func() error {
		for _, state := range []string{`pad.buttons[0] = {pressed: true, value: 1}; pad.axes[1] = -0.5`, `pad.buttons[0] = {pressed: false, value: 0}; pad.axes[1] = 0`} {
			if _, err := site.Eval[any](v.Tab, `(() => {`+state+`})()`); err != nil {
				return err
			}
			time.Sleep(30 * time.Millisecond)
		}
		ok, err := site.Eval[bool](v.Tab, `perigee.files.list.some(f => f.name === "pad.txt")`)
		if err == nil && !ok {
			err = errors.New("jstest saw nothing")
		}
		return err
	})
	got := downloaded(t, v, "pad.txt")
	if !strings.Contains(got, "type 1,") || !strings.Contains(got, "number 0, value 1") || !strings.Contains(got, "number 1, value -1638") {
		t.Errorf("jstest saw %q", got)
	}
}
