package edge

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// politeness is the daemon's nice value: what it does may wait, what its streams
// do may not.
const politeness = 5

// Yield lets everything else of the machine go before this process, its threads
// and what they start from now on; the processes of sessions are started as if it
// had not been called. It does nothing, and says so, where the process may not
// raise a priority again: then those would be lowered, too.
func Yield() (bool, error) {
	if !mayRaise() {
		return false, nil
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return false, fmt.Errorf("list own threads: %w", err)
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		// One that has ended meanwhile needs none; later ones have their starter's.
		if err := unix.Setpriority(unix.PRIO_PROCESS, id, politeness); err != nil && err != unix.ESRCH {
			return false, fmt.Errorf("lower own priority: %w", err)
		}
	}
	return true, nil
}

// capSysNice is the capability to raise a priority (capability.h).
const capSysNice = 23

func mayRaise() bool {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
			return err == nil && caps&(1<<capSysNice) != 0
		}
	}
	return false
}

// atUsualPriority runs f, which starts a process, on a thread of the usual
// priority: a process has that of the thread that starts it.
func atUsualPriority(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		now, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		const usual = 20 // as the system call gives it: 20 less the nice value
		if err == nil && now < usual {
			if unix.Setpriority(unix.PRIO_PROCESS, 0, 0) == nil {
				// The thread ends with this goroutine: it is not unlocked.
				done <- f()
				return
			}
		}
		runtime.UnlockOSThread()
		done <- f()
	}()
	return <-done
}
