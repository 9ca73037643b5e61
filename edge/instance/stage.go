package instance

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/edge/local"
)

// stage is what the servers and the sandbox see of the host's folders. As root
// it is a tmpfs in the launcher's own mount namespace, so that they can run
// under a user of no rights although the run directory is closed to it, and so
// that nothing is left when they end. Otherwise it is a folder of the session.
type stage struct {
	l    *launcher
	root string
	uid  int // host user of servers and sandbox; -1 = ours
	warn string
}

// firstUID starts the range of host users, unused by any convention (systemd's
// table of UIDs leaves 1879048192 to 2147483647 alone).
const (
	firstUID = 1_900_000_000
	countUID = 100_000_000
	nobody   = 65534
)

// newStage prepares the stage. avoid lists paths that must stay visible.
func newStage(l *launcher, dir local.Session, avoid []string) (*stage, error) {
	s := &stage{l: l, uid: -1}
	if !l.private {
		s.root = dir.Path("stage")
		if !errors.Is(l.why, errNotRoot) {
			s.warn = l.why.Error()
		}
		if err := os.MkdirAll(s.root, 0o700); err != nil {
			return nil, fmt.Errorf("make stage: %w", err)
		}
		return s, nil
	}
	s.uid, s.warn = hostUser(filepath.Base(string(dir)))
	var err error
	if s.root, err = mountPoint(avoid); err != nil {
		return nil, err
	}
	return s, l.do(func() error {
		if err := unix.Mount("perigee", s.root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=4m"); err != nil {
			return fmt.Errorf("mount stage: %w", err)
		}
		return nil
	})
}

// mountPoint finds a folder that every system has and this instance needs not.
func mountPoint(avoid []string) (string, error) {
	for _, p := range []string{"/mnt", "/media", "/srv", "/opt"} {
		used := false
		for _, a := range avoid {
			used = used || a == p || strings.HasPrefix(a, p+"/")
		}
		if st, err := os.Stat(p); err == nil && st.IsDir() && !used {
			return p, nil
		}
	}
	return "", errors.New("mount stage: none of /mnt, /media, /srv, /opt is a free folder: make one")
}

// hostUser chooses the host user of an instance, and says what is amiss if it
// cannot be one of no rights.
func hostUser(name string) (uid int, warn string) {
	for _, f := range []struct{ path, bad string }{
		{"/proc/sys/kernel/unprivileged_userns_clone", "0"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"},
	} {
		if b, err := os.ReadFile(f.path); err == nil && strings.TrimSpace(string(b)) == f.bad {
			return -1, f.path + " keeps ordinary users from making sandboxes, so the sandbox runs as root"
		}
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	uid = firstUID + int(h.Sum32()%countUID)
	m, err := os.ReadFile("/proc/self/uid_map")
	switch {
	case err != nil || mapped(m, uid):
		return uid, ""
	case mapped(m, nobody):
		return nobody, ""
	default:
		return -1, "this user namespace maps no user but ours, so the sandbox runs as root"
	}
}

// mapped says whether a uid_map holds a user.
func mapped(m []byte, uid int) bool {
	for line := range strings.Lines(string(m)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		from, err1 := strconv.Atoi(f[0])
		n, err2 := strconv.Atoi(f[2])
		if err1 == nil && err2 == nil && uid >= from && uid < from+n {
			return true
		}
	}
	return false
}

// attr makes a child run as the stage's user.
func (s *stage) attr() *syscall.SysProcAttr {
	if s.uid < 0 {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(s.uid), Gid: uint32(s.uid)}}
}

func (s *stage) own(path string) error {
	if s.uid < 0 {
		return nil
	}
	return os.Chown(path, s.uid, s.uid)
}

// write puts a file on the stage, owned by the stage's user, and gives its path there.
func (s *stage) write(name string, b []byte, mode os.FileMode) (string, error) {
	p := filepath.Join(s.root, name)
	err := s.l.do(func() error {
		if err := os.WriteFile(p, b, mode); err != nil {
			return err
		}
		return s.own(p)
	})
	if err != nil {
		return "", fmt.Errorf("write %s on stage: %w", name, err)
	}
	return p, nil
}

// folder makes an empty folder on the stage for the stage's user.
func (s *stage) folder(name string) (string, error) {
	p := filepath.Join(s.root, name)
	err := s.l.do(func() error {
		if err := os.MkdirAll(p, 0o700); err != nil {
			return err
		}
		return s.own(p)
	})
	if err != nil {
		return "", fmt.Errorf("make %s on stage: %w", name, err)
	}
	return p, nil
}

// share shows a folder of the host on the stage and gives its path there.
func (s *stage) share(host, name string) (string, error) {
	if !s.l.private {
		return host, nil
	}
	p := filepath.Join(s.root, name)
	err := s.l.do(func() error {
		if err := os.MkdirAll(p, 0o700); err != nil {
			return err
		}
		return unix.Mount(host, p, "", unix.MS_BIND, "")
	})
	if err != nil {
		return "", fmt.Errorf("show %s on stage: %w", name, err)
	}
	return p, nil
}
