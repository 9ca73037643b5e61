package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/image"
)

// root is a container's own file system: the image's layers, read only, under
// one that lies on the instance's disk and ends with it.
type root struct {
	path     string // on the stage
	img      *image.Image
	user     int // the application's, as the image numbers it
	group    int
	workdir  string
	writable bool // the application's user owns in the image what is its own
}

// The methods of the nil root are a program's.
func (r *root) uid() string {
	if r == nil {
		return boxUID
	}
	return strconv.Itoa(r.user)
}

func (r *root) gid() string {
	if r == nil {
		return boxUID
	}
	return strconv.Itoa(r.group)
}

func (r *root) dir() string {
	if r == nil {
		return boxHome
	}
	return r.workdir
}

// takes says whether one of the sandbox's files of /etc replaces the image's.
func (r *root) takes(name string) bool {
	return name == "machine-id" || name == "resolv.conf" || name == "hosts"
}

// fetchImage gets the container's image. What it finds wrong is an *image.Error.
func (s *shim) fetchImage(ctx context.Context) (*image.Image, error) {
	store, err := image.Open(ctx, s.cfg.Images)
	if err != nil {
		return nil, fmt.Errorf("this node runs no containers: %w", err)
	}
	img, err := store.Get(ctx, s.spec.App.Image)
	if err = errors.Join(err, store.Close()); err != nil {
		return nil, err
	}
	if img.Stale != nil {
		s.log.Warn("the image's tag could not be asked for: the one that is here is used", "digest", img.Digest, "error", img.Stale)
	}
	return img, nil
}

// newRoot puts an image's layers under the instance's disk. app is for what is
// shown in it beside them.
func newRoot(st *stage, img *image.Image, disk string, app api.App, gpu *device) (*root, error) {
	if !st.l.private {
		return nil, errors.New("containers need the node's daemon to run as root: use another node")
	}
	r := &root{img: img, workdir: img.Dir, path: filepath.Join(st.root, "root")}
	if r.workdir == "" {
		r.workdir = boxHome
	}
	if !path.IsAbs(r.workdir) {
		return nil, fmt.Errorf("the image's working directory %q is not absolute", r.workdir)
	}
	var err error
	if r.user, r.group, err = userOf(img); err != nil {
		return nil, err
	}
	var users *os.File
	if st.uid >= 0 {
		if users, err = mappedUsers(r.user, r.group, st.uid); err != nil {
			return nil, err
		}
		defer users.Close()
	}
	r.writable = true
	if err := st.l.do(func() error { return r.mount(st, users, disk) }); err != nil {
		return nil, err
	}
	return r, st.l.do(func() error { return r.furnish(st, app, gpu) })
}

// mount mounts the layers and the overlay, with the launcher's thread.
func (r *root) mount(st *stage, users *os.File, disk string) error {
	lower := make([]string, len(r.img.Layers))
	for i, host := range r.img.Layers {
		// Short, because the kernel takes one page of options.
		lower[i] = filepath.Join(st.root, "l"+strconv.Itoa(i))
		if err := os.Mkdir(lower[i], 0o700); err != nil {
			return fmt.Errorf("mount image: %w", err)
		}
		if err := r.layer(host, lower[i], users); err != nil {
			return fmt.Errorf("mount image: layer %s: %w", host, err)
		}
	}
	upper, work := filepath.Join(disk, "upper"), filepath.Join(disk, "work")
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o700), os.Mkdir(r.path, 0o755)); err != nil {
		return fmt.Errorf("mount image: %w", err)
	}
	if r.user == 0 {
		if err := st.own(upper); err != nil {
			return fmt.Errorf("mount image: %w", err)
		}
	}
	opts := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + upper + ",workdir=" + work
	if len(opts) >= os.Getpagesize() {
		return fmt.Errorf("mount image: %d layers are too many: flatten it", len(lower))
	}
	if err := unix.Mount("overlay", r.path, "overlay", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		return fmt.Errorf("mount image: %w", err)
	}
	return nil
}

// layer shows one layer with the image's user as the stage's (idmapped mounts,
// since Linux 5.19 under overlays); where the kernel cannot, as it is.
func (r *root) layer(host, at string, users *os.File) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, host, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() { _ = unix.Close(fd) }() // the mount stays where it was attached
	if users != nil {
		err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users.Fd())})
		if err != nil {
			r.writable = false
		}
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return nil
}

// furnish makes the places that the sandbox mounts on. The image is somebody
// else's: none of its links is followed out of it.
func (r *root) furnish(st *stage, app api.App, gpu *device) error {
	in, err := os.OpenRoot(r.path)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	defer func() { _ = in.Close() }() // a folder
	folders := []string{"/proc", "/dev", "/tmp", "/var/tmp", boxHome, boxRuntime, boxShared, boxPlace + "/" + dirPulse, "/etc"}
	files := []string{"/etc/machine-id", "/etc/resolv.conf", "/etc/hosts", "/etc/gai.conf", boxPlace + "/xauth"}
	shown := make([][2]string, 0, len(app.ReadOnly))
	for _, p := range app.ReadOnly {
		shown = append(shown, [2]string{p, p})
	}
	if gpu != nil {
		shown = append(shown, gpu.mounts...)
	}
	for _, m := range shown {
		if info, err := os.Stat(m[0]); err == nil && !info.IsDir() {
			folders, files = append(folders, path.Dir(m[1])), append(files, m[1])
		} else {
			folders = append(folders, m[1])
		}
	}
	if r.workdir != "/" {
		_, err := in.Stat(strings.TrimPrefix(r.workdir, "/"))
		if err := makeFolder(in, r.workdir); err != nil {
			return err
		}
		if errors.Is(err, fs.ErrNotExist) && r.workdir != boxHome { // made here: the application's
			if err := st.own(filepath.Join(r.path, r.workdir)); err != nil {
				return fmt.Errorf("prepare image: %w", err)
			}
		}
	}
	for _, p := range folders {
		if err := makeFolder(in, p); err != nil {
			return err
		}
	}
	for _, p := range files {
		p = strings.TrimPrefix(p, "/")
		if info, err := in.Lstat(p); err == nil && info.Mode().IsRegular() {
			continue
		} else if err == nil {
			if err := in.Remove(p); err != nil { // a link, such as resolv.conf of systemd's
				return fmt.Errorf("prepare image: %w", err)
			}
		}
		f, err := in.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return fmt.Errorf("prepare image: %w", err)
		}
		f.Close()
	}
	return nil
}

// makeFolder makes a folder in the image and those above it; none may be a link.
func makeFolder(in *os.Root, p string) error {
	at := ""
	for part := range strings.SplitSeq(strings.TrimPrefix(path.Clean(p), "/"), "/") {
		at = path.Join(at, part)
		info, err := in.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			if err = in.Mkdir(at, 0o755); err == nil {
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("prepare image: %w", err)
		}
		if !info.IsDir() {
			return fmt.Errorf("the image has no folder at /%s, which an instance needs: make it one", at)
		}
	}
	return nil
}
