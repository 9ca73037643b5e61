package instance

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
)

// inside runs f as the sandbox's user with the sandbox's root folder open, so
// that it may do what the application may and no more.
func (r *room) inside(f func(root int) error) error {
	gone := api.Errorf(api.CodeConflict, "the application has ended")
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", r.app.init.Load()), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EACCES) {
		return api.Errorf(api.CodeConflict, "the node's daemon does not run as root, so no files go into or out of its instances: use another node")
	}
	if err != nil {
		return gone
	}
	defer func() { _ = unix.Close(root) }() // a folder
	if !r.app.alive() {                     // then the number may be another's
		return gone
	}
	uid := r.box.stage.uid
	if uid < 0 {
		return f(root)
	}
	answer := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := becomeThread(uid); err != nil {
			answer <- err
			return
		}
		answer <- f(root)
	}()
	return <-answer
}

// becomeThread makes the calling thread, and it alone, another user's; with
// that it loses all capabilities.
func becomeThread(uid int) error {
	id := uintptr(uid)
	for _, call := range [][4]uintptr{
		{unix.SYS_SETGROUPS, 0, 0, 0}, {unix.SYS_SETRESGID, id, id, id}, {unix.SYS_SETRESUID, id, id, id},
	} {
		if _, _, e := unix.RawSyscall(call[0], call[1], call[2], call[3]); e != 0 {
			return fmt.Errorf("become the instance's user: %w", e)
		}
	}
	return nil
}

// openInside opens a path as the sandbox sees it: no link of it, however made,
// leads out of its root, and none through /proc to another's files.
func openInside(root int, p string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat2(root, p, &unix.OpenHow{
			Flags: uint64(flags) | unix.O_CLOEXEC, Mode: uint64(mode), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) { // a rename meanwhile
			return fd, err
		}
	}
}

func at(p string) string {
	if !path.IsAbs(p) {
		p = boxHome + "/" + p
	}
	return path.Clean(p)
}

// fileError says what is wrong with a file, to whom it is no news that it is
// in an instance.
func fileError(p string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return api.Errorf(api.CodeNotFound, "the instance has no %s", p)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS), errors.Is(err, unix.ELOOP):
		return api.Invalidf("path", "the application's user may not open %s; its home is %s", p, boxHome)
	case errors.Is(err, unix.EISDIR):
		return api.Invalidf("path", "%s is a folder: name a file, or run tar with \"perigee instance exec\"", p)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return api.Errorf(api.CodeTooLarge, "the instance's disk is full: resources.disk_mib of its application bounds it, else half of its memory")
	}
	if _, ok := errors.AsType[*api.Error](err); ok {
		return err
	}
	return fmt.Errorf("open %s in the instance: %w", p, err)
}

// pull sends a file.
func (t *visit) pull(r api.EnterRequest) api.EnterControl {
	p := at(r.Path)
	var f *os.File
	err := t.room.inside(func(root int) error {
		fd, err := openInside(root, p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err == nil {
			f = os.NewFile(uintptr(fd), p)
		}
		return err
	})
	if err != nil {
		return api.EnterFailed(fileError(p, err))
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return api.EnterFailed(fileError(p, err))
	case st.IsDir():
		return api.EnterFailed(fileError(p, unix.EISDIR))
	case !st.Mode().IsRegular():
		return api.EnterFailed(api.Invalidf("path", "%s is no ordinary file", p))
	case st.Size() > api.MaxInstanceFile:
		return api.EnterFailed(api.Errorf(api.CodeTooLarge, "%s is over %d GiB", p, api.MaxInstanceFile>>30))
	}
	t.say(api.EnterControl{Type: api.EnterStarted, Size: st.Size(), Mode: uint32(st.Mode().Perm())}.Frame())
	last := api.EnterControl{Type: api.EnterEnded}
	buf := make([]byte, 1+api.EnterPiece)
	buf[0] = api.EnterOutput
	for last.Size < st.Size() { // what is added meanwhile is not sent
		n, err := f.Read(buf[1:min(int64(len(buf)), 1+st.Size()-last.Size)])
		if err != nil {
			return api.EnterFailed(api.Errorf(api.CodeConflict, "%s became shorter while it was read", p))
		}
		if last.Size += int64(n); !t.say(slices.Clone(buf[:1+n])) {
			return api.EnterFailed(api.Errorf(api.CodeUnavailable, "nobody reads %s any more", p))
		}
	}
	return last
}

// push writes a file: whole, or not at all. In memory it is the shim's and not
// the application's, so it may take no more than the application's group could.
func (t *visit) push(r api.EnterRequest) api.EnterControl {
	p := at(r.Path)
	dir, name := path.Split(p)
	temp := ".perigee-" + rand.Text()
	var f *os.File
	folder, most := -1, int64(api.MaxInstanceFile)
	err := t.room.inside(func(root int) (err error) {
		if folder, err = openInside(root, dir, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
			return err
		}
		var st unix.Stat_t
		if unix.Fstatat(folder, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR || name == "" {
			return unix.EISDIR
		}
		fd, err := unix.Openat(folder, temp, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == nil {
			f = os.NewFile(uintptr(fd), p)
			var fs unix.Statfs_t
			if unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.TMPFS_MAGIC {
				if free, ok := t.room.box.group.free(); ok {
					most = min(most, free)
				}
			}
		}
		return err
	})
	if folder >= 0 {
		defer func() { _ = unix.Close(folder) }() // a folder
	}
	if err != nil {
		return api.EnterFailed(fileError(p, err))
	}
	t.say(api.EnterControl{Type: api.EnterStarted}.Frame())
	var n int64
	if r.Size <= most {
		n, err = io.Copy(f, io.LimitReader(t.input, most+1))
	}
	switch {
	case err == nil && max(n, r.Size) > most && most < api.MaxInstanceFile:
		err = api.Errorf(api.CodeTooLarge, "the application's memory has room for %d more KiB, and the file would lie in it: raise resources.memory_mib, or set resources.disk_mib", most>>10)
	case err == nil && n > most:
		err = api.Errorf(api.CodeTooLarge, "the file is over %d GiB", api.MaxInstanceFile>>30)
	case err == nil && r.Size >= 0 && n != r.Size:
		err = api.Errorf(api.CodeInvalid, "%d of %d bytes came: the file is left as it was", n, r.Size)
	}
	if err = errors.Join(err, f.Chmod(os.FileMode(r.Mode)), f.Close()); err == nil {
		err = t.room.inside(func(int) error { return unix.Renameat(folder, temp, folder, name) })
	}
	if err != nil { // not inside, where nobody gets when the application has ended
		if e := unix.Unlinkat(folder, temp, 0); e != nil && !errors.Is(e, unix.ENOENT) {
			t.log.Warn("a part of a file is left in an instance", "error", e)
		}
		return api.EnterFailed(fileError(p, err))
	}
	return api.EnterControl{Type: api.EnterEnded, Size: n}
}
