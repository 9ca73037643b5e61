package instance

import (
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jezek/xgb/xproto"
	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// view is a test's own connection to an instance's X server.
func view(t *testing.T, st local.InstanceState) *control {
	t.Helper()
	b, err := os.ReadFile(st.XAuth)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dialX("/tmp/.X11-unix/X"+strings.TrimPrefix(st.Display, ":"), b[len(b)-16:])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func (c *control) size(t *testing.T) (int, int) {
	t.Helper()
	g, err := xproto.GetGeometry(c.x, xproto.Drawable(c.root)).Reply()
	if err != nil {
		t.Fatal(err)
	}
	return int(g.Width), int(g.Height)
}

// colours counts the colours of the screen's upper left part.
func (c *control) colours(t *testing.T) int {
	t.Helper()
	r, err := xproto.GetImage(c.x, xproto.ImageFormatZPixmap, xproto.Drawable(c.root), 0, 0, 200, 100, ^uint32(0)).Reply()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[3]byte]bool{}
	for i := 0; i+4 <= len(r.Data); i += 4 {
		seen[[3]byte(r.Data[i:i+3])] = true
	}
	return len(seen)
}

func TestXtermDrawsAndIsResized(t *testing.T) {
	t.Parallel()
	s := startShim(t, api.App{Command: []string{"xterm", "-geometry", "80x24+0+0", "-e", "echo drawn; sleep 60"}},
		api.Screen{Width: 1280, Height: 720})
	st := s.wait(api.ObservedRunning)
	t.Logf("running %s after the start of the shim's process", time.Since(s.begun).Round(time.Millisecond))
	if st.PID != s.cmd.Process.Pid || !strings.HasPrefix(st.Pulse, "unix:/") {
		t.Errorf("state is %+v", st)
	}
	x := view(t, st)
	until(t, "text on the screen", 10*time.Second, func() bool { return x.colours(t) > 1 })
	if w, h := x.size(t); w != 1280 || h != 720 {
		t.Fatalf("screen is %dx%d", w, h)
	}
	for _, c := range []struct{ ask, want api.Screen }{
		{api.Screen{Width: 640, Height: 480}, api.Screen{Width: 640, Height: 480}},
		{api.Screen{Width: 3840, Height: 2160}, api.Screen{Width: 3840, Height: 2160}},
		{api.Screen{Width: 641, Height: 479}, api.Screen{Width: 642, Height: 480}},
		{api.Screen{Width: 640, Height: 480}, api.Screen{Width: 640, Height: 480}}, // a mode that is there already
		{api.Screen{Width: 16, Height: 16}, api.Screen{Width: 16, Height: 16}},
	} {
		if err := s.conn.Send(local.Message{Kind: local.KindAdmit, Viewer: 2, Screen: &c.ask}); err != nil {
			t.Fatal(err)
		}
		until(t, "size in the state", 5*time.Second, func() bool {
			st, err := s.dir.ReadInstance()
			return err == nil && st.Screen.Width == c.want.Width && st.Screen.Height == c.want.Height
		})
		if w, h := x.size(t); w != c.want.Width || h != c.want.Height {
			t.Errorf("screen is %dx%d, want %dx%d", w, h, c.want.Width, c.want.Height)
		}
	}
	// Beyond the limits: not heard, nothing breaks.
	_ = s.conn.Send(local.Message{Kind: local.KindAdmit, Screen: &api.Screen{Width: 10_000, Height: 10}})
	if s.stop(false).Reason != api.ReasonDeleted {
		t.Error("the reason of the stop is lost")
	}
	s.nothingLeft(st.Display)
}

func TestHowAnApplicationEnds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		app      api.App
		observed api.Observed
		reason   api.Reason
		message  []string
	}{
		{"exits at once", api.App{Command: []string{"true"}}, api.ObservedStopped, api.ReasonAppExited, nil},
		{"status 3", sh("echo first; echo why it failed >&2; exit 3"), api.ObservedFailed, api.ReasonAppCrashed,
			[]string{"exited with status 3", "why it failed"}},
		{"without a word", sh("exit 7"), api.ObservedFailed, api.ReasonAppCrashed, []string{"exited with status 7"}},
		{"signal", sh("kill -SEGV $$"), api.ObservedFailed, api.ReasonAppCrashed, []string{"killed by segmentation fault"}},
		{"long last word", sh("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1"), api.ObservedFailed, api.ReasonAppCrashed, []string{"status 1: xxx"}},
		{"missing", api.App{Command: []string{"no-such-program"}}, api.ObservedFailed, api.ReasonStartFailed,
			[]string{"no-such-program", "install it"}},
		{"missing path", api.App{Command: []string{"/usr/bin/no-such-program"}}, api.ObservedFailed, api.ReasonStartFailed,
			[]string{"/usr/bin/no-such-program", "not an executable file"}},
		{"outside", api.App{Command: []string{"/etc/init.d/procps"}}, api.ObservedFailed, api.ReasonStartFailed,
			[]string{"read_only"}},
		{"no program", api.App{Command: []string{"/usr/bin"}}, api.ObservedFailed, api.ReasonStartFailed, []string{"not an executable"}},
		{"missing folder", api.App{Command: []string{"true"}, ReadOnly: []string{"/no/such/folder"}}, api.ObservedFailed, api.ReasonStartFailed,
			[]string{"/no/such/folder"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, st := run(t, c.app)
			if st.Observed != c.observed || st.Reason != c.reason {
				t.Errorf("ended as %q for %q (%s)", st.Observed, st.Reason, st.Message)
			}
			for _, m := range c.message {
				if !strings.Contains(st.Message, m) {
					t.Errorf("message %q does not say %q", st.Message, m)
				}
			}
			if len(st.Message) > api.MaxMessage {
				t.Errorf("message has %d bytes", len(st.Message))
			}
		})
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, script, says string
		force              bool
		most               time.Duration
	}{
		{"asked", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done", "bye", false, 3 * time.Second},
		{"deaf", "trap '' TERM; echo up; while :; do sleep 0.05; done", "up", false, 4 * time.Second},
		{"force", "trap 'echo bye; exit 0' TERM; echo up; sleep 60 & wait; sleep 60", "up", true, 3 * time.Second},
		{"daemons", "trap '' TERM; for i in 1 2 3; do setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' & done; echo up; wait", "up", false, 4 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startShim(t, sh(c.script), api.Screen{}, "TEST_GRACE=400ms")
			st := s.wait(api.ObservedRunning)
			log := func() string { b, _ := os.ReadFile(s.dir.Path("app.log")); return string(b) }
			until(t, "application", 5*time.Second, func() bool { return strings.Contains(log(), "up") })
			begun := time.Now()
			s.stop(c.force)
			if d := time.Since(begun); d > c.most {
				t.Errorf("the stop took %s", d)
			}
			if !strings.Contains(log(), c.says) || c.force && strings.Contains(log(), "bye") {
				t.Errorf("the application wrote %q", log())
			}
			s.nothingLeft(st.Display)
		})
	}
}

