package bus

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// world is one server with a scheduler's connection.
type world struct {
	t         *testing.T
	server    *Server
	scheduler *Conn

	mu      sync.Mutex
	refused map[api.NodeID]bool
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, refused: map[api.NodeID]bool{}}
	w.server = startServer(t, ServerConfig{Listen: "127.0.0.1:0", Known: w.known})
	w.scheduler = dial(t, w.server.InProcess())
	return w
}

func (w *world) known(public []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.refused[api.NodeIDFromKey(public)]
}

func (w *world) refuse(id api.NodeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused[id] = true
}

func (w *world) node(seed byte) *Conn {
	w.t.Helper()
	return dial(w.t, Config{URLs: []string{w.server.URL()}, Seed: seedOf(seed)})
}

func seedOf(b byte) []byte {
	s := make([]byte, ed25519.SeedSize)
	s[0] = b
	return s
}

func startServer(t *testing.T, c ServerConfig) *Server {
	t.Helper()
	s, _ := startStoppable(t, c)
	return s
}

// startStoppable runs a server until stop, or the end of the test.
func startStoppable(t *testing.T, c ServerConfig) (*Server, func()) {
	t.Helper()
	c.Log = slog.New(slog.DiscardHandler)
	s, err := NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- s.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-result; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	t.Cleanup(stop)
	wait, cancelWait := context.WithTimeout(t.Context(), deadline)
	defer cancelWait()
	if err := s.Ready(wait); err != nil {
		t.Fatal(err)
	}
	return s, stop
}

func dial(t *testing.T, c Config) *Conn {
	t.Helper()
	c.Log = slog.New(slog.DiscardHandler)
	b, err := Dial(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if err := b.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	return b
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in %s: %s", deadline, what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// reach sends commands until the node's subscription is known to the server.
func reach(t *testing.T, from *Conn, node api.NodeID) {
	t.Helper()
	eventually(t, "node takes commands", func() bool {
		_, err := from.Command(t.Context(), node, api.Command{Verb: api.VerbDrain})
		return err == nil
	})
}
