package gateway

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/perigee-cloud/perigee/api"
)

func TestFaultsOfAFrame(t *testing.T) {
	r := newRig(t)
	a := r.create("xterm")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	c := dial(t, a.URL)
	put(t, c, `{"a":"`+strings.Repeat("x", api.MaxFrame-8)+`"}`)
	l := wait(t, "link", r.links)
	if got := len(wait(t, "largest frame", l.sent)); got != api.MaxFrame {
		t.Errorf("largest frame came with %d bytes", got)
	}
	put(t, c, strings.Repeat("x", api.MaxFrame+1))
	wantFault(t, c, "over 262144 bytes")
	wait(t, "close of the link", l.closed)

	c = dial(t, a.URL)
	if err := c.Write(ctx, websocket.MessageBinary, []byte{1}); err != nil {
		t.Fatal(err)
	}
	wantFault(t, c, "binary")
}

func TestSessionDiesWhileWaiting(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*api.Session)
		want   string
	}{
		"failed": {func(s *api.Session) {
			s.Observed, s.Reason, s.Message = api.ObservedFailed, api.ReasonAppCrashed, "exit status 3"
		}, "crashed: exit status 3"},
		"deleted":    {func(s *api.Session) { s.Desired, s.Reason = api.DesiredStop, api.ReasonDeleted }, "deleted"},
		"node lost":  {func(s *api.Session) { s.Observed, s.Reason = api.ObservedLost, api.ReasonNodeLost }, "not heard"},
		"elsewhere":  {func(s *api.Session) { s.Generation++ }, "elsewhere"},
		"terminated": {func(s *api.Session) { s.Observed = api.ObservedStopped }, "the session ended"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			a := r.create("xterm")
			sock := dial(t, a.URL)
			put(t, sock, `{"type":"settings"}`)
			l := wait(t, "link", r.links)
			r.set(a.ID, c.change)
			wantFault(t, sock, c.want)
			wait(t, "close of the link", l.closed)
			if name == "elsewhere" {
				return
			}
			// One that comes after is told the same, at once.
			wantFault(t, dial(t, a.URL), c.want)
		})
	}
	r := newRig(t)
	a := r.create("xterm")
	sock := dial(t, a.URL)
	wait(t, "link", r.links)
	r.mu.Lock()
	delete(r.sessions, a.ID)
	r.mu.Unlock()
	wantFault(t, sock, "does not exist")
}

func TestHoldEnds(t *testing.T) {
	r := newRig(t)
	r.srv.timing.hold = 30 * time.Millisecond
	a := r.create("xterm")
	wantFault(t, dial(t, a.URL), "did not answer in time")
	wait(t, "close of the link", wait(t, "link", r.links).closed)
}

// TestWaitForTheStream holds the real waits, in virtual time.
func TestWaitForTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		s, err := New(Config{Sessions: f, Catalog: f, Accounts: f, Nodes: f, Cluster: f, Signals: f, Locator: f, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		a, err := f.CreateSession(t.Context(), api.CreateRequest{App: "xterm"})
		if err != nil {
			t.Fatal(err)
		}
		watch := func() (*pump, <-chan ending) {
			p := &pump{s: s, session: a.Session, hold: s.timing.hold, answered: make(chan struct{})}
			end := make(chan ending, 1)
			go func() { end <- p.watch(t.Context()) }()
			return p, end
		}
		start := time.Now()
		_, end := watch()
		if e := <-end; !strings.Contains(e.message, "in time") || time.Since(start) != 5*time.Minute {
			t.Errorf("after %v: %q", time.Since(start), e.message)
		}

		p, end := watch()
		time.Sleep(4 * time.Minute)
		close(p.answered)
		time.Sleep(3 * time.Hour)
		select {
		case e := <-end:
			t.Fatalf("an answered websocket ended: %q", e.message)
		default:
		}
		f.set(a.Session.ID, func(s *api.Session) { s.Desired = api.DesiredStop })
		start = time.Now()
		if e := <-end; e.message != "the session ended" || time.Since(start) > s.timing.settled {
			t.Errorf("after %v: %q", time.Since(start), e.message)
		}

		f.set(a.Session.ID, func(s *api.Session) { s.Desired = api.DesiredRun })
		_, end = watch()
		time.Sleep(10 * time.Second)
		f.set(a.Session.ID, func(s *api.Session) { s.Observed = api.ObservedFailed })
		start = time.Now()
		if e := <-end; time.Since(start) > s.timing.watch {
			t.Errorf("a client that waits is told after %v: %q", time.Since(start), e.message)
		}
	})
}

func TestLinkThatFails(t *testing.T) {
	r := newRig(t)
	a := r.create("xterm")

	r.openErr = []error{api.Errorf(api.CodeUnavailable, "no bus"), api.Errorf(api.CodeUnavailable, "no bus")}
	c := dial(t, a.URL)
	put(t, c, `{"type":"settings"}`)
	l := wait(t, "link after two failures", r.links)
	if got := string(wait(t, "buffered frame", l.sent)); got != `{"type":"settings"}` {
		t.Errorf("got %s", got)
	}
	close(l.ended)
	wantFault(t, c, "the encoder is gone")
	wait(t, "close of the link", l.closed)

	r.openErr = []error{api.Errorf(api.CodeNotFound, "node node1 is gone")}
	wantFault(t, dial(t, a.URL), "node node1 is gone")

	r.openErr = []error{errors.New("nats: /secret")}
	wantFault(t, dial(t, a.URL), "the way to the stream broke")

	c = dial(t, a.URL)
	wait(t, "link", r.links).full = true
	put(t, c, `{"type":"settings"}`)
	wantFault(t, c, "takes no more frames")
}

func TestBufferIsBounded(t *testing.T) {
	r := newRig(t)
	a := r.create("xterm")
	for range 20000 { // the bus stays away
		r.openErr = append(r.openErr, api.Errorf(api.CodeUnavailable, "no bus"))
	}
	c := dial(t, a.URL)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	go func() {
		for range maxQueue + 2 {
			if c.Write(ctx, websocket.MessageText, []byte(`{"type":"candidate"}`)) != nil {
				return
			}
		}
	}()
	wantFault(t, c, "too many frames")
}
