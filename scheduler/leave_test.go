package scheduler

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestLeaderLeavesUnderLoad(t *testing.T) { synctest.Test(t, testLeaderLeavesUnderLoad) }

// A leader that is asked to remove itself says so when it is removed, although
// the cluster goes on and it hears nothing of that any more.
func testLeaderLeavesUnderLoad(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader()
	w := c.world(c.follower())
	w.app()
	w.edge("one", 1000)
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for ctx.Err() == nil {
				_, _ = w.s.CreateSession(ctx, api.CreateRequest{App: "xterm", IdleMinutes: api.IdleUnset}) // load alone
			}
		})
	}
	c.eventually("some are made", func() bool { return w.s.root().LiveCount() > 20 })
	leaving := c.members[lead].s
	asked, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	if err := leaving.RemoveReplica(asked, leaving.ID()); err != nil {
		t.Errorf("the leader that removes itself: %v", err)
	}
	cancel()
	callers.Wait()
}
