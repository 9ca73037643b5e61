package edge

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// fakeEnv makes the test binary run as one of a session's processes. They speak
// edge/local as the real ones do, and do what the application's arguments say.
const fakeEnv = "PERIGEE_TEST_ROLE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(politeEnv); dir != "" {
		if err := polite(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	role := Role(os.Getenv(fakeEnv))
	if role == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	var err error
	switch role {
	case RoleShim:
		err = fakeShim(ctx, local.Session(os.Args[1]))
	case RoleStream:
		err = fakeStream(ctx, local.Session(os.Args[1]))
	case RoleRelay:
		if os.Getenv("FAKE_RELAY") == "dies" {
			os.Exit(1)
		}
		<-ctx.Done()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// fakes starts the test binary in each role.
func fakes(role Role, dir local.Session) *exec.Cmd {
	cmd := exec.Command(os.Args[0], string(dir))
	cmd.Env = append(os.Environ(), fakeEnv+"="+string(role))
	return cmd
}

// behaviour of the fakes: words of the application's command after the first.
func behaves(dir local.Session, word string) bool {
	spec, err := dir.ReadSpec()
	if err != nil {
		return false
	}
	for _, w := range spec.App.Command[1:] {
		if w == word {
			return true
		}
	}
	return false
}

func fakeShim(ctx context.Context, dir local.Session) error {
	if behaves(dir, "no-shim") {
		return fmt.Errorf("fake shim was told to fail")
	}
	st := local.InstanceState{PID: os.Getpid(), Observed: api.ObservedStarting, Display: ":99"}
	if behaves(dir, "ignore-term") {
		signal.Ignore(unix.SIGTERM)
	}
	h, err := newFakeHub(dir.ShimSocket())
	if err != nil {
		return err
	}
	publish := func() error {
		if err := dir.WriteInstance(st); err != nil {
			return err
		}
		state := st
		h.set(local.Message{Kind: local.KindState, Instance: &state})
		return nil
	}
	if err := publish(); err != nil {
		return err
	}
	if behaves(dir, "hang-start") {
		<-h.stops
		return nil
	}
	st.Observed = api.ObservedRunning
	if err := publish(); err != nil {
		return err
	}
	var exit <-chan time.Time
	for _, w := range []string{"exit-0", "exit-3", "shim-dies"} {
		if behaves(dir, w) {
			exit = time.After(50 * time.Millisecond)
		}
	}
	for {
		select {
		case <-exit:
			if behaves(dir, "shim-dies") {
				os.Exit(7)
			}
			st.Observed, st.Reason = api.ObservedStopped, api.ReasonAppExited
			if behaves(dir, "exit-3") {
				st.Observed, st.Reason, st.Message = api.ObservedFailed, api.ReasonAppCrashed, "exited with status 3"
			}
			return publish()
		case m := <-h.stops:
			if behaves(dir, "ignore-stop") {
				continue
			}
			st.Observed, st.Reason = api.ObservedStopped, m.Reason
			return publish()
		case m := <-h.admits:
			st.Screen = *m.Screen
			if err := publish(); err != nil {
				return err
			}
		case <-ctx.Done():
			if behaves(dir, "ignore-term") {
				continue
			}
			st.Observed = api.ObservedStopped
			return publish()
		}
	}
}

func fakeStream(ctx context.Context, dir local.Session) error {
	if behaves(dir, "slow-stream") {
		time.Sleep(300 * time.Millisecond)
	}
	h, err := newFakeHub(dir.StreamSocket())
	if err != nil {
		return err
	}
	h.echo = true
	st := local.StreamState{PID: os.Getpid(), Encoding: true, Drawn: !behaves(dir, "draws-nothing"), Codec: api.VP8, Pool: api.PoolCPU,
		Screen: api.Screen{Width: 1280, Height: 720, FPS: 60}}
	h.set(local.Message{Kind: local.KindState, Stream: &st})
	if behaves(dir, "stream-dies") {
		time.Sleep(50 * time.Millisecond)
		os.Exit(9)
	}
	if behaves(dir, "inactive") {
		rests := st
		rests.Inactive = true
		h.set(local.Message{Kind: local.KindState, Stream: &rests})
	}
	if behaves(dir, "stream-fails") {
		failed := st
		failed.Failed = "no encoder"
		h.set(local.Message{Kind: local.KindState, Stream: &failed})
	}
	for {
		select {
		case <-h.stops:
			return nil
		case m := <-h.admits:
			now := st
			now.Viewer, now.Connected = m.Viewer, true
			h.set(local.Message{Kind: local.KindState, Stream: &now})
		case <-ctx.Done():
			return nil
		}
	}
}

// fakeHub serves a local socket like shim and stream do.
type fakeHub struct {
	stops, admits chan local.Message
	echo          bool // answer signals

	mu    sync.Mutex
	state *local.Message
	conns map[*local.Conn]bool
}

func newFakeHub(path string) (*fakeHub, error) {
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	h := &fakeHub{stops: make(chan local.Message), admits: make(chan local.Message), conns: map[*local.Conn]bool{}}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go h.serve(c)
		}
	}()
	return h, nil
}

func (h *fakeHub) serve(raw net.Conn) {
	c, err := local.Handshake(raw)
	if err != nil {
		return
	}
	defer c.Close()
	h.mu.Lock()
	h.conns[c] = true
	if h.state != nil {
		_ = c.Send(*h.state)
	}
	h.mu.Unlock()
	for {
		m, err := c.Read()
		if err != nil {
			h.mu.Lock()
			delete(h.conns, c)
			h.mu.Unlock()
			return
		}
		switch m.Kind {
		case local.KindStop:
			h.stops <- m
		case local.KindAdmit, local.KindClaim:
			h.admits <- m
		case local.KindSignal:
			if h.echo {
				s := *m.Signal
				s.Data = []byte(strings.ToUpper(string(s.Data)))
				_ = c.Send(local.Message{Kind: local.KindSignal, Signal: &s})
			}
		}
	}
}

func (h *fakeHub) set(m local.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = &m
	for c := range h.conns {
		_ = c.Send(m)
	}
}
