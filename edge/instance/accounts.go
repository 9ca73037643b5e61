package instance

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/perigee-cloud/perigee/edge/image"
)

// userOf resolves the image's user by the files of its layers.
func userOf(img *image.Image) (user, group int, err error) {
	name, grp, hasGroup := strings.Cut(img.User, ":")
	if name == "" {
		name = "0"
	}
	user, group = -1, -1
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		user, group = int(n), 0
	}
	for _, f := range account(img, "etc/passwd") {
		if len(f) > 3 && (f[0] == name || f[2] == name) {
			u, err1 := strconv.ParseUint(f[2], 10, 31)
			g, err2 := strconv.ParseUint(f[3], 10, 31)
			if err1 == nil && err2 == nil {
				user, group = int(u), int(g)
				break
			}
		}
	}
	if user < 0 {
		return 0, 0, fmt.Errorf("the image's user %q is not in its /etc/passwd", name)
	}
	if !hasGroup {
		return user, group, nil
	}
	if n, err := strconv.ParseUint(grp, 10, 31); err == nil {
		return user, int(n), nil
	}
	for _, f := range account(img, "etc/group") {
		if len(f) > 2 && f[0] == grp {
			if g, err := strconv.ParseUint(f[2], 10, 31); err == nil {
				return user, int(g), nil
			}
		}
	}
	return 0, 0, fmt.Errorf("the image's group %q is not in its /etc/group", grp)
}

// account reads an account file of the uppermost layer that has it; at most a
// mebibyte. A file that an upper layer deleted is a device (overlayfs).
func account(img *image.Image, name string) (out [][]string) {
	for _, l := range img.Layers {
		in, err := os.OpenRoot(l)
		if err != nil {
			continue
		}
		info, err := in.Lstat(name)
		if err != nil {
			_ = in.Close() // only read
			continue
		}
		var f *os.File
		if info.Mode().IsRegular() {
			f, err = in.Open(name)
		}
		_ = in.Close() // only read
		if f == nil || err != nil {
			return nil
		}
		defer f.Close()
		for lines := bufio.NewScanner(io.LimitReader(f, 1<<20)); lines.Scan(); {
			out = append(out, strings.Split(lines.Text(), ":"))
		}
		return out
	}
	return nil
}

// mappedUsers makes a user namespace in which the image's user and group are the
// stage's and all others are themselves. A process must be in it while it is opened.
func mappedUsers(user, group, host int) (*os.File, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer in.Close()
	defer out.Close()
	cmd := exec.Command("cat") // ends with its input
	cmd.Stdin = in
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, Pdeathsig: syscall.SIGKILL,
		UidMappings: idMap(user, host), GidMappings: idMap(group, host),
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("map the image's users: %w", err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	if err != nil {
		return nil, fmt.Errorf("map the image's users: %w", err)
	}
	return f, nil
}

// idMap maps one id of an image to the host's, and the others to themselves.
func idMap(id, host int) []syscall.SysProcIDMap {
	m := []syscall.SysProcIDMap{{ContainerID: id, HostID: host, Size: 1}}
	add := func(from, to int) {
		if to = min(to, nobody); from < to { // nobody may be the stage's user
			m = append(m, syscall.SysProcIDMap{ContainerID: from, HostID: from, Size: to - from})
		}
	}
	add(0, id)
	add(id+1, math.MaxInt32)
	return m
}
