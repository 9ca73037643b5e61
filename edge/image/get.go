package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	docker "github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
)

// Image is one that is on the node and in use.
type Image struct {
	Digest string // of its manifest or index
	// Layers are its folders on this host, the uppermost first. They are read only.
	Layers []string
	// What the image says of how to run it.
	Command []string // entry point and its arguments
	Env     []string // "NAME=value"
	Dir     string   // "" = not said
	User    string   // "user", "user:group", names or numbers; "" = root
	// Stale says why a tag could not be asked for: what was there is used.
	Stale error

	lock *os.File
}

// Release says that the image is not used any more. The end of the process does too.
func (i *Image) Release() error {
	if err := i.lock.Close(); err != nil {
		return fmt.Errorf("release image: %w", err)
	}
	return nil
}

// Get gives an image, fetching what is missing of it. One named by a digest that
// is here asks nobody; a tag asks its registry each time. Its errors are *Error.
func (s *Store) Get(ctx context.Context, ref string) (*Image, error) {
	ctx, cancel := context.WithTimeoutCause(s.quiet(ctx), s.cfg.Limit, fmt.Errorf("%w: it is not here after %s", errStalled, s.cfg.Limit))
	defer cancel()
	img, err := s.get(ctx, ref)
	if err == nil {
		return img, nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, errStalled) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return nil, explain(ref, err)
}

func (s *Store) get(ctx context.Context, ref string) (*Image, error) {
	named, err := docker.ParseDockerRef(ref)
	if err != nil {
		return nil, fmt.Errorf("read the image's name: %w", err)
	}
	name := named.String()
	// What is fetched or looked at stays for as long as the lease does; a failed
	// attempt leaves nothing, because its lease goes with it.
	lm := s.client.LeasesService()
	lease, err := lm.Create(ctx, leases.WithRandomID(), leases.WithExpiration(2*s.cfg.Limit))
	if err != nil {
		return nil, fmt.Errorf("make lease: %w", err)
	}
	ctx = leases.WithLease(ctx, lease.ID)
	fetched := false
	defer func() {
		var opts []leases.DeleteOpt
		if fetched { // wait for the sweep of what it left
			opts = append(opts, leases.SynchronousDelete)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		_ = lm.Delete(ctx, lease, opts...) // it expires by itself
	}()
	img, stale, err := s.present(ctx, name, named)
	if err != nil {
		return nil, err
	}
	if img == nil {
		fetched = true
		if img, err = s.fetch(ctx, name); err != nil {
			return nil, err
		}
	}
	out, err := s.take(ctx, img)
	if errdefs.IsNotFound(err) && !fetched { // it was removed this moment to make room
		fetched = true
		if img, err = s.fetch(ctx, name); err == nil {
			out, err = s.take(ctx, img)
		}
	}
	if err != nil {
		return nil, err
	}
	if out.Stale = stale; fetched {
		s.trim(ctx, int64(s.cfg.MaxMiB)<<20)
	}
	return out, nil
}

// present looks for an image on the node. A tag is asked for at the registry:
// when that cannot be reached, what is here will do, and stale says so.
func (s *Store) present(ctx context.Context, name string, named docker.Named) (img containerd.Image, stale, err error) {
	img, err = s.client.GetImage(ctx, name)
	if errdefs.IsNotFound(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("look for image: %w", err)
	}
	whole, err := img.IsUnpacked(ctx, snapshotter)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, nil, fmt.Errorf("look for image: %w", err)
	}
	if !whole { // also where parts are missing: it is fetched again
		return nil, nil, nil
	}
	if _, fixed := named.(docker.Digested); fixed {
		return img, nil, nil
	}
	r, _, err := s.resolver()
	if err != nil {
		return nil, nil, err
	}
	_, desc, err := r.Resolve(ctx, name)
	switch {
	case err != nil && ctx.Err() == nil:
		return img, err, nil
	case err != nil:
		return nil, nil, err
	case desc.Digest != img.Target().Digest:
		return nil, nil, nil
	}
	return img, nil, nil
}

// fetch gets and unpacks an image. When the disk is full, images that nobody
// uses make room, once.
func (s *Store) fetch(ctx context.Context, name string) (containerd.Image, error) {
	for again := true; ; again = false {
		img, err := s.pull(ctx, name)
		if err == nil {
			return img, nil
		}
		if !again || !full(err) || !s.trim(ctx, 0) {
			return nil, fmt.Errorf("fetch image: %w", err)
		}
	}
}

// pull is one attempt, ended when it would take the disk's last room.
func (s *Store) pull(ctx context.Context, name string) (containerd.Image, error) {
	r, line, err := s.resolver()
	if err != nil {
		return nil, err
	}
	if err := s.room(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(roomPoll)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := s.room(); err != nil {
					cancel(err)
				}
			}
		}
	}()
	img, err := s.client.Pull(ctx, name, containerd.WithPullUnpack, containerd.WithPullSnapshotter(snapshotter),
		containerd.WithResolver(r), containerd.WithMaxConcurrentDownloads(3))
	cause := context.Cause(ctx)
	cancel(nil)
	<-watched
	if err == nil {
		if err = s.room(); err != nil {
			err = errors.Join(err, s.client.ImageService().Delete(context.WithoutCancel(ctx), name))
		}
	} else if errors.Is(cause, errFull) {
		err = cause
	} else if line.met.Load() {
		err = fmt.Errorf("%w: %w", errStalled, err)
	} else if m := regexp.MustCompile(`failed commit on ref "([^"]+)"`).FindStringSubmatch(err.Error()); m != nil {
		// What came is wrong, and the next attempt would go on with it.
		_ = s.client.ContentStore().Abort(context.WithoutCancel(ctx), m[1]) // it is told that it is wrong anyway
	}
	return img, err
}

