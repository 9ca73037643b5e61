package edge

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// politeEnv makes the test binary a daemon that yields and starts a session's
// process.
const politeEnv = "PERIGEE_TEST_POLITE"

// polite prints the nice value of what it starts itself, and has sessions' processes write theirs.
func polite(dir string) error {
	if ok, err := Yield(); err != nil || !ok {
		return fmt.Errorf("yielded %v: %w", ok, err)
	}
	for i := range 8 { // whichever thread each runs on
		p, err := spawn(exec.Command("sh", "-c", "nice"), filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			return err
		}
		<-p.done
	}
	out, err := exec.Command("sh", "-c", "nice").Output()
	fmt.Print(string(out))
	return err
}

// TestYield holds that the daemon goes after its streams where it may.
func TestYield(t *testing.T) {
	if !mayRaise() {
		t.Skip("needs CAP_SYS_NICE, which this process does not have")
	}
	if now, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err != nil || now != 20 {
		t.Logf("the test itself runs at nice %d: what it starts has 0 again", 20-now)
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), politeEnv+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != fmt.Sprint(politeness) {
		t.Errorf("what the daemon itself starts has the nice value %q, want %d: %v", out, politeness, err)
	}
	for i := range 8 {
		path := filepath.Join(dir, fmt.Sprint(i))
		until(t, "the process's word", 5*time.Second, func() bool { b, err := os.ReadFile(path); return err == nil && len(b) > 0 })
		if b, _ := os.ReadFile(path); strings.TrimSpace(string(b)) != "0" {
			t.Errorf("a session's process has the nice value %q, want 0", b)
		}
	}
}
