package image

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/perigee-cloud/perigee/edge/image/imagetest"
)

// startContainerd starts one of the test's own.
func startContainerd(t *testing.T, root string) *imagetest.Daemon {
	t.Helper()
	d, err := imagetest.Start(t.Context(), root)
	if errors.Is(err, imagetest.ErrAbsent) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("containerd says:\n%s", d.Warnings())
		}
	})
	return d
}

func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	if cfg.Locks == "" {
		cfg.Locks = t.TempDir()
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// files makes a layer.
func files(t *testing.T, content map[string]string) v1.Layer {
	t.Helper()
	m := map[string]imagetest.File{}
	for p, text := range content {
		m[p] = imagetest.File{Body: []byte(text)}
	}
	l, err := imagetest.Layer(m)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// picture makes an image of layers.
func picture(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := imagetest.Image(v1.Config{Entrypoint: []string{"/run.sh"}, Cmd: []string{"a"}, Env: []string{"X=1"}, WorkingDir: "/w", User: "7:8"}, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func serve(t *testing.T, front func(next http.Handler) http.Handler) string {
	t.Helper()
	host, stop := imagetest.Serve(front)
	t.Cleanup(stop)
	return host
}

func push(t *testing.T, ref string, img v1.Image) string {
	t.Helper()
	d, err := imagetest.Push(t.Context(), ref, img)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// nothing fails unless containerd holds nothing of ours.
func nothing(t *testing.T, d *imagetest.Daemon, s *Store) {
	t.Helper()
	ctx := s.quiet(context.Background())
	list, err := s.client.ImageService().List(ctx)
	if err != nil || len(list) > 0 {
		t.Errorf("images are left: %v (%v)", list, err)
	}
	if l, err := s.client.LeasesService().List(ctx); err != nil || len(l) > 0 {
		t.Errorf("leases are left: %v (%v)", l, err)
	}
	if n := s.size(ctx); n > 0 {
		t.Errorf("snapshots of %d bytes are left", n)
	}
	var left []string
	for _, pattern := range []string{"/io.containerd.content.v1.content/blobs/sha256/*", "/io.containerd.content.v1.content/ingest/*", "/io.containerd.snapshotter.v1.overlayfs/snapshots/*"} {
		found, _ := filepath.Glob(d.Root + pattern)
		left = append(left, found...)
	}
	if len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}
