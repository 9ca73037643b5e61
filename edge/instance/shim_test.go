package instance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// testShim is a running shim process with a connection to it.
type testShim struct {
	t     *testing.T
	dir   local.Session
	cmd   *exec.Cmd
	log   *bytes.Buffer
	done  chan struct{}
	conn  *local.Conn
	begun time.Time

	visits   *local.Conn
	visitors sync.Map // of ids
}

var serial atomic.Uint32

// startShim starts a shim process for an application.
func startShim(t *testing.T, app api.App, size api.Screen, env ...string) *testShim {
	t.Helper()
	s := prepare(t, app, size)
	s.begin(env...)
	return s
}

// prepare makes the session's folder and the command, as the daemon does.
func prepare(t *testing.T, app api.App, size api.Screen) *testShim {
	t.Helper()
	// Short: a unix socket's path is bounded.
	base, err := os.MkdirTemp("", "pgi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	id := api.SessionID(fmt.Sprintf("t%d-%d", os.Getpid(), serial.Add(1)))
	dir := local.Run(base).Session(id, 1)
	if err := os.MkdirAll(dir.Shared(), 0o755); err != nil {
		t.Fatal(err)
	}
	app.Name = "test"
	if err := dir.WriteSpec(api.Spec{App: app, Screen: size}); err != nil {
		t.Fatal(err)
	}
	return &testShim{t: t, dir: dir, cmd: exec.Command(os.Args[0]), log: &bytes.Buffer{}, done: make(chan struct{})}
}

// begin starts the shim's process.
func (s *testShim) begin(env ...string) {
	s.t.Helper()
	s.begun = time.Now()
	s.cmd.Env = append(append(os.Environ(), shimEnv+"="+string(s.dir)), env...)
	s.cmd.Stderr, s.cmd.Stdout = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { defer close(s.done); _ = s.cmd.Wait() }()
	s.t.Cleanup(func() {
		if !s.ended(0) {
			_ = s.cmd.Process.Kill()
			<-s.done
			_ = Clean(s.dir)
		}
		if s.t.Failed() {
			s.t.Logf("shim says:\n%s", s.log)
			for _, f := range []string{"app.log", "x.log", "pulse.log"} {
				b, _ := os.ReadFile(s.dir.Path(f))
				s.t.Logf("%s:\n%s", f, b)
			}
		}
	})
}

func (s *testShim) ended(wait time.Duration) bool {
	select {
	case <-s.done:
		return true
	case <-time.After(wait):
		return false
	}
}

// dial connects as the daemon does.
func (s *testShim) dial() *local.Conn {
	s.t.Helper()
	until(s.t, "shim socket", 5*time.Second, func() bool {
		c, err := local.Dial(context.Background(), s.dir.ShimSocket())
		s.conn = c
		return err == nil
	})
	s.t.Cleanup(func() { s.conn.Close() })
	return s.conn
}

// wait reads states until one fits.
func (s *testShim) wait(want api.Observed) local.InstanceState {
	s.t.Helper()
	if s.conn == nil {
		s.dial()
	}
	deadline := time.AfterFunc(20*time.Second, func() { s.conn.Close() })
	defer deadline.Stop()
	for {
		m, err := s.conn.Read()
		if err != nil {
			s.t.Fatalf("waiting for %q: %v", want, err)
		}
		if m.Kind != local.KindState || m.Instance == nil {
			continue
		}
		if m.Instance.Observed == want {
			return *m.Instance
		}
		if api.Final(m.Instance.Observed) {
			s.t.Fatalf("waiting for %q: instance is %+v", want, *m.Instance)
		}
	}
}

func (s *testShim) stop(force bool) local.InstanceState {
	s.t.Helper()
	if err := s.conn.Send(local.Message{Kind: local.KindStop, Reason: api.ReasonDeleted, Force: force}); err != nil {
		s.t.Fatal(err)
	}
	st := s.wait(api.ObservedStopped)
	if !s.ended(5 * time.Second) {
		s.t.Fatal("the shim did not end")
	}
	return st
}

// nothingLeft fails if the instance left anything outside its folder.
func (s *testShim) nothingLeft(display string) {
	s.t.Helper()
	id := filepath.Base(string(s.dir))
	if display != "" {
		n := strings.TrimPrefix(display, ":")
		for _, p := range []string{"/tmp/.X" + n + "-lock", "/tmp/.X11-unix/X" + n} {
			if _, err := os.Lstat(p); err == nil {
				s.t.Errorf("%s is left", p)
			}
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/perigee/" + id + "*")
	more, _ := filepath.Glob("/sys/fs/cgroup/perigee/" + id + "*")
	if left := append(groups, more...); len(left) > 0 {
		s.t.Errorf("cgroups are left: %v", left)
	}
	if m, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(m), string(s.dir)) {
		s.t.Errorf("mounts are left (%v)", err)
	}
	if p := s.processes(); len(p) > 0 {
		s.t.Errorf("processes are left: %v", p)
	}
}

// processes finds what runs for the session: by its folder in command line or
// environment, or by its control group.
func (s *testShim) processes() []string {
	var out []string
	id := filepath.Base(string(s.dir))
	for _, pid := range allPids() {
		for _, f := range []string{"cmdline", "environ", "cgroup"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, f))
			if err == nil && bytes.Contains(b, []byte(id)) && pid != os.Getpid() {
				cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				out = append(out, fmt.Sprintf("%d (%s): %q", pid, f, cmd))
				break
			}
		}
	}
	return out
}

func until(t *testing.T, what string, limit time.Duration, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %s", what, limit)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// run runs an application to its end and gives what it wrote and how it ended.
func run(t *testing.T, app api.App, env ...string) (string, local.InstanceState) {
	t.Helper()
	s := startShim(t, app, api.Screen{}, env...)
	if !s.ended(20 * time.Second) {
		t.Fatal("the application does not end")
	}
	st, err := s.dir.ReadInstance()
	if err != nil {
		t.Fatal(err)
	}
	s.nothingLeft(st.Display)
	b, err := os.ReadFile(s.dir.Path("app.log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b), st
}

func sh(script string) api.App { return api.App{Command: []string{"sh", "-c", script}} }
