package instance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// visitor is the other end of a visit, as the gateway and the daemon make it.
type visitor struct {
	t    *testing.T
	conn *local.Conn
	link *api.Link
	come chan api.Signal

	started api.EnterControl
	over    bool
	out     [3]bytes.Buffer
}

func (s *testShim) enter(r api.EnterRequest) *visitor {
	s.t.Helper()
	id := fmt.Sprintf("v%d", serial.Add(1))
	v := &visitor{
		t: s.t, conn: s.visitConn(), come: make(chan api.Signal, 256),
		link: api.NewLink(api.Signal{Session: "abc", Generation: 1, Viewer: id, Role: api.RoleEnter}),
	}
	s.visitors.Store(id, v)
	if err := v.link.Open(); err != nil {
		s.t.Fatal(err)
	}
	b, err := json.Marshal(r)
	if err != nil {
		s.t.Fatal(err)
	}
	v.send(b)
	return v
}

// visitConn is the one connection of all visitors, as a daemon has it.
func (s *testShim) visitConn() *local.Conn {
	s.t.Helper()
	if s.visits != nil {
		return s.visits
	}
	c, err := local.Dial(s.t.Context(), s.dir.ShimSocket())
	if err != nil {
		s.t.Fatal(err)
	}
	s.visits = c
	s.t.Cleanup(func() { c.Close() })
	go func() {
		for {
			m, err := c.Read()
			if err != nil {
				return
			}
			if m.Kind != local.KindSignal {
				continue
			}
			if v, ok := s.visitors.Load(m.Signal.Viewer); ok {
				select {
				case v.(*visitor).come <- *m.Signal:
				default: // nobody reads it any more
				}
			}
		}
	}()
	return c
}

func (v *visitor) send(frame []byte) {
	v.t.Helper()
	for until := time.Now().Add(20 * time.Second); ; {
		err := v.link.Send(frame)
		if err == nil {
			return
		}
		if time.Now().After(until) {
			v.t.Fatal(err)
		}
		v.step(10 * time.Millisecond)
	}
}

func (v *visitor) control(c api.EnterControl) { v.t.Helper(); v.send(c.Frame()) }

func (v *visitor) input(text string) {
	v.t.Helper()
	v.send(append([]byte{api.EnterInput}, text...))
}

// step sends what is due and takes what comes; it gives the last message.
func (v *visitor) step(wait time.Duration) (api.EnterControl, bool) {
	v.t.Helper()
	for _, s := range v.link.Due(time.Now()) {
		if err := v.conn.Send(local.Message{Kind: local.KindSignal, Signal: &s}); err != nil {
			v.t.Fatal(err)
		}
	}
	if next, ok := v.link.Next(); ok {
		wait = min(wait, max(time.Until(next), 0))
	}
	select {
	case s := <-v.come:
		for _, f := range v.link.Receive(s) {
			if c, ok := api.ParseEnterControl(f); ok && c.Type == api.EnterEnded {
				v.over = true
				return c, true
			} else if ok {
				v.started = c
				continue
			}
			v.out[f[0]].Write(f[1:])
		}
		if why, closed := v.link.Closed(); closed && !v.over {
			v.t.Fatalf("link closed: %s", why)
		}
	case <-time.After(wait):
	}
	return api.EnterControl{}, false
}

// until reads until a text was written.
func (v *visitor) until(text string) {
	v.t.Helper()
	for limit := time.Now().Add(15 * time.Second); !strings.Contains(v.out[1].String(), text); {
		if last, over := v.step(50 * time.Millisecond); over || time.Now().After(limit) {
			v.t.Fatalf("waiting for %q: %+v, said %q and %q", text, last, v.out[1].String(), v.out[2].String())
		}
	}
}

func (v *visitor) wait() api.EnterControl {
	v.t.Helper()
	for limit := time.Now().Add(30 * time.Second); time.Now().Before(limit); {
		if last, over := v.step(50 * time.Millisecond); over {
			for until := time.Now().Add(2 * time.Second); time.Now().Before(until); {
				if _, closed := v.link.Closed(); closed {
					break
				}
				v.step(20 * time.Millisecond)
			}
			v.step(0) // acknowledges
			return last
		}
	}
	v.t.Fatalf("it does not end; said %q and %q", v.out[1].String(), v.out[2].String())
	return api.EnterControl{}
}

