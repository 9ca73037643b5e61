package stream

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// startXvfb runs a real X server on a free display and gives its name.
func startXvfb(t *testing.T) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("Xvfb", "-displayfd", "3", "-nolisten", "tcp", "-noreset", "-screen", "0", "800x600x24")
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("Xvfb did not start: %v", err)
	}
	return ":" + strings.TrimSpace(line)
}

func TestInputReachesDisplayAndEncoder(t *testing.T) {
	display := startXvfb(t)
	r := start(t)
	r.instance(local.InstanceState{Observed: api.ObservedRunning, Display: display})
	eye, err := xgb.NewConnDisplay(display)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(eye.Close)
	root := xproto.Setup(eye).DefaultScreen(eye).Root
	pointer := func() *xproto.QueryPointerReply {
		p, err := xproto.QueryPointer(eye, root).Reply()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	c := r.join("1-abc")
	c.watch()
	got(t, c.open, "control channel")
	say := func(text string) {
		if err := c.control.SendText(text); err != nil {
			t.Fatal(err)
		}
	}
	r.wait("pointer", func() bool { // the display is opened beside the connection
		say(`{"type":"input::mouse-move","data":{"x":123,"y":45,"rx":0,"ry":0}}`)
		p := pointer()
		return p.RootX == 123 && p.RootY == 45
	})
	say(`not json`)
	say(`{"type":"input::key","data":{"code":"x"}}`)
	say(`{"type":"vhal::get-all-prop-configs"}`)
	say(`{"type":"input::mouse-button","data":{"pressed":true,"button":1}}`)
	r.wait("button", func() bool { return pointer().Mask&xproto.KeyButMaskButton1 != 0 })
	c.picture("picture that may show the input", func(s shown) bool { return s.input > 0 })
	c.leave()
	r.wait("release of the button", func() bool { return pointer().Mask&xproto.KeyButMaskButton1 == 0 })
	// A viewer whose ticket only lets it watch drives nothing.
	w := r.joinAs("2-abc", api.RoleViewer)
	w.watch()
	got(t, w.open, "control channel")
	if err := w.control.SendText(`{"type":"input::mouse-move","data":{"x":1,"y":1}}`); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // nothing must happen
	if p := pointer(); p.RootX != 123 {
		t.Error("a watcher moved the pointer")
	}
}
