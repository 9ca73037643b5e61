package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// Config of a node's images. Zero durations mean the defaults.
type Config struct {
	Socket string // containerd's
	// Credentials is a docker config.json with the registries' users ("auths"),
	// which only its owner may read; "" = none.
	Credentials string
	// Locks is a folder where instances note which images they use.
	Locks string
	// MaxMiB bounds what unpacked images take; those used least recently make
	// room. 0 = DefaultMaxMiB.
	MaxMiB int
	// SpareMiB of containerd's disk stay free: an image that would take them is
	// not fetched, as containerd cannot clean up on a full disk, and others live
	// there too. 0 = DefaultSpareMiB.
	SpareMiB int

	Dial  time.Duration // for containerd to answer; 2 s
	Stall time.Duration // without a byte of a registry; 30 s
	Limit time.Duration // of one image; FetchLimit
}

// Defaults and bounds.
const (
	// DefaultSocket is where Debian's containerd listens.
	DefaultSocket = "/run/containerd/containerd.sock"
	// FetchLimit bounds the fetching of one image.
	FetchLimit = 10 * time.Minute
	// DefaultMaxMiB is what unpacked images may take.
	DefaultMaxMiB = 20 << 10
	// DefaultSpareMiB stays free on containerd's disk.
	DefaultSpareMiB = 512

	defaultDial  = 2 * time.Second
	defaultStall = 30 * time.Second

	namespace   = "perigee" // of containerd's, ours alone
	snapshotter = "overlayfs"
)

// Store is a node's images. It is for many goroutines; several processes may
// each have one of the same containerd.
type Store struct {
	cfg    Config
	client *containerd.Client
	root   string // the snapshotter's folder, on the disk that must not fill; "" = not said
}

// Open connects to containerd and makes sure that it can do what is needed.
func Open(ctx context.Context, cfg Config) (_ *Store, err error) {
	cfg.Socket = cmp.Or(cfg.Socket, DefaultSocket)
	cfg.MaxMiB = cmp.Or(cfg.MaxMiB, DefaultMaxMiB)
	cfg.SpareMiB = cmp.Or(cfg.SpareMiB, DefaultSpareMiB)
	cfg.Dial, cfg.Stall, cfg.Limit = cmp.Or(cfg.Dial, defaultDial), cmp.Or(cfg.Stall, defaultStall), cmp.Or(cfg.Limit, FetchLimit)
	if _, err := os.Stat(cfg.Socket); err != nil { // dialling would wait for it
		return nil, fmt.Errorf("open images: no containerd: %w", err)
	}
	if _, err := credentials(cfg.Credentials); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Locks, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of image locks: %w", err)
	}
	client, err := containerd.New(cfg.Socket, containerd.WithDefaultNamespace(namespace), containerd.WithTimeout(cfg.Dial))
	if err != nil {
		return nil, fmt.Errorf("reach containerd: %w", err)
	}
	s := &Store{cfg: cfg, client: client}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	ctx, cancel := context.WithTimeout(s.quiet(ctx), cfg.Dial)
	defer cancel()
	r, err := client.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1,id=="+snapshotter)
	if err != nil {
		return nil, fmt.Errorf("ask containerd for its snapshotters: %w", err)
	}
	if len(r.Plugins) == 0 || r.Plugins[0].InitErr != nil {
		return nil, errors.New("containerd on this node has no working overlayfs snapshotter: its root must lie on a file system that overlays work on")
	}
	s.root = r.Plugins[0].Exports["root"]
	return s, nil
}

// Close ends the connection. Images that were taken stay taken.
func (s *Store) Close() error {
	if err := s.client.Close(); err != nil {
		return fmt.Errorf("close images: %w", err)
	}
	return nil
}

// quiet is a context for containerd's client, which logs to stderr by itself:
// what it has to say is in its errors.
func (s *Store) quiet(ctx context.Context) context.Context {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return log.WithLogger(namespaces.WithNamespace(ctx, namespace), logrus.NewEntry(l))
}

// resolver speaks to registries: https, and http on the loopback alone.
func (s *Store) resolver() (remotes.Resolver, *patient, error) {
	creds, err := credentials(s.cfg.Credentials)
	if err != nil {
		return nil, nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: min(s.cfg.Stall, 10*time.Second)}).DialContext
	t.TLSHandshakeTimeout = min(s.cfg.Stall, 10*time.Second)
	t.ResponseHeaderTimeout = s.cfg.Stall
	p := &patient{next: t, stall: s.cfg.Stall}
	client := &http.Client{Transport: p}
	return docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(
		docker.WithClient(client),
		docker.WithPlainHTTP(docker.MatchLocalhost),
		docker.WithAuthorizer(docker.NewDockerAuthorizer(docker.WithAuthClient(client), docker.WithAuthCreds(creds))),
	)}), p, nil
}

// errStalled says that a registry sent nothing for too long.
var errStalled = errors.New("the registry sends nothing")

// patient ends answers whose body stalls: a registry that hangs must not hold
// an instance for as long as a large image may take.
type patient struct {
	next  http.RoundTripper
	stall time.Duration
	met   atomic.Bool // a stall, which the resolver may hide behind another answer
}

func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	resp, err := p.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel(nil)
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() && r.Context().Err() == nil {
			p.met.Store(true)
			err = fmt.Errorf("%w: %w", errStalled, err)
		}
		return nil, err
	}
	b := &body{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, stall: p.stall}
	b.timer = time.AfterFunc(p.stall, func() { cancel(errStalled) })
	resp.Body = b
	return resp, nil
}

// body is an answer's body that ends when nothing comes.
type body struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
}

func (b *body) Read(p []byte) (int, error) {
	b.timer.Reset(b.stall)
	n, err := b.ReadCloser.Read(p)
	if err != nil && errors.Is(context.Cause(b.ctx), errStalled) {
		err = fmt.Errorf("%w for %s", errStalled, b.stall)
	}
	return n, err
}

func (b *body) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.ReadCloser.Close()
}

// contains says whether an error's text holds one of the parts: across
// containerd's socket only the text survives.
func contains(err error, parts ...string) bool {
	for _, p := range parts {
		if strings.Contains(err.Error(), p) {
			return true
		}
	}
	return false
}
