package image

import (
	"context"
	"os"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/platforms"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sys/unix"
)

// trim removes the images used least recently, and by nobody now, until the
// unpacked ones take at most so many bytes. It says whether it removed any.
func (s *Store) trim(ctx context.Context, most int64) bool {
	list, err := s.client.ImageService().List(ctx)
	if err != nil {
		return false // the next one tries again
	}
	slices.SortFunc(list, func(a, b images.Image) int { return s.used(ctx, a).Compare(s.used(ctx, b)) })
	removed := false
	for _, img := range list {
		if s.size(ctx) <= most {
			break
		}
		removed = s.remove(ctx, img) || removed
	}
	return removed
}

// size is what the snapshots of all images take in bytes.
func (s *Store) size(ctx context.Context) int64 {
	sn := s.client.SnapshotService(snapshotter)
	var sum int64
	_ = sn.Walk(ctx, func(ctx context.Context, info snapshots.Info) error { // what it did not see does not count
		if u, err := sn.Usage(ctx, info.Name); err == nil {
			sum += u.Size
		}
		return nil
	})
	return sum
}

// used is when an image was last taken; zero when never.
func (s *Store) used(ctx context.Context, img images.Image) time.Time {
	chain, err := img.RootFS(ctx, s.client.ContentStore(), platforms.Default())
	if err != nil {
		return time.Time{}
	}
	info, err := os.Stat(s.cfg.Locks + "/" + identity.ChainID(chain).Encoded())
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// remove removes an image that nobody uses.
func (s *Store) remove(ctx context.Context, img images.Image) bool {
	diffs, err := img.RootFS(ctx, s.client.ContentStore(), platforms.Default())
	if err != nil {
		return s.client.ImageService().Delete(ctx, img.Name, images.SynchronousDelete()) == nil // half an image
	}
	chain := identity.ChainID(diffs)
	lock, err := s.lock(chain, unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return false // in use
	}
	defer lock.Close()
	// Not under the lease of what is fetched now, which would keep it.
	ctx = leases.WithLease(ctx, "")
	_ = s.client.SnapshotService(snapshotter).Remove(ctx, viewOf(chain)) // another tag's removal may have taken it
	if s.client.ImageService().Delete(ctx, img.Name, images.SynchronousDelete()) != nil {
		return false
	}
	return os.Remove(lock.Name()) == nil
}
