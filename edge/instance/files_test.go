package instance

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// TestPushEndsWithTheInstance: a sender that has stopped in the middle holds up
// no end, and leaves no part of its file.
func TestPushEndsWithTheInstance(t *testing.T) {
	left := make(chan struct{})
	home := t.TempDir()
	box := boxConfig{stage: &stage{uid: -1, l: &launcher{}}}
	app := &application{child: &child{ended: make(chan struct{})}}
	app.init.Store(int64(os.Getpid()))
	opened := api.Signal{Session: "abc", Generation: 1, Viewer: "v", Role: api.RoleEnter}
	v := &visit{
		tell: func(api.Signal) {}, log: slog.New(slog.DiscardHandler), room: &room{box: box, app: app, left: left}, link: api.NewLink(opened),
		in: make(chan api.Signal, 1), out: make(chan []byte, 4), done: make(chan struct{}), input: newFeed(), control: make(chan api.EnterControl),
	}
	last := make(chan api.EnterControl, 1)
	go func() {
		last <- v.push(api.EnterRequest{Op: api.EnterPush, Path: filepath.Join(home, "f"), Mode: 0o644, Size: 100})
	}()
	if c, ok := api.ParseEnterControl(<-v.out); !ok || c.Type != api.EnterStarted {
		t.Fatalf("it begins with %+v", c)
	}
	v.input.put([]byte("half"))
	ran := make(chan struct{})
	go func() { defer close(ran); v.run() }()
	close(app.ended)
	close(left)
	select {
	case c := <-last:
		if c.Code != api.CodeConflict || c.Message != "the application has ended" {
			t.Errorf("ended %+v", c)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("it goes on")
	}
	if names, err := os.ReadDir(home); err != nil || len(names) > 0 {
		t.Errorf("left are %v, %v", names, err)
	}
	opened.Kind = api.SignalClose
	v.in <- opened
	<-ran
}

func TestGroupSaysWhatIsFree(t *testing.T) {
	for _, c := range []struct {
		v2           bool
		bound, usage string
		want         int64
		ok           bool
	}{
		{true, "1000\n", "700\n", 430, true}, {true, "max\n", "700\n", 0, false}, {true, "100\n", "700\n", 0, true},
		{false, "1000\n", "700\n", 430, true}, {false, "1000\n", "", 0, false},
	} {
		dir := t.TempDir()
		g, bound, usage := &group{v2: c.v2, dirs: []string{dir}}, "memory.max", "memory.current"
		if !c.v2 {
			g.dirs, bound, usage = []string{"", dir, ""}, "memory.limit_in_bytes", "memory.usage_in_bytes"
		}
		for name, text := range map[string]string{bound: c.bound, usage: c.usage, "memory.stat": "anon 5\ninactive_file 100\nactive_file 30\nshmem 9\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if n, ok := g.free(); n != c.want || ok != c.ok {
			t.Errorf("%+v: %d, %v", c, n, ok)
		}
	}
}

// TestPushIsBoundByMemory: what is pushed into memory is no process's of the
// application, and still fits into the application's bound.
func TestPushIsBoundByMemory(t *testing.T) {
	needRoot(t)
	app := sh("head -c 28M /dev/zero >/dev/shm/a; head -c 26M /dev/zero >/tmp/b; echo ready > ready; sleep 98765")
	app.Resources = api.Resources{MemoryMiB: 64}
	s := startShim(t, app, api.Screen{})
	s.wait(api.ObservedRunning)
	s.enter(exe("until [ -e ready ]; do sleep 0.02; done")).wait()
	if _, err := os.Stat(s.dir.Path(fileCgroups)); err != nil {
		t.Skip("no control groups can be made here")
	}
	last := s.enter(api.EnterRequest{Op: api.EnterPush, Path: "f", Size: 20 << 20}).wait()
	if last.Code != api.CodeTooLarge || !strings.Contains(last.Message, "resources.memory_mib") {
		t.Errorf("more than is free: %+v", last)
	}
	v := s.enter(api.EnterRequest{Op: api.EnterPush, Path: "f", Size: 4})
	v.input("fits")
	v.control(api.EnterControl{Type: api.EnterEnd})
	if last := v.wait(); last.Code != "" || last.Size != 4 {
		t.Errorf("what fits: %+v", last)
	}
	x := s.enter(exe("ls -A"))
	if x.wait(); x.out[1].String() != "f\nready\n" {
		t.Errorf("the home has %q", x.out[1].String())
	}
}