func TestSignalEndsTheShimCleanly(t *testing.T) {
	t.Parallel()
	s := startShim(t, sh("sleep 60"), api.Screen{}, "TEST_GRACE=1s")
	st := s.wait(api.ObservedRunning)
	if err := s.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.wait(api.ObservedStopped)
	if !s.ended(5 * time.Second) {
		t.Fatal("the shim did not end")
	}
	s.nothingLeft(st.Display)
}

func TestTheServersDie(t *testing.T) {
	t.Parallel()
	find := func(t *testing.T, s *testShim, name string) int {
		t.Helper()
		for _, pid := range allPids() {
			b, _ := os.ReadFile("/proc/" + itoa(pid) + "/stat")
			cg, _ := os.ReadFile("/proc/" + itoa(pid) + "/cmdline")
			f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
			if len(f) > 1 && f[1] == itoa(s.cmd.Process.Pid) && strings.Contains(string(cg), name) {
				return pid
			}
		}
		t.Fatalf("%s does not run", name)
		return 0
	}
	t.Run("X", func(t *testing.T) {
		s := startShim(t, sh("sleep 60"), api.Screen{})
		st := s.wait(api.ObservedRunning)
		if err := unix.Kill(find(t, s, "Xvfb"), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		end := s.wait(api.ObservedFailed)
		if end.Reason != api.ReasonAppCrashed || !strings.Contains(end.Message, "the X server ended") {
			t.Errorf("state is %+v", end)
		}
		s.ended(5 * time.Second)
		s.nothingLeft(st.Display)
	})
	t.Run("sound", func(t *testing.T) {
		s := startShim(t, sh("sleep 60"), api.Screen{})
		st := s.wait(api.ObservedRunning)
		path := strings.TrimPrefix(st.Pulse, "unix:")
		old := find(t, s, "pulseaudio")
		if err := unix.Kill(old, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		until(t, "another sound server", 5*time.Second, func() bool {
			c, err := net.Dial("unix", path)
			if err != nil {
				return false
			}
			defer c.Close()
			return peer(c) != old
		})
		if s.stop(true).Observed != api.ObservedStopped {
			t.Error("the instance did not survive its sound server")
		}
		s.nothingLeft(st.Display)
	})
	t.Run("shim", func(t *testing.T) {
		s := startShim(t, sh("setsid sleep 60 & sleep 60"), api.Screen{})
		st := s.wait(api.ObservedRunning)
		if err := s.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-s.done
		until(t, "end of the children", 5*time.Second, func() bool { return len(s.processes()) == 0 })
		if err := Clean(s.dir); err != nil {
			t.Fatal(err)
		}
		s.nothingLeft(st.Display)
		if err := Clean(s.dir); err != nil {
			t.Errorf("a second cleaning: %v", err)
		}
	})
}

func TestNobodyIsConnected(t *testing.T) {
	t.Parallel()
	s := startShim(t, sh("sleep 60"), api.Screen{}, "TEST_ORPHAN=400ms")
	st := s.wait(api.ObservedRunning)
	if s.ended(700 * time.Millisecond) {
		t.Fatal("it ended although somebody is connected")
	}
	s.conn.Close()
	if !s.ended(5 * time.Second) {
		t.Fatal("it goes on although nobody is connected")
	}
	if end, err := s.dir.ReadInstance(); err != nil || end.Observed != api.ObservedStopped || end.Reason != api.ReasonIdle {
		t.Errorf("state is %+v, %v", end, err)
	}
	s.nothingLeft(st.Display)
}

func TestManyAtOnceAndInTurn(t *testing.T) {
	for range 4 {
		var all [3]*testShim
		displays := map[string]bool{}
		for i := range all {
			all[i] = startShim(t, api.App{Command: []string{"xterm"}}, api.Screen{Width: 800, Height: 600})
		}
		var wg sync.WaitGroup
		for _, s := range all {
			st := s.wait(api.ObservedRunning)
			displays[st.Display] = true
		}
		for _, s := range all {
			wg.Go(func() { s.stop(false) })
		}
		wg.Wait()
		for d := range displays {
			all[0].nothingLeft(d)
		}
		for _, s := range all {
			s.nothingLeft("")
		}
		if len(displays) != len(all) {
			t.Errorf("%d displays for %d instances", len(displays), len(all))
		}
	}
}

// folder makes one that every user may read.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgf") // t.TempDir is closed to other users
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// fake puts a script in place of a tool and gives the environment that finds it.
func fake(t *testing.T, tool, script string) string {
	t.Helper()
	dir := folder(t)
	if err := os.WriteFile(dir+"/"+tool, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return "PATH=" + dir + ":/usr/sbin:/usr/bin:/bin"
}

func TestStartThatHangsOrFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, tool, script, message string }{
		{"X hangs", "Xvfb", "exec sleep 60", "not up within 700ms"},
		{"X fails", "Xvfb", "echo no memory for the screen >&2; exit 1", "the X server did not start: no memory for the screen"},
		{"sound hangs", "pulseaudio", "exec sleep 60", "not up within 700ms"},
		{"sound fails", "pulseaudio", "echo no sound today >&2; exit 1", "the sound server did not start: no sound today"},
		{"sandbox hangs", "bwrap", "exec sleep 60", "not up within 700ms"},
		{"sandbox fails", "bwrap", "echo 'bwrap: No permissions to create a new namespace' >&2; exit 1", "No permissions to create a new namespace"},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := "TEST_START=10s" // what fails says so before
			if strings.HasSuffix(c.name, "hangs") {
				start = "TEST_START=700ms"
			}
			_, st := run(t, sh("sleep 60"), fake(t, c.tool, c.script), start)
			if st.Observed != api.ObservedFailed || st.Reason != api.ReasonStartFailed || !strings.Contains(st.Message, c.message) {
				t.Errorf("state is %+v", st)
			}
		})
	}
	for tool, pkg := range map[string]string{"Xvfb": "xvfb", "pulseaudio": "pulseaudio", "bwrap": "bubblewrap"} {
		t.Run("without "+tool, func(t *testing.T) {
			dir := folder(t)
			for _, other := range []string{"Xvfb", "pulseaudio", "bwrap"} {
				if other != tool {
					if err := os.Symlink("/usr/bin/"+other, dir+"/"+other); err != nil {
						t.Fatal(err)
					}
				}
			}
			_, st := run(t, sh("sleep 60"), "PATH="+dir)
			if st.Reason != api.ReasonStartFailed || !strings.Contains(st.Message, tool+" is not installed: install the Debian package "+pkg) {
				t.Errorf("state is %+v", st)
			}
		})
	}
	t.Run("stopped meanwhile", func(t *testing.T) {
		s := startShim(t, sh("sleep 60"), api.Screen{}, fake(t, "Xvfb", "exec sleep 60"))
		s.dial()
		if s.stop(false).Reason != api.ReasonDeleted {
			t.Error("the reason of the stop is lost")
		}
		s.nothingLeft("")
	})
}
