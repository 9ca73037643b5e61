package edge

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/edge/local"
)

// Role is which of its own processes a daemon starts.
type Role string

// Roles, as perigee-edge names them on its command line.
const (
	RoleShim   Role = "shim"
	RoleStream Role = "stream"
	RoleRelay  Role = "relay"
)

// Starter makes the command of a process; dir is "" for the relay. A nil
// command means that there is none of the kind. The daemon sets its session,
// input and output and starts it.
type Starter func(role Role, dir local.Session) *exec.Cmd

// SelfStarter runs a program again as "<program> <role> [--dir D] <more…>".
// Roles without an entry in more are started too, but for the relay.
func SelfStarter(program string, more map[Role][]string) Starter {
	return func(role Role, dir local.Session) *exec.Cmd {
		args, known := more[role]
		if role == RoleRelay && !known {
			return nil
		}
		argv := []string{string(role)}
		if dir != "" {
			argv = append(argv, "--dir", string(dir))
		}
		return exec.Command(program, append(argv, args...)...)
	}
}

// process is one that outlives the daemon: started by us, or adopted.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // since boot, in clock ticks: a reused PID differs

	child Child         // what it is where it is no process of this machine
	done  chan struct{} // closed when it has ended
	err   error         // how it ended; nil when adopted. Valid once done is closed
}

// adoptPoll is how often an adopted process, which is no child of ours, is looked at.
const adoptPoll = 200 * time.Millisecond

// spawn starts cmd in a session of its own with its output in a file.
func spawn(cmd *exec.Cmd, logPath string) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log // Stdin nil is /dev/null
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if err := atUsualPriority(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	p := &process{PID: cmd.Process.Pid, done: make(chan struct{})}
	p.Start, _ = startTime(p.PID) // 0 when it has ended already: then nothing is killed later
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// adopt watches a process that an earlier daemon started, until it ends or stop
// is closed.
func (p *process) adopt(stop <-chan struct{}) {
	p.done = make(chan struct{})
	if !p.runs() {
		close(p.done)
		return
	}
	go func() {
		tick := time.NewTicker(adoptPoll)
		defer tick.Stop()
		for p.runs() {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
		close(p.done)
	}()
}

// runs says whether this very process still runs.
func (p *process) runs() bool {
	if p.child != nil {
		return !closed(p.child.Done())
	}
	start, ok := startTime(p.PID)
	return ok && p.Start != 0 && start == p.Start
}

// end is closed when it has ended; a process that is not there never ends.
func (p *process) end() <-chan struct{} {
	if p == nil {
		return nil
	}
	return p.done
}

// ended says whether it is known to have ended.
func (p *process) ended() bool { return closed(p.done) }

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// signal sends to the process's whole session group, if it still runs.
func (p *process) signal(sig unix.Signal) {
	if p.child != nil {
		p.child.Signal(sig)
		return
	}
	if p.PID > 1 && p.runs() {
		_ = unix.Kill(-p.PID, sig) // it ended this moment: nothing to do
	}
}

// kill ends it and waits until it has.
func (p *process) kill(wait time.Duration) error {
	p.signal(unix.SIGKILL)
	select {
	case <-p.done:
		return nil
	case <-time.After(wait):
		return fmt.Errorf("process %d does not end", p.PID)
	}
}

// startTime reads when a process began; not ok when it is gone or a zombie.
func startTime(pid int) (uint64, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The name in brackets may hold anything: fields are counted after it.
	s := string(b)
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	const state, start = 0, 19
	if len(f) <= start || f[state] == "Z" || f[state] == "X" {
		return 0, false
	}
	t, err := strconv.ParseUint(f[start], 10, 64)
	return t, err == nil
}

// processes of one session, noted in its folder for the next daemon.
type processes struct {
	Shim   *process `json:"shim,omitempty"`
	Stream *process `json:"stream,omitempty"`
}

const fileProcesses = "processes.json"

func (p processes) write(path string) error {
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode processes: %w", err)
	}
	return writeWhole(path, b)
}

func readProcesses(path string) (processes, error) {
	var p processes
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read processes: %w", err)
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("decode processes: %w", err)
	}
	return p, nil
}
