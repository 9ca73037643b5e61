package stream

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
)

// Folders of the application's home that a page exchanges files with.
const (
	uploads   = "Uploads"
	downloads = "Downloads"

	maxFile   = 2 << 30 // bytes
	maxListed = 200
	maxName   = 200 // bytes
	partName  = ".perigee-part-"
	spareDisk = 1 << 20 // bytes that an upload leaves free
)

// folder is one of them. The application owns it and may change it at any time,
// so everything goes through descriptors and follows no link.
type folder struct {
	name     string
	uid, gid int
	mu       sync.Mutex // files are sent while the folder is opened anew; guards what f is
	f        *os.File
}

// openFolder opens a folder of a home and makes it where it is missing.
func openFolder(home *os.File, name string) (*folder, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(home.Fd()), &st); err != nil {
		return nil, fmt.Errorf("look at home: %w", err)
	}
	d := &folder{name: name, uid: int(st.Uid), gid: int(st.Gid)}
	err := unix.Mkdirat(int(home.Fd()), name, 0o755)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make folder %s: %w", name, err)
	}
	made := err == nil
	if d.f, err = beneath(home, name, unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return nil, fmt.Errorf("open folder %s of the application's home: %w", name, err)
	}
	if made {
		if err := d.own(d.f); err != nil {
			return nil, errors.Join(err, d.f.Close())
		}
	}
	return d, nil
}

// beneath opens a name in a folder: no link, nothing above it.
func beneath(dir *os.File, name string, flags int, mode os.FileMode) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW), Mode: uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}) // since Linux 5.6
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// own gives a file to the application.
func (d *folder) own(f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	if err := f.Chown(d.uid, d.gid); err != nil {
		return fmt.Errorf("give %s to the application: %w", f.Name(), err)
	}
	return nil
}

// again opens the folder anew where the application has removed it.
func (d *folder) again(home *os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var st unix.Stat_t
	if err := unix.Fstat(int(d.f.Fd()), &st); err != nil || st.Nlink > 0 {
		return err
	}
	now, err := openFolder(home, d.name)
	if err != nil {
		return err
	}
	now.f, d.f = d.f, now.f
	return now.Close()
}

func (d *folder) Close() error { return d.f.Close() }

// room refuses what does not fit on the instance's disk.
func (d *folder) room(size int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.f.Fd()), &st); err != nil {
		return fmt.Errorf("look at the instance's disk: %w", err)
	}
	if free := int64(st.Bavail)*st.Bsize - spareDisk; size > free {
		return api.Errorf(api.CodeTooLarge, "the instance's disk has %d MiB free, the file has %d", max(free, 0)>>20, (size+1<<20-1)>>20)
	}
	return nil
}

