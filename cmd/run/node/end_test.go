package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/edge/image"
)

// TestCtrlCWhileJoining: no scheduler answers, and the daemon is told to end. A
// session of an earlier daemon ends with SIGINT's cause, and goes on with any other.
func TestCtrlCWhileJoining(t *testing.T) {
	for _, c := range []struct {
		cause error
		runs  bool
	}{{context.Canceled, true}, {edge.ErrEndSessions, false}} {
		base, err := os.MkdirTemp("", "pgn") // short: sockets lie in it
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(base) })
		cfg := Config{Data: base, Program: "/bin/false", Images: image.Config{Socket: noContainers}, Log: slog.New(slog.DiscardHandler), Certify: certifyNever,
			MediaPorts: "0", RelayListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0", Join: []string{silent(t)}}
		dir := runDir(cfg).Session("s", 1)
		if err := os.MkdirAll(string(dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := dir.WriteSpec(api.Spec{App: api.App{Name: "x", Kind: api.AppProgram, Command: []string{"x"}}}); err != nil {
			t.Fatal(err)
		}
		shim := exec.Command("sleep", "60")
		shim.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
		if err := shim.Start(); err != nil {
			t.Fatal(err)
		}
		over := make(chan struct{})
		go func() { _ = shim.Wait(); close(over) }()
		t.Cleanup(func() { _ = shim.Process.Kill(); <-over })
		note := fmt.Sprintf(`{"shim":{"pid":%d,"start":%s}}`, shim.Process.Pid, began(t, shim.Process.Pid))
		if err := os.WriteFile(filepath.Join(string(dir), "processes.json"), []byte(note), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() { done <- Run(ctx, cfg) }()
		time.AfterFunc(300*time.Millisecond, func() { end(c.cause) })
		select {
		case err := <-done:
			if err == nil {
				t.Error("it joined nobody and says nothing")
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the daemon does not end")
		}
		select {
		case <-over:
			if c.runs {
				t.Error("the session ended with a daemon that was only to go")
			}
		case <-time.After(500 * time.Millisecond):
			if !c.runs {
				t.Error("the session goes on after Ctrl-C")
			}
		}
	}
}

// silent is a scheduler that takes connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return "http://" + l.Addr().String()
}

// began is when a process did, in clock ticks (proc(5), field 22 of stat).
func began(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	f := strings.Fields(string(b))
	if err != nil || len(f) < 22 {
		t.Fatalf("%v: %q", err, b)
	}
	return f[21]
}
