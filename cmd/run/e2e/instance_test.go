package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
)

// TestInstanceFirst launches instances by the command line, as an operator
// does, joins the one with a stream, and reads what they wrote.
func TestInstanceFirst(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "counter.yaml")
	manifest := `name: counter
command: [sh, -c, "cat ready; echo run; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done"]
hooks: {pre_start: {command: [sh, -c, "echo made ready >ready"], timeout_s: 5}}
video: {width: 640, height: 480, max_fps: 30}
on_exit: {restart: on-failure}
`
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	cli := func(args ...string) string {
		t.Helper()
		out, err := w.CLI(t.Context(), args...)
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return out
	}
	cli("app", "create", file)
	cli("instance", "launch", "counter", "--name", "bare", "--wait")
	if out := cli("instance", "launch", "counter", "--name", "lab", "--stream", "--wait"); !strings.Contains(out, "start success") {
		t.Errorf("launched with %q", out)
	}
	var v api.InstanceView
	if err := json.Unmarshal([]byte(cli("--json", "instance", "show", "lab")), &v); err != nil {
		t.Fatal(err)
	}
	if v.StatusCode != api.InstanceRunning || v.Perigee.Screen.Width != 640 || v.Perigee.Screen.FPS != 30 || fmt.Sprint(v.Tags) != "[session="+string(v.ID)+"]" {
		t.Errorf("it is shown as %+v", v)
	}
	// By its tag it is joined like any other session.
	admin, err := client.New(client.Config{Socket: filepath.Join(w.SchedulerData(), "admin.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	a, err := admin.JoinSession(t.Context(), v.ID, api.JoinBody{})
	if err != nil {
		t.Fatal(err)
	}
	awaitOffer(t, a.URL)
	if v, err = admin.Instance(t.Context(), "bare"); err != nil || v.Config.EnableStreaming || len(v.Tags) != 0 {
		t.Errorf("without a stream it is shown as %+v (%v)", v, err)
	}
	if _, err := admin.JoinSession(t.Context(), v.ID, api.JoinBody{}); err == nil || !strings.Contains(err.Error(), "enable_streaming") {
		t.Errorf("a join without a stream: %v", err)
	}
	// The log goes on while it runs, ends with it, and is read afterwards.
	followed := follow(t, admin, "bare")
	eventually(t, 10*time.Second, func() error {
		if out := cli("instance", "logs", "bare"); !strings.HasPrefix(out, "made ready\nrun\nline 1\nline 2\n") {
			return fmt.Errorf("the log is %q", out)
		}
		return nil
	})
	if out := cli("instance", "delete", "bare", "--wait"); !strings.Contains(out, "stop success") {
		t.Errorf("ended with %q", out)
	}
	select {
	case text := <-followed:
		if kept := cli("instance", "logs", string(v.ID)); text != kept || !strings.HasPrefix(text, "made ready\nrun\nline 1\n") {
			t.Errorf("following gave %q, kept is %q", text, kept)
		}
	case <-time.After(10 * time.Second):
		t.Error("following does not end with the instance")
	}
	cli("instance", "delete", "lab", "--wait")
	if out := cli("instance", "list", "--status", "deleted"); !strings.Contains(out, "lab") || !strings.Contains(out, "bare") {
		t.Errorf("the deleted instances are\n%s", out)
	}
}

// awaitOffer waits for the stream's own words: it is there.
func awaitOffer(t *testing.T, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ws, err := client.DialSignal(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	if err := ws.Send(ctx, map[string]any{"type": "settings", "api_version": 2}); err != nil {
		t.Fatal(err)
	}
	for got := ""; got != "offer"; {
		m, err := ws.Receive(ctx)
		if err != nil || m.Type == "error" {
			t.Fatalf("its signalling answers %+v, %v", m, err)
		}
		got = m.Type
	}
}

// follow reads an instance's log until it ends, within 30 s.
func follow(t *testing.T, c *client.Client, name string) <-chan string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	out := make(chan string, 1)
	go func() {
		var b strings.Builder
		if err := c.Log(ctx, name, 0, true, &b); err != nil {
			b.WriteString(err.Error())
		}
		out <- b.String()
	}()
	return out
}
