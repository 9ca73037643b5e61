package image

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/image/imagetest"
)

func TestFetchAndKeep(t *testing.T) {
	d := startContainerd(t, "")
	var asked atomic.Int64
	host := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet || r.Method == http.MethodHead {
				asked.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	})
	img := picture(t, files(t, map[string]string{"a": "1", "b": "2"}), files(t, map[string]string{"b": "3"}))
	digest := push(t, host+"/game:1", img)
	s := open(t, Config{Socket: d.Socket})
	got, err := s.Get(t.Context(), host+"/game@"+digest)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Release()
	if got.Digest != digest || !reflect.DeepEqual(got.Command, []string{"/run.sh", "a"}) || got.User != "7:8" || got.Dir != "/w" || !reflect.DeepEqual(got.Env, []string{"X=1"}) {
		t.Errorf("image is %+v", got)
	}
	if len(got.Layers) != 2 {
		t.Fatalf("layers are %v", got.Layers)
	}
	if b, err := os.ReadFile(filepath.Join(got.Layers[0], "b")); err != nil || string(b) != "3" {
		t.Errorf("the uppermost layer has b=%q (%v)", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(got.Layers[1], "a")); err != nil || string(b) != "1" {
		t.Errorf("the lowest layer has a=%q (%v)", b, err)
	}
	before := asked.Load()
	again, err := s.Get(t.Context(), host+"/game@"+digest)
	if err != nil || !reflect.DeepEqual(again.Layers, got.Layers) {
		t.Fatalf("the second time: %+v, %v", again, err)
	}
	defer again.Release()
	if asked.Load() != before {
		t.Errorf("the registry was asked for a digest that is here")
	}
	if l, err := s.client.LeasesService().List(s.quiet(t.Context())); err != nil || len(l) > 0 {
		t.Errorf("leases are left: %v (%v)", l, err)
	}
}

func TestTagsMove(t *testing.T) {
	d := startContainerd(t, "")
	off := false
	host := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if off {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	s := open(t, Config{Socket: d.Socket, Stall: time.Second})
	one := push(t, host+"/game:latest", picture(t, files(t, map[string]string{"v": "1"})))
	first, err := s.Get(t.Context(), host+"/game")
	if err != nil || first.Digest != one {
		t.Fatalf("got %+v, %v", first, err)
	}
	defer first.Release()
	two := push(t, host+"/game:latest", picture(t, files(t, map[string]string{"v": "2"})))
	second, err := s.Get(t.Context(), host+"/game:latest")
	if err != nil || second.Digest != two {
		t.Fatalf("after the tag moved: %+v, %v", second, err)
	}
	defer second.Release()
	if b, err := os.ReadFile(filepath.Join(first.Layers[0], "v")); err != nil || string(b) != "1" {
		t.Errorf("the first one, in use, has become v=%q (%v)", b, err)
	}
	off = true
	third, err := s.Get(t.Context(), host+"/game:latest")
	if err != nil || third.Digest != two || third.Stale == nil {
		t.Fatalf("with the registry away: %+v, %v", third, err)
	}
	third.Release()
}

// reason checks what Get fails with, and that nothing is left.
func reason(t *testing.T, d *imagetest.Daemon, s *Store, ref string, want api.Reason) error {
	t.Helper()
	img, err := s.Get(t.Context(), ref)
	var e *Error
	if !errors.As(err, &e) || e.Reason != want || !strings.Contains(e.Error(), ref) {
		t.Errorf("%s: got %v, %+v, want %s", ref, img, err, want)
	}
	nothing(t, d, s)
	return err
}

func TestWhatIsNotThere(t *testing.T) {
	d := startContainerd(t, "")
	host := serve(t, nil)
	s := open(t, Config{Socket: d.Socket, Stall: 2 * time.Second})
	push(t, host+"/game:1", picture(t, files(t, map[string]string{"a": "1"})))
	reason(t, d, s, host+"/game:2", api.ReasonImageNotFound)
	reason(t, d, s, host+"/none:1", api.ReasonImageNotFound)
	reason(t, d, s, host+"/game@sha256:"+strings.Repeat("0", 64), api.ReasonImageNotFound)
	reason(t, d, s, "127.0.0.1:1/game:1", api.ReasonImageUnreachable)
	reason(t, d, s, "no/Name:1", api.ReasonStartFailed)
}

// TestDigestMismatch: the manifest or a layer is not what its digest says.
func TestDigestMismatch(t *testing.T) {
	d := startContainerd(t, "")
	what := ""
	host := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && what != "" && strings.Contains(r.URL.Path, what) {
				w = &flipped{w}
			}
			next.ServeHTTP(w, r)
		})
	})
	s := open(t, Config{Socket: d.Socket})
	layer := files(t, map[string]string{"a": strings.Repeat("1", 4096)})
	digest := push(t, host+"/game:1", picture(t, layer))
	diff, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, what = range []string{"/manifests/", "/blobs/" + diff.String()} {
		reason(t, d, s, host+"/game@"+digest, api.ReasonImageMismatch)
	}
	what = ""
	img, err := s.Get(t.Context(), host+"/game@"+digest)
	if err != nil {
		t.Fatalf("the right one afterwards: %v", err)
	}
	img.Release()
}

// flipped changes what a server sends.
type flipped struct{ http.ResponseWriter }

func (f *flipped) Write(p []byte) (int, error) {
	q := make([]byte, len(p))
	copy(q, p)
	q[len(q)/2] ^= 1
	return f.ResponseWriter.Write(q)
}

