package instance

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
)

// What a command left in the background may hold its output open for ever.
const (
	execSettle = 500 * time.Millisecond // that reading waits for more after the command's end
	execRest   = 64 << 10               // bytes read after it: what a pipe holds, by default (pipe(7))
)

// entered is a command in the sandbox with our ends of its input and output.
type entered struct {
	*child
	group  *group
	pty    *os.File // nil without a terminal
	input  io.WriteCloser
	output [2]*os.File // standard output and error; the second is nil in a terminal
	theirs []*os.File
}

// connect gives the command a terminal, or three pipes.
func (c *entered) connect(cmd *exec.Cmd, r api.EnterRequest, st *stage) error {
	if r.Interactive {
		ours, theirs, err := openTerminal(r.Width, r.Height, st)
		if err != nil {
			return err
		}
		c.pty, c.input, c.output[0], c.theirs = ours, ours, ours, []*os.File{theirs}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
		cmd.SysProcAttr.Setctty = r.Command[0] != "setsid"
		return nil
	}
	var files []*os.File
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return fmt.Errorf("make pipe: %w", err)
		}
		files = append(files, r, w)
	}
	c.input, c.output = files[1], [2]*os.File{files[2], files[4]}
	c.theirs = []*os.File{files[0], files[3], files[5]}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[3], files[5]
	return nil
}

func (c *entered) closeOurs() {
	_ = c.input.Close() // twice where it is the terminal
	for _, f := range c.output {
		if f != nil {
			f.Close()
		}
	}
}

// openTerminal makes a terminal of a size, in characters.
func openTerminal(width, height int, st *stage) (ours, theirs *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make terminal: %w", err)
	}
	ours = os.NewFile(uintptr(fd), "terminal")
	fail := func(err error) (*os.File, *os.File, error) {
		ours.Close()
		return nil, nil, fmt.Errorf("make terminal: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fail(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return fail(err)
	}
	name := "/dev/pts/" + strconv.Itoa(n)
	if theirs, err = os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return fail(err)
	}
	if err := errors.Join(setSize(ours, width, height), st.own(name)); err != nil {
		theirs.Close()
		return fail(err)
	}
	return ours, theirs, nil
}

func setSize(f *os.File, width, height int) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(width), Row: uint16(height)})
	})
	return errors.Join(err, set)
}

// attend carries input and output until the command ends, or the visit does.
func (t *visit) attend(c *entered) api.EnterControl {
	t.say(api.EnterControl{Type: api.EnterStarted}.Frame())
	go func() { // ends with the input, which the visit's end closes
		_, _ = io.Copy(c.input, t.input) // a command may not read it
		if c.pty == nil {
			_ = c.input.Close()
		} else if t.input.ended() {
			_, _ = c.input.Write([]byte{4}) // end of transmission
		}
	}()
	var carriers sync.WaitGroup
	after := make(chan struct{})
	for i, f := range c.output {
		if f != nil {
			carriers.Go(func() { t.carry(f, api.EnterOutput+byte(i), after) })
		}
	}
	for over := false; !over; {
		select {
		case <-c.ended:
			over = true
		case m := <-t.control:
			if c.pty != nil && api.CheckTerminal(m.Width, m.Height) == nil {
				_ = setSize(c.pty, m.Width, m.Height) // it has ended
			}
		case <-t.done:
			c.hangUp()
			over = true
		}
	}
	close(after)
	for _, f := range c.output {
		if f != nil {
			_ = f.SetReadDeadline(time.Now().Add(execSettle)) // closed where it was hung up
		}
	}
	carriers.Wait() // however slowly the other end takes it; t.done ends them
	c.closeOurs()
	last := api.EnterControl{Type: api.EnterEnded}
	if last.Exit = c.cmd.ProcessState.ExitCode(); last.Exit < 0 {
		_, sig := c.exit()
		last.Exit = 128 + int(sig)
	}
	return last
}

// carry sends what a command writes; when after is closed, what it had written
// by then: reading may wait for execSettle more in all.
func (t *visit) carry(f *os.File, channel byte, after <-chan struct{}) {
	buf := make([]byte, 1+api.EnterPiece)
	wait, rest, over := execSettle, execRest, false
	for wait > 0 && rest > 0 {
		select {
		case <-after:
			over = true
			_ = f.SetReadDeadline(time.Now().Add(wait)) // closed where it was hung up
		default:
		}
		begun := time.Now()
		n, err := f.Read(buf[1:])
		if over {
			wait, rest = wait-time.Since(begun), rest-n
		}
		if n > 0 {
			buf[0] = channel
			if !t.say(slices.Clone(buf[:1+n])) {
				return
			}
		}
		if err != nil && (over || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return // a terminal's ends with EIO
		}
	}
}

// hangUp ends the command and all that it started, but what left its session
// and lost its parent: that ends with the instance.
func (c *entered) hangUp() {
	all := c.started()
	if c.pty != nil {
		c.pty.Close() // the kernel says SIGHUP
		select {
		case <-c.ended:
		case <-time.After(execSettle):
		}
	}
	for _, pid := range all {
		_ = syscall.Kill(pid, unix.SIGKILL) // gone already: nothing to do
	}
	c.kill(0)
}

// started lists the command's processes: its children, theirs, and who is in
// their sessions.
func (c *entered) started() []int {
	pids := c.group.pids()
	if c.group == nil {
		pids = allPids()
	}
	known, sessions := map[int]bool{c.pid(): true}, map[int]bool{}
	var out []int
	for more := true; more; {
		more = false
		for _, pid := range pids {
			parent, session, ok := kin(pid)
			if !ok || known[pid] || !known[parent] && !sessions[session] {
				continue
			}
			known[pid], sessions[session], more = true, true, true
			out = append(out, pid)
		}
	}
	return out
}

// kin reads a process's parent and session.
func kin(pid int) (parent, session int, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, false // it has ended
	}
	s := string(b)
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:]) // state, parent, group, session
	if len(f) < 4 {
		return 0, 0, false
	}
	parent, err1 := strconv.Atoi(f[1])
	session, err2 := strconv.Atoi(f[3])
	return parent, session, err1 == nil && err2 == nil
}