func (v *visitor) leave() {
	v.link.Close("")
	v.step(0)
}

func needRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("entering an instance needs root: this is no root")
	}
}

func exe(script string) api.EnterRequest {
	return api.EnterRequest{Op: api.EnterExec, Command: []string{"sh", "-c", script}}
}

func TestExecIsWhereTheApplicationIs(t *testing.T) {
	needRoot(t)
	s := startShim(t, sh(`echo mine >/tmp/t; echo kept >$HOME/h; readlink /proc/self/ns/pid /proc/self/ns/user /proc/self/ns/net /proc/self/ns/ipc >/tmp/ns
		cat /proc/self/cgroup >/tmp/cg; grep -E '^(NoNewPrivs|Seccomp|CapEff|CapPrm)' /proc/self/status >/tmp/st; echo ready >/tmp/ready; sleep 98765`), api.Screen{})
	s.wait(api.ObservedRunning)
	r := exe(`while [ ! -e /tmp/ready ]; do sleep 0.02; done; id -u; cat /tmp/t ~/h; pgrep -c -x sleep
		readlink /proc/self/ns/pid /proc/self/ns/user /proc/self/ns/net /proc/self/ns/ipc | cmp - /tmp/ns && cmp /proc/self/cgroup /tmp/cg &&
		grep -E '^(NoNewPrivs|Seccomp|CapEff|CapPrm)' /proc/self/status | cmp - /tmp/st && echo same; echo $DISPLAY $MORE; pwd; unshare -U true || echo walled; cat; echo oops >&2; exit 3`)
	r.Environment = map[string]string{"MORE": "much"}
	v := s.enter(r)
	v.input("from outside\n")
	v.control(api.EnterControl{Type: api.EnterEnd})
	last := v.wait()
	if last.Exit != 3 || last.Code != "" || v.out[2].String() == "" || !strings.Contains(v.out[2].String(), "oops") {
		t.Errorf("ended %+v, errors %q", last, v.out[2].String())
	}
	st, err := s.dir.ReadInstance()
	if err != nil {
		t.Fatal(err)
	}
	want := "1000\nmine\nkept\n1\nsame\n" + st.Display + " much\n/home/app\nwalled\nfrom outside\n"
	if got := v.out[1].String(); got != want {
		t.Errorf("said %q, want %q; errors %q", got, want, v.out[2].String())
	}
}

func TestExecInATerminal(t *testing.T) {
	needRoot(t)
	s := startShim(t, sh("sleep 98765"), api.Screen{})
	s.wait(api.ObservedRunning)
	r := api.EnterRequest{Op: api.EnterExec, Command: []string{"sh"}, Interactive: true, Width: 91, Height: 17}
	v := s.enter(r)
	v.input("stty size; echo $TERM; tty -s && echo terminal\r")
	v.until("17 91\r\nxterm-256color\r\nterminal")
	v.control(api.EnterControl{Type: api.EnterResize, Width: 120, Height: 40})
	v.input("sleep 0.2; stty size\r")
	v.until("40 120")
	v.input("sleep 54321\r")
	until(t, "a command in the terminal", 5*time.Second, func() bool { v.step(20 * time.Millisecond); return running(t, "54321") })
	v.input("\x03")
	v.input("echo went $?\r")
	v.until("went 130")
	v.input("exit 5\r")
	if last := v.wait(); last.Exit != 5 || last.Code != "" {
		t.Errorf("ended %+v, said %q", last, v.out[1].String())
	}
}

