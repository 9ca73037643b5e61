package edge

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestSessionLives(t *testing.T) {
	w := newWorld(t)
	c := w.start()
	w.wait(c.Session, api.ObservedRunning)
	if ack := w.a.onCommand(context.Background(), c); !ack.OK {
		t.Fatalf("a repeated start was refused: %+v", ack)
	}
	until(t, "inventory", 5*time.Second, func() bool {
		return w.bus.is(func() bool {
			h := w.bus.beats[len(w.bus.beats)-1]
			return len(h.Running) == 1 && h.Running[0] == api.Running{Session: c.Session, Generation: 1, Observed: api.ObservedRunning}
		})
	})
	until(t, "codec in the report", 5*time.Second, func() bool { return w.bus.last(c.Session).Codec == api.VP8 })
	if n := len(w.running(string(c.Session))); n != 2 {
		t.Fatalf("%d processes run, want shim and stream", n)
	}
	if ack := w.command(c, api.VerbStop); !ack.OK {
		t.Fatalf("stop was refused: %+v", ack)
	}
	r := w.wait(c.Session, api.ObservedStopped)
	if r.Reason != api.ReasonDeleted || r.Connected {
		t.Errorf("last report is %+v", r)
	}
	w.gone(c)
	// What is over stays over, and is told again.
	sent := w.bus.sent
	if ack := w.a.onCommand(context.Background(), c); !ack.OK {
		t.Fatalf("a late start was refused: %+v", ack)
	}
	until(t, "the end told again", 5*time.Second, func() bool { return w.bus.is(func() bool { return w.bus.sent > sent }) })
	if r := w.bus.last(c.Session); r.Observed != api.ObservedStopped {
		t.Errorf("an ended session was started again: %+v", r)
	}
}

func TestEveryEndIsToldAndLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		word     string
		observed api.Observed
		reason   api.Reason
		message  string
	}{
		{"exit-0", api.ObservedStopped, api.ReasonAppExited, ""},
		{"exit-3", api.ObservedFailed, api.ReasonAppCrashed, "status 3"},
		{"shim-dies", api.ObservedFailed, api.ReasonAppCrashed, "shim process ended: exit status 7"},
		{"no-shim", api.ObservedFailed, api.ReasonStartFailed, "shim process ended: exit status 1"},
		{"stream-dies", api.ObservedFailed, api.ReasonStreamFailed, "exit status 9"},
		{"stream-fails", api.ObservedFailed, api.ReasonStreamFailed, "no encoder"},
		{"inactive", api.ObservedStopped, api.ReasonInactive, ""},
		{"draws-nothing", api.ObservedFailed, api.ReasonAppHung, "drawn nothing"},
		{"hang-start", api.ObservedFailed, api.ReasonStartFailed, "does not run"},
	} {
		t.Run(c.word, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(cfg *Config) { cfg.StartDeadline, cfg.DrawDeadline = time.Second, 300*time.Millisecond })
			s := w.start(c.word)
			r := w.wait(s.Session, c.observed)
			if r.Reason != c.reason || !strings.Contains(r.Message, c.message) || len(r.Message) > api.MaxMessage {
				t.Errorf("report is %+v", r)
			}
			w.gone(s)
		})
	}
}

func TestStopOfWhatDoesNotListen(t *testing.T) {
	w := newWorld(t)
	// Both the message and the signal are ignored: it is killed.
	c := w.start("ignore-stop", "ignore-term")
	w.wait(c.Session, api.ObservedRunning)
	begun := time.Now()
	w.command(c, api.VerbStop)
	w.wait(c.Session, api.ObservedStopped)
	if d, limit := time.Since(begun), w.cfg.StopGrace+stopMargin+2*time.Second; d > limit {
		t.Errorf("stop took %s, over %s", d, limit)
	}
	w.gone(c)
}

func TestForceCutsTheWaitShort(t *testing.T) {
	w := newWorld(t, func(cfg *Config) { cfg.StopGrace = time.Minute })
	c := w.start("ignore-stop", "ignore-term")
	w.wait(c.Session, api.ObservedRunning)
	w.command(c, api.VerbStop)
	c.Force = true
	w.command(c, api.VerbStop)
	w.wait(c.Session, api.ObservedStopped)
	w.gone(c)
}

func TestSignalsPassBothWays(t *testing.T) {
	w := newWorld(t)
	c := w.start("slow-stream") // signals come before the stream listens
	s := api.Signal{Session: c.Session, Generation: 1, Viewer: "1-a", Kind: api.SignalFrame, Seq: 1, Data: []byte("offer")}
	w.bus.signal(s)
	stale := s
	stale.Generation, stale.Data = 9, []byte("stale")
	w.bus.signal(stale)
	nobody := s
	nobody.Session = "nobody"
	w.bus.signal(nobody)
	until(t, "echo", 5*time.Second, func() bool { return w.bus.is(func() bool { return len(w.bus.signals) > 0 }) })
	for i := range 100 {
		s.Seq = uint64(i + 2)
		w.bus.signal(s)
	}
	until(t, "all echoes", 5*time.Second, func() bool { return w.bus.is(func() bool { return len(w.bus.signals) == 101 }) })
	for i, got := range w.bus.signals {
		if string(got.Data) != "OFFER" || got.Seq != uint64(i+1) {
			t.Fatalf("signal %d is %+v", i, got)
		}
	}
}

