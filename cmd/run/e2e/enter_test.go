package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// TestOwnersEnterAndChange runs commands in an instance, carries files in and
// out of it and changes it by the command line, also under another daemon.
func TestOwnersEnterAndChange(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("entering an instance needs root: this is no root")
	}
	w := newWorld(t)
	cli := func(args ...string) string {
		t.Helper()
		out, err := w.CLI(t.Context(), args...)
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return out
	}
	refused := func(says string, args ...string) {
		t.Helper()
		if out, err := w.CLI(t.Context(), args...); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %q, %v, want %q", args, out, err, says)
		}
	}
	cli("instance", "launch", "blank", "--name", "lab", "--wait")
	if got := cli("instance", "exec", "lab", "--", "sh", "-c", "id -u; cat /proc/1/comm"); got != "1000\nbwrap\n" {
		t.Errorf("exec says %q", got)
	}
	refused("exit status 9", "instance", "exec", "lab", "--", "sh", "-c", "exit 9")
	refused("nosuch is no command", "instance", "exec", "lab", "--", "nosuch")
	dir := t.TempDir()
	big := make([]byte, 5<<20)
	_, _ = rand.Read(big)
	if err := os.WriteFile(filepath.Join(dir, "in"), big, 0o600); err != nil {
		t.Fatal(err)
	}
	cli("instance", "push", filepath.Join(dir, "in"), "lab:kept")
	// Another daemon finds the instance, and its owner finds it through that.
	if err := w.edge.Process.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := w.StartEdge(t.Context(), w.edge); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() error { // it is on the bus again
		_, err := w.CLI(t.Context(), "instance", "pull", "lab:kept", filepath.Join(dir, "out"))
		return err
	})
	if out, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || !bytes.Equal(out, big) {
		t.Errorf("%d bytes came back, %v", len(out), err)
	}
	refused("the instance has no /home/app/nosuch", "instance", "pull", "lab:nosuch", dir)
	cli("instance", "update", "lab", "--tag", "team=games", "--protect", "--idle-min", "7")
	var v api.InstanceView
	if err := json.Unmarshal([]byte(cli("--json", "instance", "show", "lab")), &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Tags) != 1 || v.Tags[0] != "team=games" || !v.Perigee.Protected || v.Perigee.IdleMinutes != 7 {
		t.Errorf("it is shown as %+v", v)
	}
	refused("--unprotect", "instance", "delete", "lab")
	refused("--unprotect", "instance", "delete", "lab", "--force")
	refused("nothing to change", "instance", "update", "lab")
	cli("instance", "update", "lab", "--unprotect", "--no-tags")
	cli("instance", "delete", "lab", "--wait")
	refused("has ended", "instance", "update", string(v.ID), "--protect")
}
