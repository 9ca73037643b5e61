package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// stream plays the stream process's end of every link of one edge, behind a way
// that loses signals; it answers each frame with the same in capitals.
type stream struct {
	edge *Conn
	loss float64

	mu    sync.Mutex
	rnd   *rand.Rand
	links map[string]*api.Link
	got   map[string][]string
	ended map[string]bool
}

func newStream(t *testing.T, edge *Conn, loss float64) *stream {
	t.Helper()
	s := &stream{
		edge: edge, loss: loss, rnd: rand.New(rand.NewPCG(1, 2)),
		links: map[string]*api.Link{}, got: map[string][]string{}, ended: map[string]bool{},
	}
	must(t, edge.OnSignal(s.take))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				s.mu.Lock()
				s.sendDue()
				s.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func (s *stream) take(in api.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rnd.Float64() < s.loss {
		return
	}
	l := s.links[in.Viewer]
	if l == nil {
		if in.Kind != api.SignalOpen {
			return
		}
		l = api.NewLink(in)
		s.links[in.Viewer] = l
	}
	for _, f := range l.Receive(in) {
		s.got[in.Viewer] = append(s.got[in.Viewer], string(f))
		_ = l.Send([]byte(strings.ToUpper(string(f)))) // full or closed: the test sees it missing
	}
	if _, closed := l.Closed(); closed {
		s.ended[in.Viewer] = true
	}
	s.sendDue()
}

func (s *stream) sendDue() {
	for _, l := range s.links {
		for _, out := range l.Due(time.Now()) {
			if s.rnd.Float64() >= s.loss {
				_ = s.edge.SendSignal(out) // sent again when lost
			}
		}
	}
}

func (s *stream) closeAll(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.links {
		l.Close(reason)
	}
	s.sendDue()
}

func session(node api.NodeID) api.Session {
	return api.Session{ID: "session1", Generation: 2, Node: node}
}

func TestSignalsSurviveLoss(t *testing.T) {
	for _, loss := range []float64{0, 0.3} {
		t.Run(fmt.Sprint(loss), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			edge := w.node(1)
			s := newStream(t, edge, loss)
			l, err := w.scheduler.OpenSignal(t.Context(), session(edge.Node()), api.Ticket{Viewer: 7, Role: api.RoleControl})
			must(t, err)
			const frames = 40
			for i := range frames {
				must(t, l.Send([]byte("frame "+strconv.Itoa(i))))
			}
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			for i := range frames {
				f, err := l.Receive(ctx)
				if want := "FRAME " + strconv.Itoa(i); err != nil || string(f) != want {
					t.Fatalf("got %q, %v; want %q", f, err, want)
				}
			}
			must(t, l.Close())
			must(t, l.Close())
			eventually(t, "stream hears of the close", func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				return len(s.ended) == 1
			})
			if _, err := l.Receive(ctx); !errors.Is(err, api.ErrLinkDone) {
				t.Errorf("receive after close: %v", err)
			}
			if err := l.Send([]byte("x")); !errors.Is(err, api.ErrLinkDone) {
				t.Errorf("send after close: %v", err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			for v := range s.got {
				if !strings.HasPrefix(v, "7-") || len(v) != 10 {
					t.Errorf("viewer %q", v)
				}
			}
		})
	}
}

func TestStreamClosesSignals(t *testing.T) {
	w := newWorld(t)
	edge := w.node(1)
	s := newStream(t, edge, 0.2)
	l, err := w.scheduler.OpenSignal(t.Context(), session(edge.Node()), api.Ticket{Viewer: 1})
	must(t, err)
	must(t, l.Send([]byte("a")))
	eventually(t, "frame arrives", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.got) == 1
	})
	s.closeAll("another viewer took over")
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if f, err := l.Receive(ctx); err != nil || string(f) != "A" {
		t.Fatalf("what was sent before the close is lost: %q, %v", f, err)
	}
	for range 2 {
		if _, err := l.Receive(ctx); !errors.Is(err, api.ErrSignalClosed) || !strings.Contains(err.Error(), "another viewer took over") {
			t.Errorf("got %v", err)
		}
	}
	if err := l.Send(nil); !errors.Is(err, api.ErrSignalClosed) {
		t.Errorf("send: %v", err)
	}
}

func TestGatewayStopTellsTheStream(t *testing.T) {
	w := newWorld(t)
	edge := w.node(1)
	s := newStream(t, edge, 0)
	l, err := w.scheduler.OpenSignal(t.Context(), session(edge.Node()), api.Ticket{Viewer: 1})
	must(t, err)
	eventually(t, "open arrives", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.links) == 1
	})
	w.scheduler.Close()
	eventually(t, "stream hears of the end", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.ended) == 1
	})
	if _, err := l.Receive(t.Context()); err == nil {
		t.Error("receives from a closed connection")
	}
	if _, err := w.scheduler.OpenSignal(t.Context(), session(edge.Node()), api.Ticket{}); err == nil {
		t.Error("opens on a closed connection")
	}
}

