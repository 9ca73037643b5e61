package edge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

const (
	dialFirst = 3 * time.Millisecond // first pause between two tries to connect
	dialMost  = 250 * time.Millisecond
)

// link is the daemon's way to one process of a session: it connects, again and
// again while the process lives, hands on its states and carries messages.
type link struct {
	dial   func(ctx context.Context, socket string) (*local.Conn, error)
	path   string
	states chan local.Message // the latest state waits: one place, replaced
	out    chan local.Message // signals waiting
	halted <-chan struct{}
	up     func(api.Signal) // the process's signals; nil = it has none

	mu   sync.Mutex // guards the fields below
	conn *local.Conn
	kept []local.Message // told at once and after each reconnection: one of a kind
}

func newLink(dial func(context.Context, string) (*local.Conn, error), path string, halted <-chan struct{}, up func(api.Signal)) *link {
	return &link{
		dial: dial, path: path, halted: halted, up: up,
		states: make(chan local.Message, 1), out: make(chan local.Message, maxSignals),
	}
}

// send queues a message; a full queue drops it.
func (l *link) send(m local.Message) {
	select {
	case l.out <- m:
	default:
	}
}

// keep sends a message that the process must know even if it connects later; a
// newer one of its kind takes its place.
func (l *link) keep(m local.Message) {
	l.mu.Lock()
	kept := slices.DeleteFunc(slices.Clone(l.kept), func(k local.Message) bool { return k.Kind == m.Kind })
	l.kept = append(kept, m)
	l.mu.Unlock()
	l.now(m)
}

// now sends at once; false when the process is not connected.
func (l *link) now(m local.Message) bool {
	l.mu.Lock()
	c := l.conn
	l.mu.Unlock()
	if c == nil {
		return false
	}
	if c.Send(m) != nil {
		_ = c.Close() // its reader connects again
		return false
	}
	return true
}

// run connects and serves until the unit halts.
func (l *link) run() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-l.halted:
		case <-stop:
		}
		cancel()
	}()
	pause := dialFirst
	for ctx.Err() == nil {
		c, err := l.dial(ctx, l.path)
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, dialMost)
			continue
		}
		pause = dialFirst
		l.serve(ctx, c)
	}
}

// serve carries messages both ways until the connection or ctx ends.
func (l *link) serve(ctx context.Context, c *local.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	l.mu.Lock()
	l.conn = c
	kept := l.kept
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.conn = nil
		l.mu.Unlock()
		_ = c.Close() // all is said
	}()
	for _, m := range kept {
		if c.Send(m) != nil {
			return
		}
	}
	wg.Go(func() {
		defer func() { _ = c.Close() }() // wakes the reader below
		for {
			select {
			case <-ctx.Done():
				return
			case m := <-l.out:
				if c.Send(m) != nil {
					return
				}
			}
		}
	})
	for {
		m, err := c.Read()
		if err != nil {
			return
		}
		switch {
		case m.Kind == local.KindState:
			l.state(m)
		case m.Kind == local.KindSignal && m.Signal != nil && l.up != nil:
			l.up(*m.Signal)
		}
	}
}

// state puts a state in place of one that nobody has taken yet.
func (l *link) state(m local.Message) {
	for {
		select {
		case l.states <- m:
			return
		default:
		}
		select {
		case <-l.states:
		default:
		}
	}
}

// clip cuts a message to what a report may hold, as valid text.
func clip(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), api.MaxMessage)], "")
}

func removeFolder(dir local.Session) error {
	// What died this moment may still be writing a file of it.
	var err error
	for range 5 {
		if err = os.RemoveAll(string(dir)); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("remove session folder: %w", errors.Unwrap(err))
}
