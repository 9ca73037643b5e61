package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// ended waits until the page's stream has ended and gives the reason.
func ended(t *testing.T, v *site.Viewer, within time.Duration) string {
	t.Helper()
	var reason string
	eventually(t, within, func() error {
		var err error
		reason, err = site.Eval[string](v.Tab, `site.stream.ended ? site.stream.ended.reason : ""`)
		if err == nil && reason == "" {
			err = errors.New("the stream goes on")
		}
		return err
	})
	return reason
}

// noSessionProcesses waits until nothing of a session runs on the edge.
func (w *world) noSessionProcesses(t *testing.T, id string) {
	t.Helper()
	eventually(t, 15*time.Second, func() error {
		if found := processesOf(id); len(found) > 0 {
			return fmt.Errorf("of session %s still run: %q", id, found)
		}
		dirs, err := os.ReadDir(w.edge.Dir + "/run")
		if err != nil {
			return err
		}
		for _, d := range dirs {
			if strings.HasPrefix(d.Name(), id) {
				return fmt.Errorf("folder %s is still there", d.Name())
			}
		}
		return nil
	})
}

func (w *world) status(t *testing.T, id string) string {
	t.Helper()
	out, err := w.CLI(t.Context(), "session", "show", id, "--json")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(out, `"status": "`)
	status, _, _ := strings.Cut(rest, `"`)
	return status
}

// becomesStatus waits until a session has a status, by the command line.
func (w *world) becomesStatus(t *testing.T, id, want string, within time.Duration) {
	t.Helper()
	eventually(t, within, func() error {
		if s := w.status(t, id); s != want {
			return fmt.Errorf("the session is %s", s)
		}
		return nil
	})
}

func (w *world) remove(t *testing.T, id string) {
	t.Helper()
	if _, err := w.CLI(t.Context(), "session", "delete", id); err != nil {
		t.Fatal(err)
	}
}

// streaming is a world with a viewer who sees the latency application move.
func streaming(t *testing.T, more map[string]any) (*world, *site.Viewer, site.Opened) {
	t.Helper()
	w := newWorld(t)
	v := w.viewer(t)
	t.Cleanup(v.Close)
	o := connect(t, v, w.options("latency", more))
	moves(t, v)
	return w, v, o
}

func TestJoinHandsOver(t *testing.T) {
	w, first, o := streaming(t, map[string]any{"joinable": true})
	second := w.viewer(t)
	defer second.Close()
	connect(t, second, map[string]any{"token": w.token, "sessionId": o.ID, "screen": map[string]int{"width": 960, "height": 540}})
	if got := ended(t, first, 10*time.Second); got != "taken_over" {
		t.Errorf("the first viewer ended with %q, want taken_over", got)
	}
	read(t, second, func(c cells) error {
		if c.Width != 960 {
			return fmt.Errorf("the display is %d wide, want 960", c.Width)
		}
		return nil
	})
	moves(t, second)
}

func TestDeleteCleansUp(t *testing.T) {
	w, v, o := streaming(t, nil)
	w.remove(t, o.ID)
	if got := ended(t, v, 10*time.Second); got != "deleted" {
		t.Errorf("the viewer ended with %q, want deleted", got)
	}
	w.noSessionProcesses(t, o.ID)
	w.becomesStatus(t, o.ID, "terminated", 5*time.Second)
}

func TestLeavingEndsASessionThatCannotBeJoined(t *testing.T) {
	w, v, o := streaming(t, nil)
	eval[any](t, v, "site.stream.disconnect()")
	w.noSessionProcesses(t, o.ID)
}

// A viewer whose page dies says nothing; the node must notice by itself.
func TestVanishedClientEndsItsSession(t *testing.T) {
	w, _, o := streaming(t, nil)
	w.browser.Kill()
	w.becomesStatus(t, o.ID, "terminated", 30*time.Second)
	w.noSessionProcesses(t, o.ID)
}

func TestIdleTimeoutCleansUp(t *testing.T) {
	w, v, o := streaming(t, map[string]any{"joinable": true, "idleTimeMin": 1})
	eval[any](t, v, "site.stream.disconnect()")
	left := time.Now()
	w.becomesStatus(t, o.ID, "terminated", 90*time.Second)
	if d := time.Since(left); d < 55*time.Second {
		t.Errorf("ended after %s, before its idle minute was over", d)
	}
	w.noSessionProcesses(t, o.ID)
}

// A codec or driver that crashes or hangs costs a keyframe, not the session.
func TestEncoderKilledAndStopped(t *testing.T) {
	w, v, o := streaming(t, nil)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		pids := site.Children(w.edge.Dir, o.ID, "encode")
		if len(pids) != 1 {
			t.Fatalf("%d encode processes, want 1", len(pids))
		}
		if err := syscall.Kill(pids[0], sig); err != nil {
			t.Fatal(err)
		}
		// A stopped one is found out first; the bound counts from its replacement.
		eventually(t, 10*time.Second, func() error {
			now := site.Children(w.edge.Dir, o.ID, "encode")
			if len(now) != 1 || now[0] == pids[0] {
				return fmt.Errorf("encode processes %v, was %v", now, pids)
			}
			return nil
		})
		replaced := time.Now()
		read(t, v, func(c cells) error {
			if int32(c.Clock-uint32(replaced.UnixMilli())) < 0 {
				return errors.New("no picture since the encoder was replaced")
			}
			return nil
		})
		if d := time.Since(replaced); d > 500*time.Millisecond {
			t.Errorf("%s: pictures came back %s after the encoder was replaced, want 500 ms at most", sig, d)
		}
		if s := eval[string](t, v, "site.stream.state"); s != "live" {
			t.Errorf("%s: the stream is %s", sig, s)
		}
	}
}

// The daemon may be stopped, killed and started again under live sessions.
func TestDaemonRestartKeepsTheStream(t *testing.T) {
	w, v, o := streaming(t, nil)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := w.edge.Process.Stop(sig); err != nil {
			t.Fatal(err)
		}
		moves(t, v)
		if err := w.StartEdge(t.Context(), w.edge); err != nil {
			t.Fatal(err)
		}
		moves(t, v)
		pressChangesThePicture(t, v)
		if s := w.status(t, o.ID); s != "active" {
			t.Errorf("after %s the session is %s", sig, s)
		}
	}
	w.remove(t, o.ID)
	w.noSessionProcesses(t, o.ID)
}

// The scheduler's state is on disk: a session survives its restart.
func TestSchedulerRestartKeepsSessions(t *testing.T) {
	w, v, o := streaming(t, nil)
	if err := w.Sched.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	moves(t, v)
	if err := w.StartScheduler(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.becomesStatus(t, o.ID, "active", 20*time.Second)
	moves(t, v)
	w.remove(t, o.ID)
	w.noSessionProcesses(t, o.ID)
}

// Ctrl-C of an edge ends its sessions, and tells: nobody waits for its lease.
func TestInterruptedEdgeTellsTheEnd(t *testing.T) {
	w := newWorld(t)
	s := w.create(t, "xterm")
	w.becomes(t, s.ID, api.StatusActive, 10*time.Second)
	if err := w.edge.Process.Stop(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if got := w.status(t, string(s.ID)); got != string(api.StatusTerminated) {
		t.Errorf("the edge has ended and its session is %s", got)
	}
}