func TestSignalLinkBounds(t *testing.T) {
	w := newWorld(t)
	edge := w.node(1) // nobody takes signals there
	l, err := w.scheduler.OpenSignal(t.Context(), session(edge.Node()), api.Ticket{Viewer: 1})
	must(t, err)
	if err := l.Send(make([]byte, api.MaxFrame+1)); api.CodeOf(err) != api.CodeTooLarge {
		t.Errorf("too large a frame: %v", err)
	}
	for n := 0; ; n++ {
		if err := l.Send([]byte("x")); err != nil {
			if !errors.Is(err, api.ErrLinkFull) || n != api.LinkFrames-1 {
				t.Errorf("after %d frames: %v", n, err)
			}
			break
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := l.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("receive: %v", err)
	}
	var leave time.Time
	l.transmit(time.Now(), &leave)
	if wait, over := l.transmit(time.Now().Add(api.LinkTimeout), &leave); over || wait > lingerFor {
		t.Errorf("after silence: wait %s, over %v", wait, over)
	}
	if _, err := l.Receive(t.Context()); api.CodeOf(err) != api.CodeTimeout {
		t.Errorf("after silence: %v", err)
	}
	if _, over := l.transmit(time.Now().Add(api.LinkTimeout+lingerFor), &leave); !over {
		t.Error("a dead link is kept for ever")
	}
}

func TestSlowReaderLosesNothing(t *testing.T) {
	w := newWorld(t)
	edge := w.node(1)
	s := newStream(t, edge, 0)
	l, err := w.scheduler.OpenSignal(t.Context(), session(edge.Node()), api.Ticket{Viewer: 1})
	must(t, err)
	var up *api.Link
	eventually(t, "open arrives", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, up = range s.links {
		}
		return up != nil
	})
	const frames = 5 * api.LinkFrames
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := 0; i < frames && t.Context().Err() == nil; {
			s.mu.Lock()
			if up.Send([]byte(strconv.Itoa(i))) == nil {
				i++
			}
			s.mu.Unlock()
		}
	}()
	eventually(t, "the reader's queue is full", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.frames) > 2*api.LinkFrames {
			t.Fatalf("%d frames queued", len(l.frames))
		}
		return len(l.frames) >= api.LinkFrames
	})
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	for i := range frames {
		if f, err := l.Receive(ctx); err != nil || string(f) != strconv.Itoa(i) {
			t.Fatalf("frame %d: %q, %v", i, f, err)
		}
	}
	<-sent
}

func TestOpenSignalRefuses(t *testing.T) {
	w := newWorld(t)
	if _, err := w.scheduler.OpenSignal(t.Context(), api.Session{ID: "s"}, api.Ticket{}); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("session without a node: %v", err)
	}
	if _, err := w.scheduler.OpenSignal(t.Context(), api.Session{ID: "s.>", Node: "n"}, api.Ticket{}); err == nil {
		t.Error("a wildcard got into a subject")
	}
	edge := w.node(1)
	for name, s := range map[string]api.Signal{
		"wildcard session": {Session: "*", Viewer: "v"},
		"dotted viewer":    {Session: "s", Viewer: "a.b"},
		"too large":        {Session: "s", Viewer: "v", Data: make([]byte, api.MaxFrame+1)},
	} {
		if err := edge.SendSignal(s); err == nil {
			t.Errorf("%s: sent", name)
		}
	}
	if err := w.scheduler.SendSignal(api.Signal{}); !errors.Is(err, errNotNode) {
		t.Errorf("a scheduler sends as a node: %v", err)
	}
}

func TestLanesKeepOrderAndGoOn(t *testing.T) {
	l := newLanes(4)
	defer l.close()
	block, blocked := make(chan struct{}), make(chan struct{})
	if !l.add("slow", func() { close(blocked); <-block }) {
		t.Fatal("not taken")
	}
	<-blocked
	var mu sync.Mutex
	ran := map[string][]int{}
	keys := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"}
	for i := range 5 {
		for _, k := range keys {
			if !l.add(k, func() {
				mu.Lock()
				defer mu.Unlock()
				ran[k] = append(ran[k], i)
			}) {
				t.Fatal("not taken")
			}
		}
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		n := 0
		for _, r := range ran {
			n += len(r)
		}
		return n
	}
	eventually(t, "others run beside a slow one", func() bool { return count() >= 5 })
	full := false
	for range laneDepth + 1 {
		full = full || !l.add("slow", func() {})
	}
	if !full {
		t.Error("a lane has no bound")
	}
	close(block)
	eventually(t, "all run", func() bool { return count() == 5*len(keys) })
	for k, r := range ran {
		for i, v := range r {
			if i != v {
				t.Errorf("%s ran in order %v", k, r)
			}
		}
	}
}
