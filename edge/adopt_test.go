package edge

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

func TestTheNextDaemonAdopts(t *testing.T) {
	w := newWorld(t)
	c := w.start()
	w.wait(c.Session, api.ObservedRunning)
	before := w.running(string(c.Session))
	boot := w.cfg.Identity.Boot
	w.restart()
	if w.cfg.Identity.Boot == boot {
		t.Fatal("the boot id did not change")
	}
	until(t, "report of the new daemon", 5*time.Second, func() bool {
		r := w.bus.last(c.Session)
		return r.Boot == w.cfg.Identity.Boot && r.Observed == api.ObservedRunning && r.Codec == api.VP8
	})
	if after := w.running(string(c.Session)); strings.Join(before, "\n") != strings.Join(after, "\n") {
		t.Errorf("processes changed from %v to %v", before, after)
	}
	// It is under command as before.
	s := api.Signal{Session: c.Session, Generation: 1, Viewer: "1-a", Kind: api.SignalFrame, Seq: 1, Data: []byte("x")}
	w.bus.signal(s)
	until(t, "echo", 5*time.Second, func() bool { return w.bus.is(func() bool { return len(w.bus.signals) > 0 }) })
	w.command(c, api.VerbStop)
	w.wait(c.Session, api.ObservedStopped)
	w.gone(c)
}

