// Package xvfb runs X servers for tests.
package xvfb

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	startTime = 10 * time.Second
	endTime   = 2 * time.Second
)

// Server is a running X server.
type Server struct {
	Display string // such as ":3"
	Process *os.Process
}

// Start runs a real X server on a free display until the test ends, even if it
// is stopped by then. args come behind those that every test needs.
func Start(t testing.TB, args ...string) Server {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	const displayFD = "3" // the first of ExtraFiles
	cmd := exec.Command("Xvfb", append([]string{"-displayfd", displayFD, "-nolisten", "tcp", "-noreset"}, args...)...)
	cmd.ExtraFiles = []*os.File{w}
	err = cmd.Start()
	_ = w.Close() // the server has its own
	if err != nil {
		t.Fatalf("start Xvfb (Debian's package xvfb): %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Process.Signal(syscall.SIGCONT)
		timer := time.AfterFunc(endTime, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		_ = cmd.Wait() // its status is of no interest
	})
	if err := r.SetReadDeadline(time.Now().Add(startTime)); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("Xvfb did not start: %v", err)
	}
	return Server{Display: ":" + strings.TrimSpace(line), Process: cmd.Process}
}
