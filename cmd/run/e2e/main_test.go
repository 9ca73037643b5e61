// Package e2e streams real applications through real processes into a real
// browser, as an operator, a user and a developer would.
package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// decodeJS reads the latency application's pictures in a page.
func decodeJS(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../../bench/latencyapp/decode.js")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// world is one site with one edge, a browser, and the test applications.
type world struct {
	*site.Site
	edge    *site.Edge
	browser *site.Browser
	client  *client.Client
	token   string
}

// newWorld starts a world in a short directory: unix sockets lie in it. At the
// end everything is stopped as by Ctrl-C and must have left nothing behind.
func newWorld(t *testing.T, schedulerArgs ...string) *world {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pe2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ctx := t.Context()
	before := snapshot(t)
	s, err := site.Start(ctx, dir, schedulerArgs...)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Site: s, token: s.Token}
	t.Cleanup(func() {
		if w.browser != nil {
			w.browser.Close()
		}
		if err := s.Close(); err != nil {
			t.Errorf("end: %v", err)
		}
		left(t, dir, before)
		if t.Failed() {
			w.showLogs(t)
		}
	})
	if w.client, err = client.New(client.Config{URL: s.API, Token: s.Token}); err != nil {
		t.Fatal(err)
	}
	if w.edge, err = s.AddEdge(ctx, "edge"); err != nil {
		t.Fatal(err)
	}
	w.putApps(t)
	return w
}

// open starts the browser when the first page is wanted.
func (w *world) viewer(t *testing.T, flags ...chromedp.ExecAllocatorOption) *site.Viewer {
	t.Helper()
	if w.browser == nil {
		b, err := site.NewBrowser(context.WithoutCancel(t.Context()), flags...)
		if err != nil {
			t.Fatal(err)
		}
		w.browser = b
	}
	v, err := w.Viewer(w.browser, decodeJS(t))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (w *world) putApps(t *testing.T) {
	t.Helper()
	bin, err := site.Bin()
	if err != nil {
		t.Fatal(err)
	}
	app := filepath.Join(bin, "latencyapp")
	for name, args := range map[string][]string{
		"latency":  {app, "-tone", "-echo", "echo"},
		"xterm":    {"xterm", "-maximized"},
		"kobo":     {"kobodl", "-nofullscreen"},
		"quits":    {"true"},
		"fails":    {"sh", "-c", "echo out of luck >&2; exit 3"},
		"missing":  {"no-such-program"},
		"blank":    {"sleep", "1000"},
		"stubborn": {"sh", "-c", "trap '' TERM; while :; do sleep 1; done"},
	} {
		put := append([]string{"app", "put", name, "--read-only", bin, "--"}, args...)
		if _, err := w.CLI(t.Context(), put...); err != nil {
			t.Fatal(err)
		}
	}
}

// options of the SDK for an application.
func (w *world) options(app string, more map[string]any) map[string]any {
	o := map[string]any{"token": w.token, "app": app, "screen": map[string]int{"width": 1280, "height": 720, "fps": 30}}
	for k, v := range more {
		o[k] = v
	}
	return o
}

func connect(t *testing.T, v *site.Viewer, options map[string]any) site.Opened {
	t.Helper()
	o, err := v.Connect(options)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func eval[T any](t *testing.T, v *site.Viewer, expression string) T {
	t.Helper()
	r, err := site.Eval[T](v.Tab, expression)
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return r
}

// eventually polls until f gives no error.
func eventually(t *testing.T, within time.Duration, f func() error) {
	t.Helper()
	if err := site.Poll(t.Context(), within, f); err != nil {
		t.Fatal(err)
	}
}

func (w *world) showLogs(t *testing.T) {
	t.Helper()
	logs := map[string]string{"scheduler": w.Sched.Output()}
	if w.edge != nil {
		logs["edge"] = w.edge.Process.Output()
	}
	for name, text := range logs {
		lines := strings.Split(text, "\n")
		t.Logf("the %s's last lines:\n%s", name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// state is what may leak: X displays, control groups and shared memory that
// nobody uses. What a living process uses is that process's, perhaps another
// test's; processes that leak are found by their command lines.
type state map[string]bool

func snapshot(t *testing.T) state {
	t.Helper()
	s := state{}
	for _, pattern := range []string{"/tmp/.X*-lock", "/tmp/.X11-unix/*", "/sys/fs/cgroup/*/perigee*/*", "/sys/fs/cgroup/perigee*/*", "/dev/shm/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if st, err := os.Stat(f); err == nil && (!strings.HasPrefix(pattern, "/sys") || st.IsDir()) && !inUse(f) {
				s[f] = true
			}
		}
	}
	return s
}

// inUse says whether a living process uses an X display or a control group.
func inUse(path string) bool {
	if strings.HasPrefix(path, "/sys") {
		procs, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		return err == nil && len(procs) > 0
	}
	number, isSocket := strings.CutPrefix(path, "/tmp/.X11-unix/X")
	if isSocket {
		path = "/tmp/.X" + number + "-lock"
	}
	if !strings.HasPrefix(path, "/tmp/.X") {
		return false
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	return err == nil && syscall.Kill(pid, 0) == nil
}

// left fails the test for everything that a world in dir left behind. The
// browser's memory and what other packages' tests keep there is not counted.
func left(t *testing.T, dir string, before state) {
	t.Helper()
	err := site.Poll(context.Background(), 5*time.Second, func() error {
		var found []string
		for f := range snapshot(t) {
			if !before[f] && !strings.HasPrefix(f, "/dev/shm/.org.chromium") && !strings.HasPrefix(f, "/dev/shm/pgtest") {
				found = append(found, f)
			}
		}
		found = append(found, processesOf(dir)...)
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, dir) {
				found = append(found, "mount "+line)
			}
		}
		if len(found) > 0 {
			return fmt.Errorf("left behind: %q", found)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// processesOf lists the processes whose command line or environment names dir.
func processesOf(dir string) []string {
	var out []string
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range entries {
		if filepath.Base(p) == fmt.Sprint(os.Getpid()) {
			continue
		}
		cmd, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		env, _ := os.ReadFile(filepath.Join(p, "environ"))
		if strings.Contains(string(cmd), dir) || strings.Contains(string(env), dir) {
			out = append(out, filepath.Base(p)+" "+strings.ReplaceAll(string(cmd), "\x00", " "))
		}
	}
	return out
}
