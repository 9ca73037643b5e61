package instance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// TestClaimReachesTheApplication holds that an instance which was started for a
// session to come gets the session's screen and data while it runs.
func TestClaimReachesTheApplication(t *testing.T) {
	t.Parallel()
	s := prepare(t, sh(`cat /run/perigee/session.json; echo; until grep -q level /run/perigee/session.json; do sleep 0.05; done; cat /run/perigee/session.json; echo; exec sleep 60`), api.Screen{Width: 1280, Height: 720})
	spec, err := s.dir.ReadSpec()
	if err != nil {
		t.Fatal(err)
	}
	spec.Warm = true
	if err := s.dir.WriteSpec(spec); err != nil {
		t.Fatal(err)
	}
	s.begin()
	st := s.wait(api.ObservedRunning)
	x := view(t, st)
	size := api.Screen{Width: 640, Height: 360, FPS: 30, Density: 240}
	claim := local.Message{Kind: local.KindClaim, Spec: &api.Spec{Screen: size, ExtraData: json.RawMessage(`{"level":7}`), Claimed: true}}
	log := func() string { b, _ := os.ReadFile(s.dir.AppLog()); return string(b) }
	until(t, "the application's first look", 10*time.Second, func() bool { return strings.Count(log(), "\n") == 1 })
	begun := time.Now()
	if err := s.conn.Send(claim); err != nil {
		t.Fatal(err)
	}
	until(t, "the client's size", 5*time.Second, func() bool {
		w, h := x.size(t)
		return w == 640 && h == 360
	})
	t.Logf("resized %s after the claim", time.Since(begun).Round(time.Millisecond))
	until(t, "its second look", 10*time.Second, func() bool { return strings.Count(log(), "\n") >= 2 })
	var before, after sessionFile
	first, second, _ := strings.Cut(strings.TrimSpace(log()), "\n")
	if json.Unmarshal([]byte(first), &before) != nil || json.Unmarshal([]byte(second), &after) != nil {
		t.Fatalf("the application read %q", log())
	}
	if !before.Waiting || len(before.ExtraData) != 0 || before.Screen.Width != 1280 || before.Session == "" {
		t.Errorf("before the claim it reads %+v", before)
	}
	if after.Waiting || string(after.ExtraData) != `{"level":7}` || after.Screen != size || after.Session != before.Session {
		t.Errorf("after it %+v", after)
	}
	// Another join has resized it since: the claim, said again, changes nothing.
	if err := s.conn.Send(local.Message{Kind: local.KindAdmit, Viewer: 2, Screen: &api.Screen{Width: 800, Height: 600}}); err != nil {
		t.Fatal(err)
	}
	if err := s.conn.Send(claim); err != nil {
		t.Fatal(err)
	}
	until(t, "the later size", 5*time.Second, func() bool { w, h := x.size(t); return w == 800 && h == 600 })
	var now sessionFile
	until(t, "the later size in the file", 5*time.Second, func() bool {
		b, err := os.ReadFile(filepath.Join(s.dir.Shared(), fileSession))
		return err == nil && json.Unmarshal(b, &now) == nil && now.Screen.Width == 800
	})
	if string(now.ExtraData) != `{"level":7}` {
		t.Errorf("the file says %+v", now)
	}
}
