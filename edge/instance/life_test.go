package instance

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/api"
)

func hook(seconds int, script string) *api.Hook {
	return &api.Hook{Command: []string{"sh", "-c", script}, TimeoutS: seconds}
}

func TestHooks(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("not root: hooks have homes of their own")
	}
	app := sh("cat ~/made; until [ -e ~/after ]; do sleep 0.01; done; echo ran; rm -f ~/made; exit 0")
	app.Hooks = api.Hooks{
		PreStart:  hook(5, "echo pre >~/made"),
		PostStart: hook(5, "echo post; touch ~/after"),
		PostStop:  hook(5, "ls ~; echo cleaned"),
	}
	out, st := run(t, app)
	if st.Reason != api.ReasonAppExited || out != "pre\npost\nran\nafter\ncleaned\n" {
		t.Errorf("ended as %+v and wrote %q", st, out)
	}
	for _, c := range []struct {
		name, message string
		hooks         api.Hooks
	}{
		{"pre fails", "hook pre_start exited with status 4: no licence", api.Hooks{PreStart: hook(5, "echo no licence; exit 4"), PostStop: hook(5, "echo stopped")}},
		{"pre hangs", "hook pre_start did not end within 1s", api.Hooks{PreStart: hook(1, "trap '' TERM; sleep 60")}},
		{"pre is killed", "hook pre_start was killed by", api.Hooks{PreStart: hook(5, "kill -KILL $$")}},
		{"pre is missing", "hook pre_start: command no-such-program is not in", api.Hooks{PreStart: &api.Hook{Command: []string{"no-such-program"}}}},
		{"post hangs", "hook post_start did not end within 1s", api.Hooks{PostStart: hook(1, "while :; do sleep 60; done")}},
		{"post fails", "hook post_start exited with status 1", api.Hooks{PostStart: hook(5, "exit 1")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			app := sh("echo up; sleep 60")
			app.Hooks = c.hooks
			out, st := run(t, app)
			if st.Observed != api.ObservedFailed || st.Reason != api.ReasonStartFailed || !strings.Contains(st.Message, c.message) {
				t.Errorf("ended as %+v", st)
			}
			if strings.HasPrefix(c.name, "pre") && strings.Contains(out, "up") {
				t.Errorf("the application ran all the same: %q", out)
			}
		})
	}
	t.Run("post_stop hangs", func(t *testing.T) {
		t.Parallel()
		app := sh("exit 3")
		app.Hooks.PostStop = hook(1, "sleep 60")
		begun := time.Now()
		if _, st := run(t, app); st.Reason != api.ReasonAppCrashed || time.Since(begun) > 6*time.Second {
			t.Errorf("ended as %+v after %s", st, time.Since(begun))
		}
	})
	t.Run("a hook takes longer than a start may", func(t *testing.T) {
		t.Parallel()
		app := sh("true")
		app.Hooks.PreStart = hook(20, "sleep 4.2")
		if _, st := run(t, app, "TEST_START=4s"); st.Reason != api.ReasonAppExited {
			t.Errorf("ended as %+v", st)
		}
	})
}

func TestRestarts(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("not root: each run has a home of its own")
	}
	const counts = "n=$(cat ~/n 2>/dev/null || echo 0); echo run $n; echo $((n+1)) >~/n; sleep 60 & "
	app := sh(counts + "[ $n -ge 2 ] || exit 3")
	app.OnExit.Restart = api.RestartOnFailure
	out, st := run(t, app)
	if st.Reason != api.ReasonAppExited || st.Restarts != 2 || out != "run 0\nrun 1\nrun 2\n" {
		t.Errorf("ended as %+v and wrote %q", st, out)
	}
	app.OnExit.MaxRestarts = 1
	if out, st = run(t, app); st.Reason != api.ReasonAppCrashed || !strings.Contains(st.Message, "after 1 restarts") || out != "run 0\nrun 1\n" {
		t.Errorf("ended as %+v and wrote %q", st, out)
	}
	app = sh(counts)
	app.OnExit = api.OnExit{Restart: api.RestartAlways, MaxRestarts: 2}
	if out, st = run(t, app); st.Reason != api.ReasonAppExited || out != "run 0\nrun 1\nrun 2\n" {
		t.Errorf("ended as %+v and wrote %q", st, out)
	}
	t.Run("stopped between two runs", func(t *testing.T) {
		t.Parallel()
		app := sh("exit 1")
		app.OnExit = api.OnExit{Restart: api.RestartAlways, MaxRestarts: 1000}
		s := startShim(t, app, api.Screen{})
		s.dial()
		until(t, "restart", 10*time.Second, func() bool { st, err := s.dir.ReadInstance(); return err == nil && st.Restarts >= 2 })
		s.stop(false)
		s.nothingLeft("")
	})
}

