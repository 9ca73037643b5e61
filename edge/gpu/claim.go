package gpu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Claim takes the encoders of an inventory for this process until release: two
// daemons on one processor would each promise all of it. What another process
// holds gets StateClaimed and is left to it. The locks are files in dir, named by
// the device; they go with whoever dies. What cannot be locked is used unclaimed,
// and problems says so.
func Claim(dir string, inv Inventory) (out Inventory, release func(), problems error) {
	var held []*os.File
	take := func(name string) (State, string) {
		f, holder, err := lock(filepath.Join(dir, "perigee-"+fileName(name)+".lock"))
		switch {
		case errors.Is(err, unix.EWOULDBLOCK):
			return StateClaimed, fmt.Sprintf("another perigee-edge of this machine%s encodes on it: end that one, or start this one again once it has ended", holder)
		case err != nil:
			problems = errors.Join(problems, fmt.Errorf("claim %s: %w", name, err))
		default:
			held = append(held, f)
		}
		return "", ""
	}
	out = inv
	out.Devices, out.VAAPI = slices.Clone(inv.Devices), slices.Clone(inv.VAAPI)
	for i, d := range out.Devices {
		if !d.Encodes() || d.UUID == "" {
			continue
		}
		if s, why := take(d.UUID); s != "" {
			out.Devices[i].State, out.Devices[i].Detail = s, why
		}
	}
	for i, r := range out.VAAPI {
		if s, why := take(filepath.Base(r.Path)); s != "" {
			out.VAAPI[i].State, out.VAAPI[i].Detail = s, why
		}
	}
	return out, func() {
		for _, f := range held {
			_ = f.Close() // which unlocks
		}
	}, problems
}

// fileName keeps what a driver called its device from leading elsewhere.
func fileName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '_'
	}, s[:min(len(s), 80)])
}

// lock locks a file and writes who holds it; holder says who does when it is
// locked. A file that is there is opened without a wish to make it: the kernel
// refuses that for another user's in a sticky directory (fs.protected_regular).
func lock(path string) (f *os.File, holder string, err error) {
	f, err = os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = os.OpenFile(path, os.O_RDONLY|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	}
	if err != nil {
		return nil, "", err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		const number = 20 // digits and a line's end
		if b, readErr := os.ReadFile(path); readErr == nil && len(b) > 0 && len(b) < number {
			holder = " (process " + strings.TrimSpace(string(b)) + ")"
		}
		return nil, holder, errors.Join(err, f.Close())
	}
	_ = os.WriteFile(path, fmt.Appendln(nil, os.Getpid()), 0o644) // for people; another user's file stays as it is
	return f, "", nil
}