func TestExecEndsWithItsClientAndWithTheInstance(t *testing.T) {
	needRoot(t)
	s := startShim(t, sh("sleep 98765"), api.Screen{})
	s.wait(api.ObservedRunning)
	v := s.enter(exe("sleep 11111 & trap '' HUP TERM; echo up; sleep 11111"))
	v.until("up")
	v.leave()
	until(t, "the end of a command whose client has gone", 5*time.Second, func() bool { return !running(t, "11111") })
	w := s.enter(exe("echo up; exec sleep 22222"))
	w.until("up")
	st, err := s.dir.ReadInstance()
	if err != nil {
		t.Fatal(err)
	}
	s.stop(false)
	s.nothingLeft(st.Display)
	if running(t, "22222") {
		t.Error("a command outlives the instance")
	}
}

// running says whether a process with this argument runs.
func running(t *testing.T, arg string) bool {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if b, err := os.ReadFile(n); err == nil && strings.HasSuffix(string(b), "\x00"+arg+"\x00") && strings.HasPrefix(string(b), "sleep") {
			return true
		}
	}
	return false
}

func TestExecFails(t *testing.T) {
	needRoot(t)
	s := startShim(t, sh("sleep 98765"), api.Screen{})
	s.wait(api.ObservedRunning)
	for _, c := range []struct {
		name string
		r    api.EnterRequest
		code api.Code
		exit int
		says string
	}{
		{"no such command", api.EnterRequest{Op: api.EnterExec, Command: []string{"nosuch"}}, api.CodeNotFound, 127, "nosuch is no command"},
		{"no command", api.EnterRequest{Op: api.EnterExec}, api.CodeInvalid, -1, "is missing"},
		{"a folder", api.EnterRequest{Op: api.EnterExec, Command: []string{"/usr"}}, api.CodeNotFound, 127, "/usr is no command"},
		{"nothing to do", api.EnterRequest{}, api.CodeInvalid, -1, "exec, push or pull"},
		{"flat terminal", api.EnterRequest{Op: api.EnterExec, Command: []string{"sh"}, Height: -1}, api.CodeInvalid, -1, "cannot be"},
	} {
		last := s.enter(c.r).wait()
		if last.Code != c.code || last.Exit != c.exit || !strings.Contains(last.Message, c.says) {
			t.Errorf("%s: %+v", c.name, last)
		}
	}
	var all []*visitor
	for range maxVisits {
		v := s.enter(exe("echo up; sleep 33333"))
		v.until("up")
		all = append(all, v)
	}
	one := s.enter(exe("true"))
	until(t, "the refusal of one too many", 5*time.Second, func() bool {
		for _, sig := range one.link.Due(time.Now()) {
			_ = one.conn.Send(local.Message{Kind: local.KindSignal, Signal: &sig})
		}
		select {
		case sig := <-one.come:
			one.link.Receive(sig)
		case <-time.After(20 * time.Millisecond):
		}
		why, closed := one.link.Closed()
		return closed && strings.Contains(why, "wait for one to end")
	})
	for _, v := range all {
		v.leave()
	}
}

