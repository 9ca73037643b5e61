package edge

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// TestEndBeforeTheDaemonServes: Ctrl-C while the daemon still joins ends what an
// earlier one left, and the next one tells it.
func TestEndBeforeTheDaemonServes(t *testing.T) {
	w := newWorld(t)
	a, b := w.start(), w.start("exit-3")
	w.wait(a.Session, api.ObservedRunning)
	w.bus.set(func() { w.bus.deaf = true })
	over := w.cfg.Run.Session(b.Session, 1).Path(fileLast)
	until(t, "noted end", 5*time.Second, func() bool { _, err := os.Stat(over); return err == nil })
	w.end(context.Canceled)
	if len(w.running(string(a.Session))) == 0 {
		t.Fatal("the session ended with the daemon: the test is void")
	}
	id, err := OpenIdentity(filepath.Join(w.base, "data"))
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	err = EndSessions(Config{Identity: id, Run: w.cfg.Run, Start: fakes, Log: w.cfg.Log, StopGrace: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("it took %s", time.Since(begun).Round(time.Millisecond))
	if err := id.Close(); err != nil {
		t.Fatal(err)
	}
	w.nothingRuns()
	var p process
	if note, err := os.ReadFile(filepath.Join(w.base, "data", fileRelayProcess)); err == nil && json.Unmarshal(note, &p) == nil && p.runs() {
		t.Error("the relay is left")
	}
	w.bus.set(func() { w.bus.deaf = false })
	w.begin()
	if r := w.wait(a.Session, api.ObservedStopped); r.Reason != api.ReasonDeleted {
		t.Errorf("report is %+v", r)
	}
	if r := w.wait(b.Session, api.ObservedFailed); r.Message != "exited with status 3" {
		t.Errorf("report of the one that had ended is %+v", r)
	}
	w.gone(a)
	w.gone(b)
}