// cleanName makes a name of what a page calls a file: no folder, nothing hidden,
// no control character, nothing that writes in another direction.
func cleanName(name string) string {
	name = path.Base(strings.ReplaceAll(strings.ToValidUTF8(name, "_"), `\`, "/"))
	if name == "/" {
		name = ""
	}
	name = strings.Map(func(r rune) rune {
		if r == '/' || unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) {
			return '_'
		}
		return r
	}, name)
	name = strings.TrimLeft(strings.TrimSpace(name), ".-")
	if name == "" {
		name = "file"
	}
	ext := path.Ext(name)
	if len(ext) > 20 {
		ext = ""
	}
	base := strings.TrimSuffix(name, ext)
	for len(base)+len(ext) > maxName {
		_, n := utf8.DecodeLastRuneInString(base)
		base = base[:len(base)-n]
	}
	return base + ext
}

// upload is a file on its way: hidden until it is whole.
type upload struct {
	d          *folder
	f          *os.File
	part, name string
	size, got  int64
	told       int64
}

// create begins a file.
func (d *folder) create(name string, size int64) (*upload, error) {
	if size < 0 || size > maxFile {
		return nil, api.Errorf(api.CodeTooLarge, "a file may have %d MiB at most", maxFile>>20)
	}
	if err := d.room(size); err != nil {
		return nil, err
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("name a file: %w", err)
	}
	u := &upload{d: d, part: partName + hex.EncodeToString(b[:]), name: cleanName(name), size: size}
	var err error
	if u.f, err = beneath(d.f, u.part, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644); err != nil {
		return nil, fmt.Errorf("make file: %w", err)
	}
	if err := d.own(u.f); err != nil {
		u.drop()
		return nil, err
	}
	return u, nil
}

func (u *upload) write(b []byte) error {
	if u.got+int64(len(b)) > u.size {
		return api.Errorf(api.CodeTooLarge, "more came than the %d bytes said", u.size)
	}
	n, err := u.f.Write(b)
	u.got += int64(n)
	if errors.Is(err, unix.ENOSPC) {
		return errors.New("the instance's disk is full")
	}
	return err
}

// finish gives the file its name, or the next free one like it.
func (u *upload) finish() (string, error) {
	if err := u.f.Close(); err != nil {
		u.remove()
		return "", fmt.Errorf("write file: %w", err)
	}
	ext := path.Ext(u.name)
	base := strings.TrimSuffix(u.name, ext)
	fd := int(u.d.f.Fd())
	for n := range 100 {
		name := u.name
		if n > 0 {
			name = fmt.Sprintf("%s (%d)%s", base, n, ext)
		}
		err := unix.Renameat2(fd, u.part, fd, name, unix.RENAME_NOREPLACE)
		if err == nil {
			return name, nil
		}
		if !errors.Is(err, unix.EEXIST) {
			u.remove()
			return "", fmt.Errorf("name file %s: %w", name, err)
		}
	}
	u.remove()
	return "", fmt.Errorf("a hundred files are called like %s: remove some", u.name)
}

func (u *upload) drop() {
	_ = u.f.Close() // it is removed
	u.remove()
}

func (u *upload) remove() { _ = unix.Unlinkat(int(u.d.f.Fd()), u.part, 0) } // gone already: well

// fileTold is a file that may be fetched.
type fileTold struct {
	Name     string `json:"name"`
	Size     int64  `json:"size"`
	Modified int64  `json:"modified"` // ms since 1970
}

// list gives the newest files, of which a page may fetch each.
func (d *folder) list() ([]fileTold, error) {
	if _, err := d.f.Seek(0, 0); err != nil {
		return nil, fmt.Errorf("list files: %w", err)
	}
	entries, err := d.f.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("list files: %w", err)
	}
	var out []fileTold
	for _, e := range entries {
		if !e.Type().IsRegular() || unfinished(e.Name()) {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstatat(int(d.f.Fd()), e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue // it is gone
		}
		out = append(out, fileTold{e.Name(), st.Size, st.Mtim.Nano() / 1e6})
	}
	slices.SortFunc(out, func(a, b fileTold) int {
		return cmp.Or(cmp.Compare(b.Modified, a.Modified), cmp.Compare(a.Name, b.Name))
	})
	return out[:min(len(out), maxListed)], nil
}

// unfinished says whether a program still writes the file, by the names that
// browsers give such, or hides it.
func unfinished(name string) bool {
	return strings.HasPrefix(name, ".") || !utf8.ValidString(name) ||
		slices.Contains([]string{".part", ".crdownload", ".tmp"}, path.Ext(name))
}

// open opens a file for reading and gives its size.
func (d *folder) open(name string) (*os.File, int64, error) {
	if name == "" || strings.ContainsRune(name, '/') || unfinished(name) {
		return nil, 0, api.Invalidf("name", "%q is no file of %s", name, downloads)
	}
	d.mu.Lock()
	f, err := beneath(d.f, name, unix.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe must not hold us
	d.mu.Unlock()
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, 0, api.Errorf(api.CodeNotFound, "there is no file %s any more", name)
		}
		return nil, 0, fmt.Errorf("open file: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxFile {
		return nil, 0, errors.Join(api.Invalidf("name", "%s is no file of at most %d MiB", name, maxFile>>20), f.Close())
	}
	return f, st.Size, nil
}