func TestWhatDiedMeanwhileIsToldAndCleaned(t *testing.T) {
	for _, c := range []struct {
		role   Role
		reason api.Reason
	}{{RoleShim, api.ReasonAppCrashed}, {RoleStream, api.ReasonStreamFailed}} {
		t.Run(string(c.role), func(t *testing.T) {
			w := newWorld(t)
			s := w.start()
			w.wait(s.Session, api.ObservedRunning)
			w.end(context.Canceled)
			p, err := readProcesses(w.cfg.Run.Session(s.Session, 1).Path(fileProcesses))
			if err != nil {
				t.Fatal(err)
			}
			dead := p.Shim
			if c.role == RoleStream {
				dead = p.Stream
			}
			if err := unix.Kill(dead.PID, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			until(t, "death", 5*time.Second, func() bool { return !dead.runs() })
			w.begin()
			if r := w.wait(s.Session, api.ObservedFailed); r.Reason != c.reason {
				t.Errorf("report is %+v", r)
			}
			w.gone(s)
		})
	}
}

func TestAnEndNobodyHeardIsToldByTheNext(t *testing.T) {
	w := newWorld(t)
	c := w.start("exit-3")
	// It ended while no daemon ran, and said so in its folder.
	w.bus.set(func() { w.bus.deaf = true })
	last := w.cfg.Run.Session(c.Session, 1).Path(fileLast)
	until(t, "noted end", 5*time.Second, func() bool { _, err := os.Stat(last); return err == nil })
	w.end(context.Canceled)
	if r := w.bus.last(c.Session); r.Observed == api.ObservedFailed {
		t.Fatal("the end was heard: the test is void")
	}
	w.bus.set(func() { w.bus.deaf = false })
	var warned strings.Builder // by one goroutine: before the daemon serves
	w.cfg.Log = slog.New(slog.NewTextHandler(&warned, &slog.HandlerOptions{Level: slog.LevelWarn}))
	w.begin()
	if warned.Len() > 0 {
		t.Errorf("an end that is still to be told is no fault: %s", warned.String())
	}
	if r := w.wait(c.Session, api.ObservedFailed); r.Message != "exited with status 3" || r.Boot != w.cfg.Identity.Boot {
		t.Errorf("report is %+v", r)
	}
	w.gone(c)
}

func TestOfTwoGenerationsTheNewerIsAdopted(t *testing.T) {
	w := newWorld(t)
	c := w.start()
	w.wait(c.Session, api.ObservedRunning)
	w.end(context.Canceled)
	// As if the daemon had died between the two.
	newer := w.cfg.Run.Session(c.Session, 2)
	if err := os.MkdirAll(string(newer), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := newer.WriteSpec(*c.Spec); err != nil {
		t.Fatal(err)
	}
	var p processes
	for role, at := range map[Role]**process{RoleShim: &p.Shim, RoleStream: &p.Stream} {
		q, err := spawn(fakes(role, newer), newer.Path("log"))
		if err != nil {
			t.Fatal(err)
		}
		*at = q
	}
	if err := p.write(newer.Path(fileProcesses)); err != nil {
		t.Fatal(err)
	}
	w.begin()
	until(t, "newer generation", 5*time.Second, func() bool {
		// Not the last report: the older generation's end may come after it.
		return w.bus.told(func(r api.Report) bool {
			return r.Session == c.Session && r.Generation == 2 && r.Observed == api.ObservedRunning
		})
	})
	until(t, "end of the older", 5*time.Second, func() bool {
		_, err := os.Stat(string(w.cfg.Run.Session(c.Session, 1)))
		return errors.Is(err, os.ErrNotExist) && len(w.running(string(c.Session)+".1")) == 0
	})
}

func TestRubbishInTheRunDirectory(t *testing.T) {
	w := newWorld(t)
	w.end(context.Canceled)
	for _, name := range []string{"empty.1", "half.2", "not-a-session", "x.y", "locked.3"} {
		if err := os.MkdirAll(filepath.Join(string(w.cfg.Run), name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"half.2/spec.json": "{", "half.2/" + fileProcesses: "[1", "half.2/instance.json": "?",
		// A number that has gone to another process must not be killed.
		"locked.3/" + fileProcesses: `{"shim":{"pid":1,"start":1},"stream":{"pid":` + itoa(os.Getpid()) + `,"start":1}}`,
	} {
		if err := os.WriteFile(filepath.Join(string(w.cfg.Run), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.begin()
	for _, id := range []api.SessionID{"empty", "half", "locked"} {
		w.wait(id, api.ObservedFailed)
	}
	until(t, "clean folder", 5*time.Second, func() bool {
		dirs, err := w.cfg.Run.Sessions()
		return err == nil && len(dirs) == 0
	})
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

func TestEndOfEverything(t *testing.T) {
	w := newWorld(t)
	a, b := w.start(), w.start("slow-stream") // one is still coming up
	w.wait(a.Session, api.ObservedRunning)
	w.end(ErrEndSessions)
	w.nothingRuns()
	if dirs, err := w.cfg.Run.Sessions(); err != nil || len(dirs) > 0 {
		t.Errorf("folders are left: %v (%v)", dirs, err)
	}
	for _, id := range []api.SessionID{a.Session, b.Session} {
		if r := w.bus.last(id); r.Observed != api.ObservedStopped {
			t.Errorf("last report of %s is %+v", id, r)
		}
	}
	if w.err != nil {
		t.Errorf("Run gave %v", w.err)
	}
	if ack := w.a.onCommand(context.Background(), api.Command{
		Verb: api.VerbStart, Session: "late", Generation: 1, Boot: w.cfg.Identity.Boot, Spec: a.Spec,
	}); ack.OK {
		t.Error("a start was taken after the end")
	}
}

func TestRelayIsKept(t *testing.T) {
	w := newWorld(t)
	relay := func() (p process) {
		b, err := os.ReadFile(filepath.Join(w.base, "data", fileRelayProcess))
		if err == nil {
			_ = json.Unmarshal(b, &p) // a zero process does not run
		}
		return p
	}
	alive := func() bool { p := relay(); return p.runs() }
	until(t, "relay", 5*time.Second, alive)
	first := relay()
	w.restart()
	if p := relay(); p.PID != first.PID || !p.runs() {
		t.Errorf("relay changed from %+v to %+v", first, p)
	}
	if err := unix.Kill(first.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "another relay", 5*time.Second, func() bool { p := relay(); return p.PID != first.PID && p.runs() })
	w.end(ErrEndSessions)
	if p := relay(); p.runs() {
		t.Error("the relay outlives the end of everything")
	}
}

func TestRelayThatDiesIsNotStartedInALoop(t *testing.T) {
	t.Setenv("FAKE_RELAY", "dies")
	starts := make(chan struct{}, 1000)
	w := newWorld(t, func(c *Config) {
		c.Start = func(role Role, dir local.Session) *exec.Cmd {
			if role == RoleRelay && dir == "" {
				starts <- struct{}{}
			}
			return fakes(role, dir)
		}
	})
	time.Sleep(500 * time.Millisecond) // the bound is on what happens in a time
	w.end(ErrEndSessions)
	if n := len(starts); n < 2 || n > 6 {
		t.Errorf("the relay was started %d times in half a second", n)
	}
}

func TestNoRelayWhereNoneIsWanted(t *testing.T) {
	if cmd := SelfStarter("/bin/x", nil)(RoleRelay, ""); cmd != nil {
		t.Errorf("relay is %v", cmd.Args)
	}
	s := SelfStarter("/bin/x", map[Role][]string{RoleRelay: {"--listen", ":3478"}, RoleStream: {"--ports", "1-2"}})
	for _, c := range []struct {
		role Role
		dir  local.Session
		want string
	}{
		{RoleRelay, "", "/bin/x relay --listen :3478"},
		{RoleStream, "/r/a.1", "/bin/x stream --dir /r/a.1 --ports 1-2"},
		{RoleShim, "/r/a.1", "/bin/x shim --dir /r/a.1"},
	} {
		if got := strings.Join(s(c.role, c.dir).Args, " "); got != c.want {
			t.Errorf("command is %q, want %q", got, c.want)
		}
	}
}
