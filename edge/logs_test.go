package edge

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

func TestLogsAreReadLiveAndKept(t *testing.T) {
	run := local.Run(t.TempDir())
	dir := run.Session("s1", 1)
	put := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(string(dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	is := func(q api.LogQuery, want string, from, next int64, ended bool) {
		t.Helper()
		q.Session, q.Generation = "s1", 1
		p, err := readLog(run, q)
		if err != nil || p.Text != want || p.From != from || p.Next != next || p.Ended != ended {
			t.Errorf("%+v gives %+v (%v), want %q %d to %d, ended=%v", q, p, err, want, from, next, ended)
		}
	}
	if _, err := readLog(run, api.LogQuery{Session: "s1", Generation: 1}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a log that never was: %v", err)
	}
	if _, err := readLog(run, api.LogQuery{Session: "../s1"}); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a path for an id: %v", err)
	}
	put(dir.Path("spec.json"), "{}")
	is(api.LogQuery{}, "", 0, 0, false)
	put(dir.AppLog(), "three\n")
	is(api.LogQuery{Offset: 2}, "ree\n", 2, 6, false)
	is(api.LogQuery{Offset: 6}, "", 6, 6, false)
	put(local.LogBefore(dir.AppLog()), "two\n")
	put(local.LogGone(dir.AppLog()), "4")
	is(api.LogQuery{}, "two\nthree\n", 4, 14, false) // one of 4 bytes was dropped
	is(api.LogQuery{Tail: 3}, "ee\n", 11, 14, false)
	is(api.LogQuery{Offset: 99}, "", 14, 14, false)
	if err := keepLog(run, dir); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(string(dir)); err != nil {
		t.Fatal(err)
	}
	is(api.LogQuery{Offset: 8}, "three\n", 8, 14, true)
	if dirs, err := run.Sessions(); err != nil || len(dirs) != 0 {
		t.Errorf("the kept logs count as sessions: %v, %v", dirs, err)
	}
	big := strings.Repeat("x", api.MaxLogPart+10)
	put(dir.AppLog(), big)
	is(api.LogQuery{}, big[:api.MaxLogPart], 0, api.MaxLogPart, false)
	is(api.LogQuery{Offset: api.MaxLogPart}, big[api.MaxLogPart:], api.MaxLogPart, api.MaxLogPart+10, false)
}

func TestKeptLogsAreBounded(t *testing.T) {
	run := local.Run(t.TempDir())
	for i := range keptLogs + 5 {
		dir := run.Session(api.SessionID(fmt.Sprintf("s%d", i)), 1)
		if err := os.MkdirAll(string(dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir.AppLog(), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := keepLog(run, dir); err != nil {
			t.Fatal(err)
		}
	}
	if names, _ := filepath.Glob(filepath.Join(string(run), dirLogs, "*")); len(names) != keptLogs {
		t.Errorf("%d logs are kept, want %d", len(names), keptLogs)
	}
}

func TestLogCommand(t *testing.T) {
	w := newWorld(t)
	c := api.Command{Verb: api.VerbLog, Session: "none", Generation: 1}
	if ack := w.a.onCommand(context.Background(), c); ack.OK || !strings.Contains(ack.Error, "no log of it") {
		t.Errorf("an unknown session's log: %+v", ack)
	}
}

func TestAnInstanceWithoutAStream(t *testing.T) {
	w := newWorld(t)
	c := w.startOn(api.PoolNone)
	w.wait(c.Session, api.ObservedRunning)
	if n := len(w.running(string(c.Session))); n != 1 {
		t.Fatalf("%d processes run, want the shim alone", n)
	}
	w.restart() // and is adopted without one
	until(t, "report of the new daemon", 5*time.Second, func() bool {
		r := w.bus.last(c.Session)
		return r.Boot == w.cfg.Identity.Boot && r.Observed == api.ObservedRunning
	})
	if ack := w.command(c, api.VerbStop); !ack.OK {
		t.Fatalf("stop was refused: %+v", ack)
	}
	if r := w.wait(c.Session, api.ObservedStopped); r.Reason != api.ReasonDeleted {
		t.Errorf("last report is %+v", r)
	}
	w.gone(c)
}
