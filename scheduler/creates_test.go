package scheduler

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// TestCreatesTravelTogether asks a follower for many sessions at once, with some
// that must fail among them.
func TestCreatesTravelTogether(t *testing.T) { synctest.Test(t, testCreatesTravelTogether) }

func testCreatesTravelTogether(t *testing.T) {
	c := newCluster(t, 3)
	w := c.world(c.follower())
	w.app()
	w.edge("one", 1000)
	const n = 200
	var mu sync.Mutex
	ids := map[api.SessionID]bool{}
	refused := 0
	var callers sync.WaitGroup
	for i := range n {
		callers.Go(func() {
			a, err := w.create(func(r *api.CreateRequest) {
				if i%10 == 0 {
					r.App = "absent"
				}
			})
			if err == nil {
				if _, v, err := w.s.CheckTicket(w.ctx(), a.Ticket); err != nil || v.ID != a.Session.ID || len(a.ICEServers) != 2 {
					t.Errorf("the ticket of create %d: %v, with %d relays", i, err, len(a.ICEServers))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case i%10 == 0 && api.CodeOf(err) == api.CodeNotFound:
				refused++
			case i%10 == 0 || err != nil:
				t.Errorf("create %d: %v", i, err)
			default:
				ids[a.Session.ID] = true
			}
		})
	}
	callers.Wait()
	if len(ids) != n-n/10 || refused != n/10 {
		t.Errorf("%d sessions and %d refusals of %d", len(ids), refused, n)
	}
	w.s.forward.mu.Lock()
	defer w.s.forward.mu.Unlock()
	if w.s.forward.flying != 0 || len(w.s.forward.waiting) != 0 {
		t.Errorf("%d calls fly and %d creates wait when all have their answers", w.s.forward.flying, len(w.s.forward.waiting))
	}
}

// TestLeaderOfTheVersionBefore creates through a leader that knows one create at
// a time.
func TestLeaderOfTheVersionBefore(t *testing.T) { synctest.Test(t, testLeaderOfTheVersionBefore) }

func testLeaderOfTheVersionBefore(t *testing.T) {
	c := newCluster(t, 3)
	w := c.world(c.follower())
	w.app()
	w.edge("one", 10)
	to, ok := w.s.leader()
	if !ok {
		t.Fatal("nobody leads")
	}
	var none struct{}
	if _, err := w.s.call(w.ctx(), to, "of-a-later-version", none, &none); !errors.Is(err, errUnknownCall) || retryable(err) != never {
		t.Errorf("a call that the leader does not know: %v", err)
	}
	w.s.forward.mu.Lock()
	w.s.forward.single = to.leads
	w.s.forward.mu.Unlock()
	if a := w.mustCreate(); a.Ticket == "" {
		t.Error("the session has no ticket")
	}
	one := &forwarded{at: time.Now().Add(time.Second), done: make(chan arrival, 1)}
	w.s.forward.put(one)
	if a := <-one.done; api.CodeOf(a.err) != api.CodeInvalid {
		t.Errorf("a create of nothing: %v", a.err)
	}
}

// TestForwardingEnds stops a follower with creates on their way.
func TestForwardingEnds(t *testing.T) { synctest.Test(t, testForwardingEnds) }

func testForwardingEnds(t *testing.T) {
	c := newCluster(t, 3)
	at := c.follower()
	w := c.world(at)
	w.app()
	w.edge("one", 1000)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			for ctx.Err() == nil {
				if _, err := w.s.CreateSession(ctx, api.CreateRequest{App: "xterm", IdleMinutes: api.IdleUnset}); err != nil {
					if api.CodeOf(err) != api.CodeUnavailable {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	c.eventually("some are made", func() bool { return w.s.root().LiveCount() > 50 })
	if err := c.members[at].stop(); err != nil {
		t.Error(err)
	}
	callers.Wait()
	if ctx.Err() != nil {
		t.Error("a caller was left waiting")
	}
}