// roomPoll is how often the disk is looked at while an image comes.
const roomPoll = 20 * time.Millisecond

// errFull says that an image would take the disk's last room.
var errFull = errors.New("no space left on device")

// room says whether there is more left of the disk than what is to be spared.
func (s *Store) room() error {
	var st unix.Statfs_t
	if s.root == "" {
		return nil // containerd itself says when it is full
	}
	if err := unix.Statfs(s.root, &st); err != nil {
		return fmt.Errorf("look at containerd's disk: %w", err)
	}
	if free := int64(st.Bavail) * st.Bsize >> 20; free < int64(s.cfg.SpareMiB) {
		return fmt.Errorf("%w but the %d MiB that are kept free", errFull, s.cfg.SpareMiB)
	}
	return nil
}

// take notes that the image is in use and gives its folders.
func (s *Store) take(ctx context.Context, img containerd.Image) (_ *Image, err error) {
	cfg, err := s.config(ctx, img)
	if err != nil {
		return nil, err
	}
	chain := identity.ChainID(cfg.RootFS.DiffIDs)
	if chain == "" {
		return nil, errors.New("read image: it has no layers")
	}
	lock, err := s.lock(chain, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	out := &Image{
		Digest: img.Target().Digest.String(), Env: cfg.Config.Env, Dir: cfg.Config.WorkingDir, User: cfg.Config.User,
		Command: slices.Concat(cfg.Config.Entrypoint, cfg.Config.Cmd), lock: lock,
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	// One look at the image for all its instances: it also keeps the layers.
	sn := s.client.SnapshotService(snapshotter)
	mounts, err := sn.View(ctx, viewOf(chain), chain.String(), snapshots.WithLabels(map[string]string{
		"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339),
	}))
	if errdefs.IsAlreadyExists(err) {
		mounts, err = sn.Mounts(ctx, viewOf(chain))
	}
	if err != nil {
		return nil, fmt.Errorf("show image: %w", err)
	}
	if out.Layers = layers(mounts); len(out.Layers) == 0 {
		return nil, fmt.Errorf("show image: containerd mounts it as %v, which is none of what the overlayfs snapshotter does", mounts)
	}
	return out, nil
}

func (s *Store) config(ctx context.Context, img containerd.Image) (ocispec.Image, error) {
	var cfg ocispec.Image
	desc, err := img.Config(ctx)
	if err != nil {
		return cfg, fmt.Errorf("find image's configuration: %w", err)
	}
	b, err := content.ReadBlob(ctx, img.ContentStore(), desc)
	if err != nil {
		return cfg, fmt.Errorf("read image's configuration: %w", err)
	}
	if err := json.Unmarshal(b, &cfg); err != nil {
		return cfg, fmt.Errorf("read image's configuration: %w", err)
	}
	return cfg, nil
}

func viewOf(chain digest.Digest) string { return "view-" + chain.Encoded() }

// layers reads the folders of a read-only view: a bind mount of a single layer,
// else an overlay's lower ones.
func layers(mounts []mount.Mount) []string {
	if len(mounts) != 1 {
		return nil
	}
	m := mounts[0]
	if m.Type == "bind" {
		return []string{m.Source}
	}
	for _, o := range m.Options {
		if l, ok := strings.CutPrefix(o, "lowerdir="); ok && m.Type == "overlay" {
			return strings.Split(l, ":")
		}
	}
	return nil
}

// lock takes an image's lock, which the kernel frees with the process.
func (s *Store) lock(chain digest.Digest, how int) (*os.File, error) {
	path := filepath.Join(s.cfg.Locks, chain.Encoded())
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock image: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), how); err != nil {
			return nil, fmt.Errorf("lock image: %w", errors.Join(err, f.Close()))
		}
		ours, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 != nil || err2 != nil || !os.SameFile(ours, there) { // its image was removed while we waited
			f.Close()
			continue
		}
		if how == unix.LOCK_SH {
			now := time.Now()
			_ = os.Chtimes(path, now, now) // when it was last used; at worst it is forgotten early
		}
		return f, nil
	}
}

// Error says why an image cannot be had.
type Error struct {
	Reason api.Reason
	Image  string
	Err    error
}

func (e *Error) Error() string { return "image " + e.Image + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

func full(err error) bool { return contains(err, "no space left on device", "disk quota exceeded") }

// explain names what went wrong.
func explain(ref string, err error) *Error {
	e := &Error{Reason: api.ReasonStartFailed, Image: ref, Err: err}
	switch {
	case errors.Is(err, errStalled), contains(err, errStalled.Error()):
		e.Reason = api.ReasonImageTimeout
	case full(err):
		e.Reason = api.ReasonDiskFull
	case contains(err, "unexpected commit digest", "unexpected commit size"):
		e.Reason = api.ReasonImageMismatch
	case contains(err, "authorization failed", "401 Unauthorized", "403 Forbidden"):
		e.Reason = api.ReasonImageDenied
	case errdefs.IsNotFound(err):
		e.Reason = api.ReasonImageNotFound
	case contains(err, "connection refused", "no such host", "connection reset", "no route to host", "network is unreachable", "x509:", "server misbehaving"):
		e.Reason = api.ReasonImageUnreachable
	}
	return e
}
