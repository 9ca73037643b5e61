package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// TestWaitingClientGetsTheFreedRoom holds the queue on real processes: a client
// is told its place, and signalling begins by itself once there is room.
func TestWaitingClientGetsTheFreedRoom(t *testing.T) {
	w := newWorld(t)
	if _, err := w.AddEdge(t.Context(), "small", "--region", "tiny", "--cpu-capacity", "120000"); err != nil {
		t.Fatal(err)
	}
	body := api.CreateBody{App: "xterm", Region: "tiny", Screen: screenOf(1280, 720, 30), Perigee: &api.RequestExtras{WaitS: 60}}
	first, err := w.client.CreateSession(t.Context(), body)
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.client.CreateSession(t.Context(), body)
	if err != nil {
		t.Fatal(err)
	}
	if first.Perigee.Queue != nil || second.Perigee.Queue == nil || second.Perigee.Queue.Position != 1 || second.Perigee.Node != "" {
		t.Fatalf("the first has %+v, the second %+v", first.Perigee, second.Perigee)
	}
	ws, err := client.DialSignal(t.Context(), second.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	expect := func(kind string) {
		t.Helper()
		for {
			m, err := ws.Receive(ctx)
			if err != nil || m.Type == "error" {
				t.Fatalf("waiting for %s: %+v, %v", kind, m, err)
			}
			if m.Type == kind {
				return
			}
		}
	}
	expect("perigee.queue")
	if err := w.end(first.ID); err != nil {
		t.Fatal(err)
	}
	expect("perigee.placed")
	w.becomes(t, second.ID, api.StatusActive, 10*time.Second)
	if err := w.end(second.ID); err != nil {
		t.Error(err)
	}
}

// TestLostSessionStartsAnew holds that a session whose application can start
// anew goes on elsewhere when its node's daemon is killed, and that what the
// node still runs is stopped when it is back.
func TestLostSessionStartsAnew(t *testing.T) {
	w := newWorld(t, "--heartbeat", "200ms", "--lease", "1s")
	admin, err := client.New(client.Config{Socket: filepath.Join(w.SchedulerData(), "admin.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.PutApplication(t.Context(), api.App{Name: "anew", Command: []string{"xterm"}, Restart: true}); err != nil {
		t.Fatal(err)
	}
	s := w.create(t, "anew")
	w.becomes(t, s.ID, api.StatusActive, 10*time.Second)
	was, err := w.client.Session(t.Context(), s.ID)
	if err != nil {
		t.Fatal(err)
	}
	other, err := w.AddEdge(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.edge.Process.Stop(9); err != nil {
		t.Fatal(err)
	}
	if err := site.Poll(t.Context(), 15*time.Second, func() error {
		v, err := w.client.Session(t.Context(), s.ID)
		if err == nil && (v.Perigee.Node == was.Perigee.Node || v.Status != api.StatusActive) {
			err = api.Errorf(api.CodeConflict, "it is %s on %s", v.Status, v.Perigee.Node)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if n := len(site.Children(other.Dir, string(s.ID), "shim")); n != 1 {
		t.Errorf("%d shims on the other node, want one", n)
	}
	if err := w.StartEdge(t.Context(), w.edge); err != nil {
		t.Fatal(err)
	}
	if err := site.Poll(t.Context(), 15*time.Second, func() error {
		if n := len(site.Children(w.edge.Dir, string(s.ID), "shim")); n > 0 {
			return api.Errorf(api.CodeConflict, "%d shims of the earlier generation run", n)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	v := w.becomes(t, s.ID, api.StatusActive, time.Second)
	if v.Perigee.Node == was.Perigee.Node || v.Perigee.Generation != 2 {
		t.Errorf("with its node back it is %+v", v.Perigee)
	}
	again, err := w.client.JoinSession(t.Context(), s.ID, api.JoinBody{})
	if err != nil || !strings.HasPrefix(again.URL, "ws") {
		t.Errorf("its client comes back: %+v, %v", again, err)
	}
	if err := w.end(s.ID); err != nil {
		t.Error(err)
	}
}