func TestRegistryHangs(t *testing.T) {
	d := startContainerd(t, "")
	stop := make(chan struct{})
	where := ""
	host := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut || r.Method == http.MethodPost || r.Method == http.MethodPatch || !strings.Contains(r.URL.Path, where) {
				next.ServeHTTP(w, r)
				return
			}
			if where == "/blobs/" { // the first part of the body comes
				w.Header().Set("Content-Length", "100000")
				_, _ = w.Write(make([]byte, 10))
				w.(http.Flusher).Flush()
			}
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		})
	})
	defer close(stop)
	where = "never"
	digest := push(t, host+"/game:1", picture(t, files(t, map[string]string{"a": strings.Repeat("1", 200000)})))
	s := open(t, Config{Socket: d.Socket, Stall: 300 * time.Millisecond})
	for _, where = range []string{"/manifests/", "/blobs/"} {
		begun := time.Now()
		reason(t, d, s, host+"/game@"+digest, api.ReasonImageTimeout)
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("with %s it took %s", where, took)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := s.Get(ctx, host+"/game@"+digest); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 3*time.Second {
		t.Errorf("ended early it gave %v after %s", err, time.Since(begun))
	}
	nothing(t, d, s)
}

// TestDiskFull: the file system that containerd unpacks to is too small.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: no small file system")
	}
	// 64 MiB, of which 32 are spared: the image that does not fit would take 28.
	root := smallDisk(t, 64)
	d := startContainerd(t, root)
	host := serve(t, nil)
	s := open(t, Config{Socket: d.Socket, SpareMiB: 36})
	big := func(c string) string {
		return host + "/big@" + push(t, host+"/big:"+c, picture(t, files(t, map[string]string{"a": strings.Repeat(c, 7<<20)})))
	}
	reason(t, d, s, host+"/huge@"+push(t, host+"/huge:1", picture(t, files(t, map[string]string{"a": strings.Repeat("x", 14<<20)}))), api.ReasonDiskFull)
	one, err := s.Get(t.Context(), big("1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), big("2")); err == nil || err.(*Error).Reason != api.ReasonDiskFull {
		t.Errorf("beside one in use: %v", err)
	}
	if _, err := os.Stat(filepath.Join(one.Layers[0], "a")); err != nil {
		t.Errorf("the image in use was removed: %v", err)
	}
	if err := one.Release(); err != nil {
		t.Fatal(err)
	}
	two, err := s.Get(t.Context(), big("2"))
	if err != nil {
		t.Fatalf("where an unused one can make room: %v", err)
	}
	two.Release()
}

func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgd")
	if err != nil {
		t.Fatal(err)
	}
	img := dir + ".img"
	t.Cleanup(func() { os.Remove(img); os.Remove(dir) })
	for _, argv := range [][]string{
		{"truncate", "-s", fmt.Sprintf("%dM", mib), img},
		{"mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", img},
		{"mount", "-o", "loop", img, dir},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Skipf("no small file system here: %v: %s", err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("unmount: %v: %s", err, out)
		}
	})
	return dir
}

func TestLeastUsedMakesRoom(t *testing.T) {
	d := startContainerd(t, "")
	host := serve(t, nil)
	s := open(t, Config{Socket: d.Socket, MaxMiB: 5})
	get := func(c string) (*Image, string) {
		ref := host + "/g" + c + "@" + push(t, host+"/g"+c+":1", picture(t, files(t, map[string]string{c: strings.Repeat(c, 2<<20)})))
		img, err := s.Get(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		return img, ref
	}
	a, _ := get("a")
	b, _ := get("b")
	b.Release()
	c, _ := get("c") // over the bound: b goes, a is in use
	defer c.Release()
	defer a.Release()
	list, err := s.client.ImageService().List(s.quiet(t.Context()))
	if err != nil || len(list) != 2 || strings.Contains(list[0].Name+list[1].Name, "/gb@") {
		t.Errorf("kept are %v (%v)", list, err)
	}
	if _, err := os.Stat(filepath.Join(a.Layers[0], "a")); err != nil {
		t.Errorf("the one in use was removed: %v", err)
	}
}

func TestCredentials(t *testing.T) {
	d := startContainerd(t, "")
	closed := false
	host := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, _ := r.BasicAuth(); closed && (u != "me" || p != "se:cret") {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	ref := host + "/game@" + push(t, host+"/game:1", picture(t, files(t, map[string]string{"a": "1"})))
	closed = true
	file := filepath.Join(t.TempDir(), "config.json")
	write := func(auth string, mode os.FileMode) {
		t.Helper()
		text := fmt.Sprintf(`{"auths":{"http://%s/v2/":{"auth":%q}}}`, host, auth)
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
	}
	encoded := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	reason(t, d, open(t, Config{Socket: d.Socket}), ref, api.ReasonImageDenied)
	write(encoded("me:wrong"), 0o600)
	s := open(t, Config{Socket: d.Socket, Credentials: file})
	reason(t, d, s, ref, api.ReasonImageDenied)
	write(encoded("me:se:cret"), 0o600)
	img, err := s.Get(t.Context(), ref)
	if err != nil {
		t.Fatalf("with the right ones: %v", err)
	}
	img.Release()
	for _, c := range []struct {
		auth string
		mode os.FileMode
	}{{encoded("me:x"), 0o644}, {"???", 0o600}, {encoded("me"), 0o600}} {
		write(c.auth, c.mode)
		if _, err := Open(t.Context(), Config{Socket: d.Socket, Credentials: file, Locks: t.TempDir()}); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("auth %q mode %o: %v", c.auth, c.mode, err)
		}
	}
}

func TestNoContainerd(t *testing.T) {
	begun := time.Now()
	if _, err := Open(t.Context(), Config{Socket: t.TempDir() + "/none", Locks: t.TempDir()}); !errors.Is(err, os.ErrNotExist) || time.Since(begun) > time.Second {
		t.Errorf("without containerd: %v after %s", err, time.Since(begun))
	}
}
