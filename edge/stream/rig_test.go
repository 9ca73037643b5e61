package stream

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// rig is a stream process within the test, with a daemon.
type rig struct {
	t      *testing.T
	dir    local.Session
	daemon *local.Conn
	ended  chan error

	mu     sync.Mutex
	state  local.StreamState
	states int
	links  map[string]chan api.Signal
}

type option func(*Config, *api.Spec)

func role(name string) option {
	return func(c *Config, _ *api.Spec) { c.Encode = encodeAs(name) }
}

func encodeAs(name string) func() *exec.Cmd {
	return func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleEnv+"="+name)
		return cmd
	}
}

// start runs a stream with an instance that is up.
func start(t *testing.T, options ...option) *rig {
	t.Helper()
	dir := local.Run(t.TempDir()).Session(sessionID, 1)
	if err := os.MkdirAll(dir.Shared(), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Dir: dir, Encode: encodeAs("yes"), Log: slog.New(slog.DiscardHandler)}
	if os.Getenv("PERIGEE_TEST_LOG") != "" {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	spec := api.Spec{Screen: api.Screen{Width: 640, Height: 360, FPS: 60}, Codecs: []api.Codec{api.VP8}, Pool: api.PoolCPU}
	for _, o := range options {
		o(&cfg, &spec)
	}
	if err := dir.WriteSpec(spec); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, ended: make(chan error, 1), links: map[string]chan api.Signal{}}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { r.ended <- Run(ctx, cfg); close(r.ended) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-r.ended:
		case <-time.After(patience):
			t.Error("the stream does not end")
		}
	})
	r.instance(local.InstanceState{Observed: api.ObservedRunning, Display: ":99999", Pulse: "unix:/nowhere"})
	r.connect()
	return r
}

func (r *rig) instance(st local.InstanceState) {
	r.t.Helper()
	if err := r.dir.WriteInstance(st); err != nil {
		r.t.Fatal(err)
	}
}

// connect is a daemon that dials the stream.
func (r *rig) connect() {
	r.t.Helper()
	r.wait("the stream's socket", func() bool {
		c, err := local.Dial(r.t.Context(), r.dir.StreamSocket())
		r.daemon = c
		return err == nil
	})
	d := r.daemon
	r.t.Cleanup(func() { _ = d.Close() })
	go func() {
		for {
			m, err := d.Read()
			if err != nil {
				return
			}
			r.mu.Lock()
			switch {
			case m.Stream != nil:
				r.state = *m.Stream
				r.states++
			case m.Signal != nil:
				if c := r.links[m.Signal.Viewer]; c != nil {
					select {
					case c <- *m.Signal:
					default:
					}
				}
			}
			r.mu.Unlock()
		}
	}()
}

func (r *rig) last() local.StreamState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

func (r *rig) wait(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("no %s within %s (state %+v)", what, patience, r.last())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (r *rig) waitEnd() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(patience):
		r.t.Fatal("the stream does not end")
		return nil
	}
}