func TestFilesInAndOut(t *testing.T) {
	needRoot(t)
	s := startShim(t, sh("ln -s /etc/passwd link; ln -s ../../../../../../../../etc/shadow out; mkdir dir; mkfifo fifo; echo ready > ready; sleep 98765"), api.Screen{})
	s.wait(api.ObservedRunning)
	big := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB
	v := s.enter(api.EnterRequest{Op: api.EnterPush, Path: "sub.bin", Mode: 0o755, Size: int64(len(big))})
	for rest := big; len(rest) > 0; {
		n := min(len(rest), api.EnterPiece)
		v.input(string(rest[:n]))
		rest = rest[n:]
	}
	v.control(api.EnterControl{Type: api.EnterEnd})
	if last := v.wait(); last.Code != "" || last.Size != int64(len(big)) {
		t.Fatalf("push ended %+v", last)
	}
	x := s.enter(exe("stat -c '%a %u %s' sub.bin; ls -A | grep perigee; exit 0"))
	if x.wait(); x.out[1].String() != fmt.Sprintf("755 1000 %d\n", len(big)) {
		t.Errorf("the instance sees %q", x.out[1].String())
	}
	v = s.enter(api.EnterRequest{Op: api.EnterPull, Path: "/home/app/sub.bin"})
	if last := v.wait(); last.Code != "" || !bytes.Equal(v.out[1].Bytes(), big) || v.started.Size != int64(len(big)) || v.started.Mode != 0o755 {
		t.Errorf("pull ended %+v after %+v and %d bytes", last, v.started, v.out[1].Len())
	}
	// A link leads where it leads for the application, never out.
	v = s.enter(api.EnterRequest{Op: api.EnterPull, Path: "link"})
	if last := v.wait(); last.Code != "" || !strings.HasPrefix(v.out[1].String(), "root:x:0:0:root:/root:/usr/sbin/nologin\napp:") {
		t.Errorf("link: %+v, %q", last, v.out[1].String())
	}
	for path, code := range map[string]api.Code{
		"out": api.CodeNotFound, "/etc/shadow": api.CodeNotFound, "nosuch": api.CodeNotFound, "dir": api.CodeInvalid, "fifo": api.CodeInvalid,
		"/proc/1/root/etc/shadow": api.CodeInvalid, "../../root/.bashrc": api.CodeNotFound,
	} {
		v := s.enter(api.EnterRequest{Op: api.EnterPull, Path: path})
		if last := v.wait(); last.Code != code {
			t.Errorf("pull %s: %+v, want %s", path, last, code)
		}
	}
	for path, code := range map[string]api.Code{
		"/etc/passwd": api.CodeInvalid, "/usr/x": api.CodeInvalid, "dir": api.CodeInvalid, "nosuch/x": api.CodeNotFound, "/proc/sys/kernel/core_pattern": api.CodeInvalid,
	} {
		v := s.enter(api.EnterRequest{Op: api.EnterPush, Path: path, Size: 1})
		v.input("x")
		v.control(api.EnterControl{Type: api.EnterEnd})
		if last := v.wait(); last.Code != code && last.Code != api.CodeNotFound {
			t.Errorf("push %s: %+v, want %s", path, last, code)
		}
	}
}

func TestPushIsWholeOrNothing(t *testing.T) {
	needRoot(t)
	app := sh("echo old > f; echo ready > ready; sleep 98765")
	app.Resources = api.Resources{MemoryMiB: 64}
	s := startShim(t, app, api.Screen{})
	s.wait(api.ObservedRunning)
	w := s.enter(exe("until [ -e ready ]; do sleep 0.02; done"))
	w.wait()
	v := s.enter(api.EnterRequest{Op: api.EnterPush, Path: "f", Size: 100})
	v.input("half")
	v.control(api.EnterControl{Type: api.EnterEnd})
	if last := v.wait(); last.Code != api.CodeInvalid || !strings.Contains(last.Message, "4 of 100 bytes") {
		t.Errorf("a short one: %+v", last)
	}
	v = s.enter(api.EnterRequest{Op: api.EnterPush, Path: "f", Size: 100})
	v.input("half")
	v.step(100 * time.Millisecond)
	v.leave()
	piece := strings.Repeat("x", api.EnterPiece)
	v = s.enter(api.EnterRequest{Op: api.EnterPush, Path: "f", Size: -1})
	for range (33 << 20) / api.EnterPiece { // the disk is half the memory
		v.input(piece)
	}
	v.control(api.EnterControl{Type: api.EnterEnd})
	if last := v.wait(); last.Code != api.CodeTooLarge || !strings.Contains(last.Message, "disk is full") {
		t.Errorf("a full disk: %+v", last)
	}
	until(t, "clean home", 5*time.Second, func() bool {
		x := s.enter(exe("cat f; ls -A"))
		x.wait()
		return x.out[1].String() == "old\nf\nready\n"
	})
}

func TestPlainFilesHaveNoWayOut(t *testing.T) {
	root := t.TempDir()
	for link, to := range map[string]string{"abs": "/etc/passwd", "up": "../../../../etc/passwd"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, p := range []string{"abs", "up", "../../etc/passwd", "/etc/passwd"} {
		if got, err := openInside(fd, p, unix.O_RDONLY, 0); err == nil {
			_ = unix.Close(got)
			t.Errorf("%s leads out", p)
		}
	}
}