func TestSignalsAreBounded(t *testing.T) {
	w := newWorld(t)
	c := w.start("slow-stream")
	for range 4 * maxSignals { // the stream does not listen yet: no wait, no growth
		w.bus.signal(api.Signal{Session: c.Session, Generation: 1, Viewer: "1-a", Kind: api.SignalFrame, Seq: 1})
	}
	until(t, "echoes", 5*time.Second, func() bool { return w.bus.is(func() bool { return len(w.bus.signals) >= maxSignals }) })
	if n := len(w.bus.signals); n > 2*maxSignals {
		t.Errorf("%d signals were kept, the bound is %d", n, maxSignals)
	}
}

func TestAdmit(t *testing.T) {
	w := newWorld(t)
	c := w.start("slow-stream")
	c.Viewer, c.Screen = 2, &api.Screen{Width: 641, Height: 480} // before either listens: it is kept
	if ack := w.command(c, api.VerbAdmit); !ack.OK {
		t.Fatalf("admit was refused: %+v", ack)
	}
	until(t, "viewer and size", 5*time.Second, func() bool {
		r := w.bus.last(c.Session)
		return r.Connected && r.Screen.Width == 642
	})
	c.Screen = &api.Screen{Width: -1}
	if ack := w.command(c, api.VerbAdmit); ack.OK || !strings.Contains(ack.Error, "screen.width") {
		t.Errorf("a negative width was answered %+v", ack)
	}
	c.Screen = &api.Screen{} // keeps the size
	if ack := w.command(c, api.VerbAdmit); !ack.OK {
		t.Errorf("admit without a size was refused: %+v", ack)
	}
	c.Generation = 7
	if ack := w.command(c, api.VerbAdmit); ack.OK {
		t.Errorf("admit to another generation was answered %+v", ack)
	}
}

func TestGenerations(t *testing.T) {
	w := newWorld(t)
	c := w.start()
	w.wait(c.Session, api.ObservedRunning)
	newer := c
	newer.Generation = 2
	if ack := w.a.onCommand(context.Background(), newer); !ack.OK {
		t.Fatalf("a newer generation was refused: %+v", ack)
	}
	until(t, "newer generation", 5*time.Second, func() bool {
		r := w.bus.last(c.Session)
		return r.Generation == 2 && r.Observed == api.ObservedRunning
	})
	until(t, "end of the older", 5*time.Second, func() bool {
		return w.bus.is(func() bool {
			for _, r := range w.bus.reports {
				if r.Generation == 1 && r.Observed == api.ObservedStopped && r.Reason == api.ReasonSuperseded {
					return true
				}
			}
			return false
		})
	})
	if ack := w.a.onCommand(context.Background(), c); ack.OK || !ack.Stop {
		t.Errorf("an older start was answered %+v", ack)
	}
	if ack := w.command(c, api.VerbStop); !ack.OK { // of the older: the newer goes on
		t.Errorf("stop of the older was answered %+v", ack)
	}
	if n := len(w.running(string(c.Session) + ".2")); n != 2 {
		t.Errorf("%d processes of the newer generation run", n)
	}
}

func TestBadCommands(t *testing.T) {
	w := newWorld(t)
	boot := w.cfg.Identity.Boot
	good := &api.Spec{App: api.App{Name: "x", Command: []string{"x"}}}
	for name, c := range map[string]api.Command{
		"another start": {Verb: api.VerbStart, Session: "a", Generation: 1, Boot: "other", Spec: good},
		"no spec":       {Verb: api.VerbStart, Session: "a", Generation: 1, Boot: boot},
		"no generation": {Verb: api.VerbStart, Session: "a", Boot: boot, Spec: good},
		"path as id":    {Verb: api.VerbStart, Session: "../a", Generation: 1, Boot: boot, Spec: good},
		"unknown verb":  {Verb: "dance", Session: "a", Generation: 1, Boot: boot},
		"no command":    {Verb: api.VerbStart, Session: "a", Generation: 1, Boot: boot, Spec: &api.Spec{App: api.App{Name: "x"}}},
		"external":      {Verb: api.VerbStart, Session: "a", Generation: 1, Boot: boot, Spec: &api.Spec{App: api.App{Name: "x", Kind: api.AppExternal}}},
		"huge screen":   {Verb: api.VerbStart, Session: "a", Generation: 1, Boot: boot, Spec: &api.Spec{App: good.App, Screen: api.Screen{Width: 9999}}},
		"admit nobody":  {Verb: api.VerbAdmit, Session: "a", Generation: 1, Boot: boot},
	} {
		if ack := w.a.onCommand(context.Background(), c); ack.OK || ack.Error == "" {
			t.Errorf("%s: answered %+v", name, ack)
		}
	}
	if ack := w.a.onCommand(context.Background(), api.Command{Verb: api.VerbDrain}); !ack.OK {
		t.Errorf("drain was refused: %+v", ack)
	}
	if dirs, err := w.cfg.Run.Sessions(); err != nil || len(dirs) > 0 {
		t.Errorf("bad commands made folders: %v (%v)", dirs, err)
	}
	// A stop of what was never here is answered with its end.
	w.command(api.Command{Session: "never", Generation: 3}, api.VerbStop)
	if r := w.wait("never", api.ObservedStopped); r.Generation != 3 || r.Reason != api.ReasonDeleted {
		t.Errorf("report is %+v", r)
	}
}

