package stream

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gamepad"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media/input"
)

// own is a channel of Perigee's as a page has it.
type own struct {
	t    *testing.T
	dc   *webrtc.DataChannel
	in   chan []byte
	gone chan struct{}
}

func (c *client) own(name string) *own {
	c.t.Helper()
	dc, err := c.pc.CreateDataChannel(name, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	o := &own{t: c.t, dc: dc, in: make(chan []byte, 4096), gone: make(chan struct{})}
	open := make(chan struct{})
	dc.OnOpen(func() { close(open) })
	dc.OnClose(func() { close(o.gone) })
	dc.OnMessage(func(m webrtc.DataChannelMessage) { o.in <- m.Data })
	got(c.t, open, "channel "+name)
	return o
}

func (o *own) say(n note) {
	o.t.Helper()
	b, err := json.Marshal(n)
	if err != nil {
		o.t.Fatal(err)
	}
	if err := o.dc.Send(append([]byte{parcelJSON}, b...)); err != nil {
		o.t.Fatal(err)
	}
}

func (o *own) data(id uint32, b []byte) {
	o.t.Helper()
	for len(b) > 0 {
		n := min(len(b), parcelSize)
		if err := o.dc.Send(append(binary.BigEndian.AppendUint32([]byte{parcelData}, id), b[:n]...)); err != nil {
			o.t.Fatal(err)
		}
		b = b[n:]
	}
}

// hear waits for a note of an op; data before it is collected.
func (o *own) hear(op string) (note, []byte) {
	o.t.Helper()
	var all []byte
	var others []string
	deadline := time.After(patience)
	for {
		select {
		case b := <-o.in:
			n, data, err := parse(b)
			if err != nil {
				o.t.Fatal(err)
			}
			if all = append(all, data...); n.Op == op {
				return n, all
			}
			others = append(others, fmt.Sprint(n))
		case <-deadline:
			o.t.Fatalf("no %q came, but %v", op, others)
		}
	}
}

// furnished serves the door of an instance whose home is a folder.
func furnished(t *testing.T, r *rig, events chan gamepad.Event) string {
	t.Helper()
	home := t.TempDir()
	d, err := local.NewDoor(r.dir.DoorSocket(), func() (*os.File, error) { return os.Open(home) }, func(c net.Conn) error {
		if events == nil {
			return errors.New("none here")
		}
		b := make([]byte, gamepad.EventSize)
		for c != nil {
			if _, err := io.ReadFull(c, b); err != nil {
				return err
			}
			e, err := gamepad.Parse(b)
			if err != nil {
				return err
			}
			events <- e
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return home
}

func TestFilesUp(t *testing.T) {
	r := start(t)
	home := furnished(t, r, nil)
	c := r.join("1-abc")
	c.watch()
	got(t, c.open, "control channel")
	f := c.own(filesChannel)
	big := strings.Repeat("0123456789abcdef", 100_000) // 1.6 MB
	for i, x := range []struct{ name, content, want string }{
		{"note.txt", "hello", "note.txt"},
		{"note.txt", "again", "note (1).txt"},
		{"../../etc/passwd", "x", "passwd"},
		{`..\..\autoexec.bat`, "y", "autoexec.bat"},
		{".ssh\x00/\u202e.profile", "z", "_.profile"},
		{"empty", "", "empty"},
		{"big.bin", big, "big.bin"},
	} {
		id := uint32(i + 1)
		f.say(note{Op: opPut, ID: id, Name: x.name, Size: int64(len(x.content))})
		f.data(id, []byte(x.content))
		done, _ := f.hear(opDone)
		if done.Name != x.want {
			t.Errorf("%q became %q, want %q", x.name, done.Name, x.want)
		}
		if b, err := os.ReadFile(filepath.Join(home, uploads, x.want)); err != nil || string(b) != x.content {
			t.Errorf("%q holds %d bytes, want %d: %v", x.want, len(b), len(x.content), err)
		}
	}
	f.say(note{Op: opPut, ID: 90, Name: "huge", Size: maxFile + 1})
	if n, _ := f.hear(opFailed); n.ID != 90 || !strings.Contains(n.Why, "2048 MiB") {
		t.Errorf("a huge file: %+v", n)
	}
	f.say(note{Op: opPut, ID: 91, Name: "liar", Size: 3})
	f.data(91, []byte("four"))
	if n, _ := f.hear(opFailed); n.ID != 91 {
		t.Errorf("more than was said: %+v", n)
	}
	// What is not whole when the page goes leaves nothing.
	f.say(note{Op: opPut, ID: 92, Name: "half", Size: 10})
	f.data(92, []byte("12345"))
	c.leave()
	r.wait("removal of the half file", func() bool {
		left, err := filepath.Glob(filepath.Join(home, uploads, ".*"))
		return err == nil && len(left) == 0
	})
	if _, err := os.Stat(filepath.Join(home, uploads, "half")); err == nil {
		t.Error("half a file was kept")
	}
}

func TestFilesDown(t *testing.T) {
	r := start(t)
	home := furnished(t, r, nil)
	down := filepath.Join(home, downloads)
	if err := os.Mkdir(down, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name, content string) {
		if err := os.WriteFile(filepath.Join(down, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("result.csv", strings.Repeat("1,2,3\n", 200_000))
	put("film.part", "unfinished")
	if err := os.Symlink("/etc/passwd", filepath.Join(down, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(down, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := r.join("1-abc")
	c.watch()
	got(t, c.open, "control channel")
	f := c.own(filesChannel)
	n, _ := f.hear(opFiles)
	if len(n.Files) != 1 || n.Files[0].Name != "result.csv" || n.Files[0].Size != 1_200_000 {
		t.Fatalf("listed %+v", n.Files)
	}
	f.say(note{Op: opGet, ID: 1, Name: "result.csv"})
	begun, _ := f.hear(opGet)
	_, data := f.hear(opDone)
	if begun.Size != 1_200_000 || string(data) != strings.Repeat("1,2,3\n", 200_000) {
		t.Errorf("said %d bytes, sent %d", begun.Size, len(data))
	}
	for _, bad := range []string{"link", "pipe", "../Uploads/x", "/etc/passwd", "film.part", "", "..", "missing"} {
		f.say(note{Op: opGet, ID: 2, Name: bad})
		if n, data := f.hear(opFailed); n.ID != 2 || len(data) > 0 {
			t.Errorf("%q was sent", bad)
		}
	}
	put("later.txt", "x") // the list follows
	if n, _ := f.hear(opFiles); len(n.Files) != 2 || n.Files[0].Name != "later.txt" {
		t.Errorf("listed %+v", n.Files)
	}
	// Programs may remove the folder and make it again.
	if err := os.RemoveAll(down); err != nil {
		t.Fatal(err)
	}
	if n, _ := f.hear(opFiles); len(n.Files) != 0 {
		t.Errorf("listed %+v of a folder that is gone", n.Files)
	}
	put("new.txt", "x")
	if n, _ := f.hear(opFiles); len(n.Files) != 1 || n.Files[0].Name != "new.txt" {
		t.Errorf("listed %+v", n.Files)
	}
}

func TestExchangeIsPermitted(t *testing.T) {
	r := start(t, func(_ *Config, spec *api.Spec) {
		spec.App.Permissions = api.Permissions{Clipboard: api.ClipboardNone, Files: api.FilesDown}
	})
	furnished(t, r, nil)
	c := r.join("1-abc")
	c.watch()
	got(t, c.open, "control channel")
	got(t, c.own(clipboardChannel).gone, "end of the clipboard's channel")
	f := c.own(filesChannel)
	f.say(note{Op: opPut, ID: 1, Name: "a", Size: 1})
	if n, _ := f.hear(opFailed); !strings.Contains(n.Why, "takes no files") {
		t.Errorf("an upload: %+v", n)
	}
	w := r.joinAs("2-abc", api.RoleViewer)
	w.watch()
	got(t, w.open, "control channel")
	got(t, w.own(filesChannel).gone, "end of a watcher's channel")
}

func TestClipboardBothWays(t *testing.T) {
	r, _, _ := watched(t)
	c := r.join("1-abc")
	c.watch()
	got(t, c.open, "control channel")
	f := c.own(clipboardChannel)
	st, err := r.dir.ReadInstance()
	if err != nil {
		t.Fatal(err)
	}
	copied := make(chan input.Clip, 4)
	app, err := input.OpenClipboard(t.Context(), input.ClipboardConfig{Display: st.Display, Log: slog.New(slog.DiscardHandler),
		Copied: func(c input.Clip) { copied <- c }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(app.Close)
	text := strings.Repeat("zwölf ", 50_000)
	for { // until the display's clipboard is connected
		f.say(note{Op: opClip, ID: 1, Type: input.ClipText, Size: int64(len(text))})
		f.data(1, []byte(text))
		b := <-f.in
		if n, _, err := parse(b); err == nil && n.Op == opDone {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if clip := <-copied; string(clip.Data) != text {
		t.Errorf("the application got %d bytes, want %d", len(clip.Data), len(text))
	}
	if err := app.Set(t.Context(), input.Clip{Type: input.ClipText, Data: []byte("of the application")}); err != nil {
		t.Fatal(err)
	}
	n, _ := f.hear(opClip)
	data, _, _ := parseData(<-f.in)
	if n.Type != input.ClipText || string(data) != "of the application" {
		t.Errorf("copied %+v %q", n, data)
	}
	for _, bad := range []note{{Op: opClip, ID: 3, Type: "text/html", Size: 1}, {Op: opClip, ID: 4, Type: input.ClipText, Size: input.MaxClip + 1}} {
		f.say(bad)
		f.data(bad.ID, []byte("x"))
		if n, _ := f.hear(opFailed); n.ID != bad.ID {
			t.Errorf("%+v was taken", bad)
		}
	}
}

func parseData(b []byte) ([]byte, uint32, error) {
	n, data, err := parse(b)
	return data, n.ID, err
}

func TestGamepads(t *testing.T) {
	r, _, _ := watched(t)
	events := make(chan gamepad.Event, 64)
	furnished(t, r, events)
	c := r.join("1-abc")
	c.watch()
	got(t, c.open, "control channel")
	say := func(text string) {
		if err := c.control.SendText(text); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(patience); len(events) == 0; time.Sleep(10 * time.Millisecond) {
		say(`{"type":"perigee::gamepad","data":{"id":2,"plugged":true}}`)
		if time.Now().After(deadline) {
			t.Fatal("no gamepad was plugged in")
		}
	}
	say(`{"type":"input::gamepad-button","data":{"id":2,"index":0,"pressed":true}}`)
	say(`{"type":"input::gamepad-axes","data":{"id":0,"index":1,"value":-0.5}}`) // the wire's own page: it appears
	say(`{"type":"input::gamepad-button","data":{"id":2,"index":7,"pressed":true,"perigee":{"value":0.5}}}`)
	say(`{"type":"input::gamepad-button","data":{"id":-1}}`)
	say(`{"type":"perigee::gamepad","data":{"id":0,"plugged":false}}`)
	want := []gamepad.Event{
		{Kind: gamepad.Button, Value: 255}, {Slot: 1, Kind: gamepad.Axis, Index: 1, Value: -16384},
		{Kind: gamepad.Button, Index: 7, Value: 128}, {Slot: 1, Kind: gamepad.Unplug},
	}
	next := func() gamepad.Event {
		select {
		case e := <-events:
			return e
		case <-time.After(patience):
			t.Fatal("an event is missing")
			return gamepad.Event{}
		}
	}
	e := next()
	for e.Kind == gamepad.Plug {
		e = next()
	}
	for i, w := range want {
		if i > 0 {
			e = next()
		}
		if e != w {
			t.Errorf("event %d is %+v, want %+v", i, e, w)
		}
	}
	c.leave()
	if e := next(); e != (gamepad.Event{Kind: gamepad.Unplug}) {
		t.Errorf("after the viewer left: %+v", e)
	}
}

func TestCleanName(t *testing.T) {
	for in, want := range map[string]string{
		"a.txt": "a.txt", "": "file", "..": "file", ".": "file", "/": "file", "a/b/c.png": "c.png", "-rf": "rf", "x\ny": "x_y",
		"für 日本 🦊.tar.gz": "für 日本 🦊.tar.gz", strings.Repeat("ä", 200) + ".pdf": strings.Repeat("ä", 98) + ".pdf",
		"\xff\xfe.doc": "_.doc", "con\u202etxt.exe": "con_txt.exe",
	} {
		if got := cleanName(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}
