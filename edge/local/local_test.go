package local

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestSessionFolder(t *testing.T) {
	run := Run(t.TempDir())
	s := run.Session("abc", 3)
	if err := os.MkdirAll(string(s), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadInstance(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	want := InstanceState{PID: 7, Observed: api.ObservedRunning, Display: ":9"}
	if err := s.WriteInstance(want); err != nil {
		t.Fatal(err)
	}
	if got, err := s.ReadInstance(); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := os.Mkdir(filepath.Join(string(run), "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	list, err := run.Sessions()
	if err != nil || len(list) != 1 || list[0] != s {
		t.Fatalf("sessions %v, %v", list, err)
	}
	id, gen, err := list[0].ID()
	if err != nil || id != "abc" || gen != 3 {
		t.Errorf("id %s.%d, %v", id, gen, err)
	}
	left, err := os.ReadDir(string(s))
	if err != nil || len(left) != 1 {
		t.Errorf("a write left %v behind, %v", left, err)
	}
}

func TestWriteIsWholeOrNothing(t *testing.T) {
	s := Run(t.TempDir()).Session("gone", 1)
	if err := s.WriteMedia(MediaState{PID: 1}); err == nil {
		t.Error("wrote into a folder that is not there")
	}
	if list, err := Run(filepath.Join(t.TempDir(), "none")).Sessions(); err != nil || list != nil {
		t.Errorf("no run directory: %v, %v", list, err)
	}
}

func TestAddresses(t *testing.T) {
	run := Run(filepath.Join(t.TempDir(), "run"))
	if got := run.Addresses(); got != nil {
		t.Errorf("before the daemon knows any: %v", got)
	}
	want := []string{"198.51.100.7", "2001:db8::7"}
	if err := run.SetAddresses(want); err != nil {
		t.Fatal(err)
	}
	if got := run.Session("abc", 3).Run().Addresses(); !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
	if list, err := run.Sessions(); err != nil || len(list) != 0 {
		t.Errorf("sessions %v, %v", list, err)
	}
}

func pair(t *testing.T) (*Conn, *Conn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	server := make(chan *Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		l, err := Handshake(c)
		if err == nil {
			server <- l
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	client, err := Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	select {
	case l := <-server:
		t.Cleanup(func() { _ = l.Close() })
		return client, l
	case <-ctx.Done():
		t.Fatal("no handshake")
		return nil, nil
	}
}

func TestConn(t *testing.T) {
	a, b := pair(t)
	sig := api.Signal{Session: "s", Kind: api.SignalFrame, Seq: 1, Data: []byte("x")}
	if err := a.Send(Message{Kind: KindSignal, Signal: &sig}); err != nil {
		t.Fatal(err)
	}
	m, err := b.Read()
	if err != nil || m.Signal == nil || string(m.Signal.Data) != "x" {
		t.Fatalf("got %+v, %v", m, err)
	}
	if err := a.Send(Message{Kind: KindSignal, Signal: &api.Signal{Data: make([]byte, maxLocal)}}); err == nil {
		t.Error("an oversized message was sent")
	}
	_ = a.Close()
	if _, err := b.Read(); err == nil {
		t.Error("read from a closed connection")
	}
}

func TestHandshakeRefuses(t *testing.T) {
	for name, hello := range map[string]string{
		"not json": "nonsense", "another kind": `{"kind":"state"}`, "no version": `{"kind":"hello"}`,
	} {
		a, b := net.Pipe()
		go func() {
			var buf [4]byte
			_, _ = b.Write(append(binary.BigEndian.AppendUint32(buf[:0], uint32(len(hello))), hello...))
		}()
		go func() { _, _ = b.Read(make([]byte, 1024)) }()
		if _, err := Handshake(a); err == nil {
			t.Errorf("%s: accepted", name)
		}
		_ = b.Close()
	}
}

func TestHubTellsTheStateFirstAndEveryChangeAfter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h.sock")
	state := func(pid int) Message { return Message{Kind: KindState, Instance: &InstanceState{PID: pid}} }
	asked := make(chan Message, 1)
	h, err := NewHub(path, state(1), func(m Message) { asked <- m })
	if err != nil {
		t.Fatal(err)
	}
	if h.Lonely() == 0 {
		t.Error("somebody is connected to a new hub")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	dial := func() *Conn {
		t.Helper()
		c, err := Dial(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	pid := func(c *Conn) int {
		t.Helper()
		m, err := c.Read()
		if err != nil || m.Instance == nil {
			t.Fatalf("read %+v, %v", m, err)
		}
		return m.Instance.PID
	}
	a := dial()
	if got := pid(a); got != 1 {
		t.Errorf("first told %d, want 1", got)
	}
	h.Tell(state(2))
	if got := pid(a); got != 2 {
		t.Errorf("then told %d, want 2", got)
	}
	b := dial()
	if got := pid(b); got != 2 {
		t.Errorf("a later daemon is told %d, want 2", got)
	}
	if h.Lonely() != 0 {
		t.Error("nobody is connected to a hub of two")
	}
	if err := b.Send(Message{Kind: KindStop, Force: true}); err != nil {
		t.Fatal(err)
	}
	if m := <-asked; m.Kind != KindStop || !m.Force {
		t.Errorf("heard %+v", m)
	}
	h.Tell(state(3))
	h.Close(time.Second)
	if got := pid(a); got != 3 {
		t.Errorf("the last state was %d, want 3: it is written before the end", got)
	}
	if _, err := a.Read(); err == nil {
		t.Error("the connection goes on after the end")
	}
	if _, err := Dial(ctx, path); err == nil {
		t.Error("a closed hub takes connections")
	}
}

// A new daemon never misses a change that comes while it connects.
func TestHubLosesNoChangeToWhoConnects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h.sock")
	h, err := NewHub(path, Message{Kind: KindState, Instance: &InstanceState{}}, func(Message) {})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close(time.Second)
	const last = 200
	go func() {
		for i := range last + 1 {
			h.Tell(Message{Kind: KindState, Instance: &InstanceState{PID: i}})
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 5 {
		c, err := Dial(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		for pid, before := -1, -1; pid < last; before = pid {
			m, err := c.Read()
			if err != nil {
				t.Fatal(err)
			}
			if pid = m.Instance.PID; pid < before {
				t.Fatalf("told %d after %d", pid, before)
			}
		}
		_ = c.Close()
	}
}
