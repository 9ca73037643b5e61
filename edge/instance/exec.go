package instance

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
)

// exitNoCommand is the status of a command that is not there, as shells have it.
const exitNoCommand = 127

// work does what a visit's first frame asks for and gives its last words.
func (t *visit) work(frame []byte) api.EnterControl {
	var r api.EnterRequest
	if err := json.Unmarshal(frame, &r); err != nil {
		return api.EnterFailed(api.Invalidf("body", "is not what an instance is asked: %v", err))
	}
	r, err := r.Normalize()
	if err != nil {
		return api.EnterFailed(err)
	}
	begun := time.Now()
	var last api.EnterControl
	switch r.Op {
	case api.EnterExec:
		last = t.exec(r)
	case api.EnterPush:
		last = t.push(r)
	case api.EnterPull:
		last = t.pull(r)
	}
	if last.Code == api.CodeInternal { // it may name the host's paths
		t.log.Error("a visit failed", "op", r.Op, "error", last.Message)
		last.Message = "a fault on the instance's node, whose log says more"
	}
	t.log.Info("instance was entered", "op", r.Op, "command", strings.Join(r.Command, " "), "path", r.Path,
		"exit", last.Exit, "size", last.Size, "error", last.Message, "after", time.Since(begun))
	return last
}

// spaces are a running sandbox's namespaces, for one more process in them.
type spaces struct {
	user, inner, pid, net *os.File // inner: of user, where bubblewrap made two
}

// spaces opens the sandbox's namespaces. The mount namespace is not entered:
// another one is made of the very same mounts, by the code that made the first.
func (r *room) spaces() (*spaces, error) {
	if !r.box.stage.l.private {
		return nil, api.Errorf(api.CodeConflict, "the node's daemon does not run as root, so nothing can be run beside its applications: use another node")
	}
	s := &spaces{}
	open := func(into **os.File, name string) (err error) {
		*into, err = os.Open(fmt.Sprintf("/proc/%d/ns/%s", r.app.init.Load(), name))
		return err
	}
	err := errors.Join(open(&s.user, "user"), open(&s.pid, "pid"))
	if err == nil && r.box.net == nil && r.box.spec.App.Permissions.Network != api.NetworkFull {
		err = open(&s.net, "net")
	}
	if err == nil {
		err = s.outer()
	}
	if err != nil || !r.app.alive() { // then its number may be another's
		s.close()
		return nil, api.Errorf(api.CodeConflict, "the application has ended")
	}
	return s, nil
}

// outer finds the namespace that the sandbox's user namespace lies in, where
// that is not the host's: bubblewrap makes it to mount its /dev/pts.
func (s *spaces) outer() error {
	var own, above unix.Stat_t
	fd, err := unix.IoctlRetInt(int(s.user.Fd()), unix.NS_GET_PARENT)
	if err != nil {
		return fmt.Errorf("find user namespace: %w", err)
	}
	parent := os.NewFile(uintptr(fd), "user")
	if err := errors.Join(unix.Stat("/proc/self/ns/user", &own), unix.Fstat(fd, &above)); err != nil {
		parent.Close()
		return fmt.Errorf("find user namespace: %w", err)
	}
	if own.Ino == above.Ino {
		parent.Close()
		return nil
	}
	s.user, s.inner = parent, s.user
	return nil
}

func (s *spaces) close() {
	for _, f := range []*os.File{s.user, s.inner, s.pid, s.net} {
		if f != nil {
			f.Close()
		}
	}
}

// exec runs a command in the sandbox, as the application's user, in its
// namespaces and its control group, behind the same filter.
func (t *visit) exec(r api.EnterRequest) api.EnterControl {
	found, err := t.room.finds(r)
	if err != nil {
		return api.EnterFailed(err)
	}
	if !found {
		c := api.EnterFailed(api.Errorf(api.CodeNotFound, "%s is no command in the instance", r.Command[0]))
		c.Exit = exitNoCommand
		return c
	}
	if r.Interactive { // a session of its own in the sandbox, where there is the tool
		leader := r
		leader.Command = append([]string{"setsid", "-c"}, r.Command...)
		if found, err = t.room.finds(leader); err == nil && found {
			r = leader
		}
	}
	c, err := t.enter(r)
	if err != nil {
		return api.EnterFailed(err)
	}
	return t.attend(c)
}

// enter starts the command.
func (t *visit) enter(r api.EnterRequest) (*entered, error) {
	sp, err := t.room.spaces()
	if err != nil {
		return nil, err
	}
	defer sp.close()
	tool, err := lookTool("bwrap", "bubblewrap")
	if err != nil {
		return nil, err
	}
	b := t.room.box
	b.more = r.Environment
	args := b.entering(sp, r)
	file, err := argumentFile(args)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	filter, err := memory("perigee-seccomp", seccompFilter())
	if err != nil {
		return nil, err
	}
	defer filter.Close()
	cmd := exec.Command(tool, append([]string{"--args", "3", "--seccomp", "4", "--"}, r.Command...)...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/bin"}
	cmd.ExtraFiles = []*os.File{file, filter, sp.pid, sp.user}
	if sp.inner != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, sp.inner)
	}
	cmd.SysProcAttr = b.attr()
	cmd.SysProcAttr.Setsid = true
	c := &entered{group: b.group}
	if err := c.connect(cmd, r, b.stage); err != nil {
		return nil, err
	}
	net := b.net.namespace()
	if sp.net != nil {
		net = sp.net
	}
	var own *launcher
	c.child, own, err = b.start(net, "command", cmd)
	for _, f := range c.theirs {
		f.Close()
	}
	if err != nil {
		c.closeOurs()
		return nil, err
	}
	if own != nil {
		go func() { // until the command has ended
			<-c.child.ended
			own.close()
		}()
	}
	return c, nil
}

// entering are bubblewrap's arguments for a process beside the application.
func (b *boxConfig) entering(sp *spaces, r api.EnterRequest) []string {
	out := []string{"--pidns", "5", "--userns", "6"}
	uid, gid := b.root.uid(), b.root.gid()
	if sp.inner != nil { // its user is 0 in the outer one
		out, uid, gid = append(out, "--userns2", "7"), "0", "0"
	}
	out = append(append(out, "--uid", uid, "--gid", gid), b.inSpaces()...)
	if r.Dir != "" {
		out = append(out, "--chdir", r.Dir)
	}
	if _, given := r.Environment["TERM"]; r.Interactive && !given {
		out = append(out, "--setenv", "TERM", "xterm-256color")
	}
	return out
}

// finds says whether the instance has the command.
func (r *room) finds(q api.EnterRequest) (bool, error) {
	name := q.Command[0]
	places := []string{name}
	if !strings.Contains(name, "/") {
		places = nil
		b := r.box
		b.more = q.Environment
		for _, kv := range b.environment() {
			if p, ok := strings.CutPrefix(kv, "PATH="); ok {
				for dir := range strings.SplitSeq(p, ":") {
					places = append(places, path.Join(dir, name))
				}
			}
		}
	} else if !path.IsAbs(name) {
		dir := q.Dir
		if dir == "" {
			dir = r.box.root.dir()
		}
		places = []string{path.Join(dir, name)}
	}
	found := false
	err := r.inside(func(root int) error {
		found = slices.ContainsFunc(places, func(p string) bool {
			fd, err := openInside(root, p, unix.O_PATH, 0)
			if err != nil {
				return false
			}
			defer func() { _ = unix.Close(fd) }() // only looked at
			var st unix.Stat_t
			return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0
		})
		return nil
	})
	return found, err
}
