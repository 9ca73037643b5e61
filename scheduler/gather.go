package scheduler

import (
	"context"
	"sync"

	"github.com/perigee-cloud/perigee/api"
)

// gather lets many callers share one question, asked after the last of them
// came: who comes while it is under way shares the next one.
type gather struct {
	owned sync.WaitGroup

	mu     sync.Mutex
	next   *question // not asked yet; nil when nobody waits
	asking bool
	closed bool
}

type question struct {
	done  chan struct{}
	index uint64
	err   error
}

// ask gives the answer of a question that begins after the call. What asks must
// end by itself.
func (g *gather) ask(ctx context.Context, how func() (uint64, error)) (uint64, error) {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return 0, api.Errorf(api.CodeUnavailable, "the scheduler is stopping")
	}
	if g.next == nil {
		g.next = &question{done: make(chan struct{})}
	}
	q := g.next
	if !g.asking {
		g.asking = true
		g.owned.Go(func() { g.run(how) })
	}
	g.mu.Unlock()
	select {
	case <-q.done:
		return q.index, q.err
	case <-ctx.Done():
		return 0, &api.Error{Code: api.CodeTimeout, Message: "the leader did not confirm in time", Err: ctx.Err()}
	}
}

func (g *gather) run(how func() (uint64, error)) {
	for {
		g.mu.Lock()
		q := g.next
		g.next = nil
		if q == nil {
			g.asking = false
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		q.index, q.err = how()
		close(q.done)
	}
}

// close waits for the question under way.
func (g *gather) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.owned.Wait()
}