func TestSchedulersDoNotWantIt(t *testing.T) {
	w := newWorld(t)
	a, b := w.start(), w.start()
	w.wait(a.Session, api.ObservedRunning)
	w.wait(b.Session, api.ObservedRunning)
	w.bus.set(func() {
		w.bus.answer.Unwanted = []api.Running{{Session: a.Session, Generation: 1}, {Session: b.Session, Generation: 9}, {Session: "nobody", Generation: 1}}
	})
	if r := w.wait(a.Session, api.ObservedStopped); r.Reason != api.ReasonSuperseded {
		t.Errorf("report is %+v", r)
	}
	w.gone(a)
	if r := w.bus.last(b.Session); r.Observed != api.ObservedRunning {
		t.Errorf("another generation's number ended a session: %+v", r)
	}
	// The answer to a report may say so too.
	w.bus.set(func() { w.bus.stopOn = b.Session })
	b.Viewer = 2
	w.command(b, api.VerbAdmit)
	w.wait(b.Session, api.ObservedStopped)
	w.gone(b)
}

func TestRefused(t *testing.T) {
	w := newWorld(t)
	c := w.start()
	w.wait(c.Session, api.ObservedRunning)
	w.bus.set(func() { w.bus.answer.Refused = "another daemon with this key is alive" })
	select {
	case <-w.done:
	case <-time.After(5 * time.Second):
		t.Fatal("the daemon goes on")
	}
	if !errors.Is(w.err, ErrRefused) || !strings.Contains(w.err.Error(), "another daemon") {
		t.Errorf("Run gave %v", w.err)
	}
	if n := len(w.running(string(c.Session))); n != 2 {
		t.Errorf("%d processes run: sessions must outlive a refused daemon", n)
	}
	w.bus.set(func() { w.bus.answer.Refused = "" })
	w.begin()
}

func TestReportsAreSentUntilHeard(t *testing.T) {
	w := newWorld(t)
	w.bus.set(func() { w.bus.deaf = true })
	c := w.start("exit-3")
	until(t, "attempts", 5*time.Second, func() bool { return w.bus.is(func() bool { return w.bus.sent > 3 }) })
	w.bus.set(func() { w.bus.deaf = false })
	w.wait(c.Session, api.ObservedFailed)
	w.gone(c)
}

func TestManySessionsLeaveNothing(t *testing.T) {
	w := newWorld(t)
	// The first counts belong to a daemon with all of its own parts: they start
	// beside its first heartbeat.
	until(t, "relay", 5*time.Second, func() bool {
		_, err := os.Stat(filepath.Join(w.cfg.Identity.Data, fileRelayProcess))
		return err == nil
	})
	until(t, "headroom", 5*time.Second, func() bool { return w.bus.is(func() bool { return len(w.bus.headroom) > 0 }) })
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 5 {
		var all []api.Command
		for range 4 {
			all = append(all, w.start())
		}
		for _, c := range all {
			w.wait(c.Session, api.ObservedRunning)
			w.command(c, api.VerbStop)
		}
		for _, c := range all {
			w.wait(c.Session, api.ObservedStopped)
			w.gone(c)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			b := make([]byte, 1<<20)
			t.Logf("%d files, %d goroutines, %d before:\n%s", openFiles(t)-files, runtime.NumGoroutine(), goroutines, b[:runtime.Stack(b, true)])
		}
	})
	until(t, "as few goroutines and files as before", 5*time.Second, func() bool {
		return runtime.NumGoroutine() <= goroutines+1 && openFiles(t) <= files+1
	})
	if dirs, err := w.cfg.Run.Sessions(); err != nil || len(dirs) > 0 {
		t.Errorf("folders are left: %v (%v)", dirs, err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}
