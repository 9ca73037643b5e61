package instance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The sandbox's own user and places.
const (
	boxUID     = "1000"
	boxUser    = "app"
	boxHome    = "/home/app"
	boxRuntime = "/run/user/1000"
	boxShared  = "/run/perigee"
	boxPlace   = "/run/instance" // cookie and sound
	boxPath    = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
)

// application is the application in its sandbox.
type application struct {
	*child
	out   *output
	group *group
	l     *launcher // of its own; nil = the stage's
	// started is closed when the application itself has been executed.
	started chan struct{}
	init    atomic.Int64 // the sandbox's first process, as the host numbers it; 0 = none yet
}

// startApplication starts the command in its sandbox.
func startApplication(b boxConfig, command string) (*application, error) {
	tool, err := lookTool("bwrap", "bubblewrap")
	if err != nil {
		return nil, err
	}
	args, err := argumentFile(b.arguments())
	if err != nil {
		return nil, err
	}
	defer args.Close()
	filter, err := memory("perigee-seccomp", seccompFilter())
	if err != nil {
		return nil, err
	}
	defer filter.Close()
	status, statusW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer statusW.Close()
	out, w, err := newOutput(b.dir.Path("app.log"))
	if err != nil {
		status.Close()
		return nil, err
	}
	defer w.Close()
	argv := []string{tool, "--args", "3", "--seccomp", "4", "--json-status-fd", "5", "--", command}
	if b.group == nil { // the next best bound
		if p, err := exec.LookPath("prlimit"); err == nil {
			argv = append([]string{p, "--data=" + strconv.Itoa(b.spec.App.Resources.MemoryMiB<<20), "--"}, argv...)
		}
	}
	cmd := exec.Command(argv[0], append(argv[1:], b.spec.App.Command[1:]...)...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/bin"}
	cmd.Stdout, cmd.Stderr = w, w
	cmd.ExtraFiles = []*os.File{args, filter, statusW}
	cmd.SysProcAttr = b.attr()
	c, own, err := b.start(b.net.namespace(), "application", cmd)
	if err != nil {
		status.Close()
		out.close()
		return nil, err
	}
	a := &application{child: c, out: out, group: b.group, l: own, started: make(chan struct{})}
	go a.watch(status)
	return a, nil
}

// argumentFile is what bubblewrap reads its arguments from: they end with
// zeroes, so one with a zero in it (of an image's environment) would be two.
func argumentFile(args []string) (*os.File, error) {
	for _, a := range args {
		if strings.ContainsRune(a, 0) {
			return nil, fmt.Errorf("argument %q of the sandbox has a zero in it", a)
		}
	}
	return memory("perigee-args", []byte(strings.Join(args, "\x00")+"\x00"))
}

// start starts a sandbox, with gamepads from a thread of its own.
func (b *boxConfig) start(ns *os.File, name string, cmd *exec.Cmd) (c *child, own *launcher, err error) {
	l := b.stage.l
	if b.pads != nil {
		if own, err = b.pads.launcher(l); err != nil {
			return nil, nil, err
		}
		l = own
	}
	if c, err = l.startIn(ns, name, cmd, b.group); err != nil && own != nil {
		own.close()
	}
	return c, own, err
}

// watch reads bubblewrap's status and finds the moment when the application
// itself has been executed. It ends with the sandbox.
func (a *application) watch(status *os.File) {
	defer status.Close()
	r := bufio.NewReader(status)
	defer func() { _, _ = io.Copy(io.Discard, r) }() // it writes once more at its end, and must be able to
	line, err := r.ReadBytes('\n')
	var first struct {
		Child int `json:"child-pid"`
	}
	if err != nil || json.Unmarshal(line, &first) != nil || first.Child <= 0 {
		return // it failed: the caller sees it end
	}
	a.init.Store(int64(first.Child))
	for a.alive() && len(a.mains()) == 0 {
		time.Sleep(time.Millisecond)
	}
	if a.alive() {
		close(a.started)
	}
}

// mains lists the children of the sandbox's first process that are no longer
// bubblewrap: the application, and orphans that it left to that process.
func (a *application) mains() []int {
	init := strconv.FormatInt(a.init.Load(), 10)
	pids := a.group.pids()
	if a.group == nil {
		pids = allPids()
	}
	var out []int
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended
		}
		s := string(b)
		open, shut := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
		if open < 0 || shut < open {
			continue
		}
		f := strings.Fields(s[shut+1:]) // state, parent
		if len(f) > 1 && f[1] == init && s[open+1:shut] != "bwrap" {
			out = append(out, pid)
		}
	}
	return out
}

func allPids() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// errNotExecuted says that the application ended before it began.
var errNotExecuted = errors.New("the sandbox could not be started")

// waitStarted waits until the application runs.
func (a *application) waitStarted(ctx context.Context) error {
	select {
	case <-a.started:
		return nil
	case <-a.ended:
	case <-ctx.Done():
		return fmt.Errorf("wait for the application: %w", context.Cause(ctx))
	}
	select {
	case <-a.started: // both: it was quick
		return nil
	default:
	}
	a.out.settle()
	if last := a.out.lastLine(); strings.HasPrefix(last, "bwrap: ") {
		return fmt.Errorf("%w: %s", errNotExecuted, strings.TrimPrefix(last, "bwrap: "))
	}
	return nil // it ran and ended at once
}

// stop ends everything in the sandbox and waits until nothing is left.
func (a *application) stop(grace time.Duration) error {
	if grace > 0 && a.alive() {
		for _, pid := range a.mains() { // bubblewrap itself would take all down at once
			_ = unix.Kill(pid, unix.SIGTERM) // gone already: nothing to do
		}
		select {
		case <-a.ended:
		case <-time.After(grace):
		}
	}
	return a.end()
}

// end removes what is left of the sandbox, and what is in its group.
func (a *application) end() error {
	a.kill(0)
	err := a.group.kill()
	a.out.settle()
	a.out.close()
	if l := a.l; l != nil {
		a.l = nil
		l.close()
	}
	return err
}

// endAlone removes the sandbox without what shares its group: with bubblewrap
// ends its PID namespace.
func (a *application) endAlone() {
	a.kill(0)
	a.out.settle()
	a.out.close()
}
