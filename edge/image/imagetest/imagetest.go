// Package imagetest is what tests and the bench need of containers: a containerd
// of their own, a registry in the process, and images made of files of this
// machine. Nothing of the product imports it.
package imagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// ErrAbsent says that this machine cannot run a containerd: it is not
// installed, or we are not root.
var ErrAbsent = errors.New("no containerd here")

// Daemon is a containerd with a root, a state and a socket of its own.
type Daemon struct {
	Root   string
	Socket string

	dir string
	cmd *exec.Cmd
	out output
}

// output keeps what it says.
type output struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

const config = `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = %q
`

// Start starts a containerd and waits until it answers. root is where it keeps
// images; "" is a folder that Close removes.
func Start(ctx context.Context, root string) (_ *Daemon, err error) {
	bin, err := exec.LookPath("containerd")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: not root", ErrAbsent)
	}
	dir, err := os.MkdirTemp("", "pgc") // short: a socket lies in it
	if err != nil {
		return nil, fmt.Errorf("make containerd's folder: %w", err)
	}
	if root == "" {
		root = dir + "/root"
	}
	d := &Daemon{Root: root, Socket: dir + "/c.sock", dir: dir, cmd: exec.Command(bin, "--config", dir+"/config.toml")}
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = os.WriteFile(dir+"/config.toml", fmt.Appendf(nil, config, root, dir+"/state", d.Socket), 0o600)
	if err == nil {
		err = d.cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start containerd: %w", errors.Join(err, os.RemoveAll(dir)))
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", d.Socket)
		if err == nil {
			return d, c.Close()
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("containerd does not answer: %w: %s", err, d.Warnings()), d.Close())
		}
	}
}

// Warnings are the lines it wrote that are no mere information.
func (d *Daemon) Warnings() string {
	d.out.mu.Lock()
	defer d.out.mu.Unlock()
	var b strings.Builder
	for line := range strings.Lines(d.out.b.String()) {
		if !strings.Contains(line, "level=info") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// Close ends it and removes its folder.
func (d *Daemon) Close() error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // ended already: nothing to do
	late := time.AfterFunc(5*time.Second, func() { _ = d.cmd.Process.Kill() })
	defer late.Stop()
	_ = d.cmd.Wait() // how it ended is of no interest
	return os.RemoveAll(d.dir)
}

// Serve serves a registry on the loopback and gives its host:port. front, where
// not nil, stands before it.
func Serve(front func(next http.Handler) http.Handler) (host string, stop func()) {
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if front != nil {
		h = front(h)
	}
	srv := httptest.NewServer(h)
	return strings.TrimPrefix(srv.URL, "http://"), func() { srv.CloseClientConnections(); srv.Close() }
}

// Push puts an image into a registry and gives its digest.
func Push(ctx context.Context, ref string, img v1.Image) (string, error) {
	r, err := name.ParseReference(ref)
	if err == nil {
		err = remote.Write(r, img, remote.WithContext(ctx))
	}
	if err != nil {
		return "", fmt.Errorf("push image: %w", err)
	}
	digest, err := img.Digest()
	if err != nil {
		return "", fmt.Errorf("push image: %w", err)
	}
	return digest.String(), nil
}
