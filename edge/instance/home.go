package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/edge/local"
)

const fileHome = "home.img"

// disk makes the file system that the instance writes to, which hooks and
// restarts of the application share: in memory, or with diskMiB one of that size
// on disk. It gives its path on the stage; "" without root, where each sandbox
// has a home of its own.
func (s *stage) disk(ctx context.Context, dir local.Session, memoryMiB, diskMiB int) (string, error) {
	if !s.l.private {
		if diskMiB > 0 {
			return "", errors.New("resources.disk_mib needs the node's daemon to run as root: leave it out, or use another node")
		}
		return "", nil
	}
	p := filepath.Join(s.root, "disk")
	if diskMiB == 0 {
		return p, s.l.do(func() error {
			opts := fmt.Sprintf("mode=0711,size=%dm", max(memoryMiB/2, 1))
			if err := errors.Join(os.MkdirAll(p, 0o711), unix.Mount("perigee", p, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts)); err != nil {
				return fmt.Errorf("mount disk: %w", err)
			}
			return nil
		})
	}
	loop, err := attachImage(ctx, dir.Path(fileHome), diskMiB)
	if err != nil {
		return "", fmt.Errorf("make disk of %d MiB: %w", diskMiB, err)
	}
	defer loop.Close() // the mount holds it; the kernel frees it with the mount
	return p, s.l.do(func() error {
		if err := os.MkdirAll(p, 0o711); err != nil {
			return fmt.Errorf("make disk: %w", err)
		}
		if err := unix.Mount(loop.Name(), p, "ext4", unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
			return fmt.Errorf("mount disk: %w", err)
		}
		return os.Chmod(p, 0o711)
	})
}

// temps makes the sandbox's folders in memory, in place of those of an earlier
// one, so that what enters the sandbox later sees the same ones. Without root
// there are none: each sandbox has its own.
func (s *stage) temps(memoryMiB int) (map[string]string, error) {
	if !s.l.private {
		return nil, nil
	}
	out := map[string]string{}
	err := s.l.do(func() error {
		for i, d := range boxTemps() {
			p := filepath.Join(s.root, "temp"+strconv.Itoa(i))
			err := unix.Unmount(p, unix.MNT_DETACH)
			if errors.Is(err, unix.ENOENT) {
				err = os.Mkdir(p, 0o700)
			}
			opts := fmt.Sprintf("mode=%s,size=%dm", tempMode(d), max(memoryMiB/2, 1))
			if err = errors.Join(err, unix.Mount("perigee", p, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts), s.own(p)); err != nil {
				return fmt.Errorf("mount %s: %w", d, err)
			}
			out[d] = p
		}
		return nil
	})
	return out, err
}

// home makes the application's home on the disk.
func (s *stage) home(disk string) (string, error) {
	if disk == "" {
		return "", nil
	}
	p := filepath.Join(disk, "home")
	err := s.l.do(func() error { return errors.Join(os.Mkdir(p, 0o700), s.own(p)) })
	if err != nil {
		return "", fmt.Errorf("make home: %w", err)
	}
	return p, nil
}

// attachImage makes a sparse file with a file system and attaches it to a loop
// device that frees itself.
func attachImage(ctx context.Context, path string, mib int) (*os.File, error) {
	mkfs, err := lookTool("mkfs.ext4", "e2fsprogs")
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(int64(mib) << 20); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, mkfs, "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1", path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, clip(string(out)))
	}
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("this node has no loop devices: %w", err)
	}
	defer ctl.Close()
	for range displayTries { // another instance may take the device between the two
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find loop device: %w", err)
		}
		dev, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("open loop device: %w", err)
		}
		cfg := unix.LoopConfig{Fd: uint32(f.Fd())}
		cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		if err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg); err == nil { // since Linux 5.8
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach loop device: %w", err)
		}
	}
	return nil, errors.New("attach loop device: all are taken")
}
