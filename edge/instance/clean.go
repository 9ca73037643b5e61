package instance

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/edge/local"
)

func writeGroups(dir local.Session, groups ...*group) error {
	var b strings.Builder
	for _, g := range groups {
		if g != nil {
			b.WriteString(strings.Join(g.dirs, "\n") + "\n")
		}
	}
	if err := os.WriteFile(dir.Path(fileCgroups), []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("note cgroups: %w", err)
	}
	return nil
}

// Clean removes what a shim that was killed left outside its folder: processes,
// control groups, its display's socket and lock. The folder stays. It must not
// be called while the shim lives.
func Clean(dir local.Session) error {
	var errs []error
	if b, err := os.ReadFile(dir.Path(fileCgroups)); err == nil {
		for path := range strings.Lines(string(b)) {
			path = strings.TrimSpace(path)
			if filepath.Base(filepath.Dir(path)) != groupName {
				continue // not a line of ours
			}
			g := &group{dirs: []string{path}}
			errs = append(errs, g.kill(), g.remove())
		}
	}
	if st, err := dir.ReadInstance(); err == nil && st.Display != "" {
		errs = append(errs, freeDeadDisplay(st.Display, st.PID))
	}
	return errors.Join(errs...)
}

// peer gives the process at the other end of a unix socket; 0 when unknown.
func peer(c net.Conn) int {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) { // on a closed socket pid stays 0
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}