// pingable opens a window that takes the window manager's pings and gives a
// function that answers those that have come.
func pingable(c *client) func() {
	id := c.open(100, 100, false)
	atom := func(name string) xproto.Atom {
		r, err := xproto.InternAtom(c.x, false, uint16(len(name)), name).Reply()
		if err != nil {
			c.t.Fatal(err)
		}
		return r.Atom
	}
	protocols, ping := atom("WM_PROTOCOLS"), atom("_NET_WM_PING")
	b := binary.LittleEndian.AppendUint32(nil, uint32(ping))
	if err := xproto.ChangePropertyChecked(c.x, xproto.PropModeReplace, id, protocols, xproto.AtomAtom, 32, 1, b).Check(); err != nil {
		c.t.Fatal(err)
	}
	return func() {
		for {
			ev, _ := c.x.PollForEvent()
			if ev == nil {
				return
			}
			if m, ok := ev.(xproto.ClientMessageEvent); ok && m.Type == protocols && m.Data.Data32[0] == uint32(ping) {
				m.Window = c.root
				xproto.SendEvent(c.x, false, c.root, xproto.EventMaskSubstructureRedirect|xproto.EventMaskSubstructureNotify, string(m.Bytes()))
			}
		}
	}
}

func TestHangIsNoticed(t *testing.T) {
	t.Parallel()
	app := sh("sleep 60")
	app.Watchdog.HangS = 1
	t.Run("answers", func(t *testing.T) {
		t.Parallel()
		s := startShim(t, app, api.Screen{})
		answer := pingable(&client{dialTest(t, s.wait(api.ObservedRunning).Display, s), t})
		for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			answer()
		}
		if st, err := s.dir.ReadInstance(); err != nil || st.Observed != api.ObservedRunning {
			t.Errorf("it answers, but is %+v (%v)", st, err)
		}
		s.stop(true)
	})
	t.Run("hangs", func(t *testing.T) {
		t.Parallel()
		s := startShim(t, app, api.Screen{})
		st := s.wait(api.ObservedRunning)
		pingable(&client{dialTest(t, st.Display, s), t})
		if !s.ended(10 * time.Second) {
			t.Fatal("nobody notices that it hangs")
		}
		got, err := s.dir.ReadInstance()
		if err != nil || got.Reason != api.ReasonAppHung || !strings.Contains(got.Message, "has not answered for 1s") {
			t.Errorf("ended as %+v (%v)", got, err)
		}
		s.nothingLeft(st.Display)
	})
	t.Run("off", func(t *testing.T) {
		t.Parallel()
		app := app
		app.Watchdog.Off = true
		s := startShim(t, app, api.Screen{})
		pingable(&client{dialTest(t, s.wait(api.ObservedRunning).Display, s), t})
		if s.ended(2 * time.Second) {
			t.Error("it was ended all the same")
		}
		s.stop(true)
	})
}

func dialTest(t *testing.T, display string, s *testShim) *control {
	t.Helper()
	st, err := s.dir.ReadInstance()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(st.XAuth)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dialQuiet("/tmp/.X11-unix/X"+strings.TrimPrefix(display, ":"), b[len(b)-16:])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func TestDiskQuota(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("not root: no file system of its own")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skipf("no loop devices here: %v", err)
	}
	app := sh("head -c 100000000 /dev/zero >~/x; du -m ~/x | cut -f1; id -u; touch ~/y 2>/dev/null; echo done")
	app.Resources = api.Resources{DiskMiB: 16, MemoryMiB: 64}
	s := startShim(t, app, api.Screen{})
	if !s.ended(20 * time.Second) {
		t.Fatal("the application does not end")
	}
	b, err := os.ReadFile(s.dir.Path("app.log"))
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if err != nil || len(lines) < 4 || !strings.Contains(lines[0], "No space left") || len(lines[1]) != 2 || lines[2] != "1000" {
		t.Errorf("wrote %q (%v)", b, err)
	}
	s.nothingLeft("")
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), string(s.dir)) {
			t.Errorf("%s still holds %s", f, b)
		}
	}
	app.Resources.DiskMiB = 0 // in memory: half of it
	if out, _ := run(t, app); !strings.Contains(out, "No space left") {
		t.Errorf("without a size on disk it wrote %q", out)
	}
}

func TestFloodOfOutput(t *testing.T) {
	t.Parallel()
	app := sh("head -c 400000000 /dev/zero | tr '\\0' x; echo; echo the last words")
	app.Resources.CPUMillis = 4000
	s := startShim(t, app, api.Screen{})
	if !s.ended(20 * time.Second) {
		t.Fatal("the application does not end")
	}
	var total int64
	for _, f := range []string{"app.log", "app.log.1"} {
		if info, err := os.Stat(s.dir.Path(f)); err == nil {
			total += info.Size()
		}
	}
	b, err := os.ReadFile(s.dir.Path("app.log"))
	if total > maxLog+64<<10 || err != nil || !strings.HasSuffix(string(b), "the last words\n") {
		t.Errorf("%d bytes of 400 MB are kept (%v)", total, err)
	}
}
