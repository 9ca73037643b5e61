package instance

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// launcher starts every child from one OS thread of its own. That thread
// carries what children must inherit and the rest of the process must not: a
// private mount and IPC namespace, and for a moment a cgroup. It lives as long
// as the children, because a child's death signal is bound to its thread.
type launcher struct {
	jobs chan func()
	done chan struct{}

	// Set before newLauncher returns, then only read.
	private bool  // the thread has namespaces of its own
	why     error // why it has not
	tid     int   // the thread's
}

// newLauncher starts the thread; as root it gets namespaces of its own.
func newLauncher() *launcher {
	l := &launcher{jobs: make(chan func()), done: make(chan struct{})}
	ready := make(chan struct{})
	go func() {
		defer close(l.done)
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		l.tid = unix.Gettid()
		if l.why = isolateThread(); l.why == nil {
			l.private = true
		}
		close(ready)
		for f := range l.jobs {
			f()
		}
	}()
	<-ready
	return l
}

var errNotRoot = errors.New("not root")

func isolateThread() error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWIPC); err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	return nil
}

// do runs f on the thread and waits for it.
func (l *launcher) do(f func() error) error {
	answer := make(chan error, 1)
	l.jobs <- func() { answer <- f() }
	return <-answer
}

// close ends the thread, and with it any child that is still there.
func (l *launcher) close() {
	close(l.jobs)
	<-l.done
}

// start starts cmd in a cgroup (nil = none). The child is told to end if the
// shim dies.
func (l *launcher) start(name string, cmd *exec.Cmd, g *group) (*child, error) {
	return l.startIn(nil, name, cmd, g)
}

// startIn starts cmd in a network namespace, nil for the host's.
func (l *launcher) startIn(ns *os.File, name string, cmd *exec.Cmd, g *group) (*child, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = !cmd.SysProcAttr.Setsid
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	err := l.do(func() error {
		leave, err := g.enter(cmd.SysProcAttr)
		if err != nil {
			return err
		}
		return errors.Join(inNamespace(ns, cmd.Start), leave())
	})
	if err != nil && cmd.Process == nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c := &child{name: name, cmd: cmd, ended: make(chan struct{})}
	go func() {
		c.err = cmd.Wait()
		close(c.ended)
	}()
	if err != nil { // it runs, but our thread is left in its cgroup
		c.kill(0)
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

// child is a process that the shim started and waits for.
type child struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // of Wait; valid once ended is closed
	once  sync.Once
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// alive says whether it has not ended yet.
func (c *child) alive() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

// kill ends the child's process group: SIGTERM, and SIGKILL after grace.
func (c *child) kill(grace time.Duration) {
	c.once.Do(func() {
		if grace > 0 {
			_ = unix.Kill(-c.pid(), unix.SIGTERM) // gone already: nothing to do
			select {
			case <-c.ended:
			case <-time.After(grace):
			}
		}
		_ = unix.Kill(-c.pid(), unix.SIGKILL)
		select {
		case <-c.ended:
		case <-time.After(killWait):
		}
	})
}

// killWait is how long the kernel may take to end a killed process.
const killWait = 5 * time.Second

// exit tells how a process ended: its status, or the signal that killed it.
// bubblewrap reports its child's signal as 128+n.
func (c *child) exit() (status int, sig unix.Signal) {
	ws, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return -1, 0
	case ws.Signaled():
		return -1, ws.Signal()
	case ws.ExitStatus() > 128 && ws.ExitStatus() <= 128+64:
		return -1, unix.Signal(ws.ExitStatus() - 128)
	default:
		return ws.ExitStatus(), 0
	}
}

// lookTool finds a program that the shim needs.
func lookTool(name, debianPackage string) (string, error) {
	p, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed: install the Debian package %s: %w", name, debianPackage, err)
	}
	return p, nil
}
