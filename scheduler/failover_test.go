package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// load creates sessions through the members that are up, by several callers,
// and remembers what was acknowledged.
type load struct {
	mu    sync.Mutex
	up    []*Server
	acked map[api.SessionID]string // and the tag it was asked for with
	times []time.Time              // of the acknowledgements
	tried int
}

func (l *load) use(up []*Server) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up = up
}

func (l *load) run(ctx context.Context, caller int) {
	for n := 0; ctx.Err() == nil; n++ {
		tag := fmt.Sprintf("%d-%d", caller, n)
		l.mu.Lock()
		s := l.up[n%len(l.up)]
		l.tried++
		l.mu.Unlock()
		a, err := s.CreateSession(ctx, api.CreateRequest{
			App: "xterm", IdleMinutes: api.IdleUnset, ExtraData: json.RawMessage(`"` + tag + `"`),
			Grant: api.Grant{Account: "alice", Rights: []api.Right{api.RightSessions}},
		})
		if err != nil {
			continue
		}
		l.mu.Lock()
		l.acked[a.Session.ID] = tag
		l.times = append(l.times, time.Now())
		l.mu.Unlock()
		time.Sleep(2 * time.Millisecond)
	}
}

// after gives when the first create was acknowledged that was so after a time.
func (l *load) after(at time.Time) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.times) - 1; i >= 0; i-- {
		if l.times[i].Before(at) {
			if i+1 < len(l.times) {
				return l.times[i+1], true
			}
			return time.Time{}, false
		}
	}
	return time.Time{}, false
}

// failovers kills the leader n times under load and gives how long each left
// the callers without an acknowledgement.
func failovers(t testing.TB, n int) []time.Duration {
	c := newCluster(t, 3)
	c.world(0).app()
	c.world(0).edge("big", 1_000_000)
	l := &load{acked: map[api.SessionID]string{}}
	up := func(but int) (out []*Server) {
		for i, m := range c.members {
			if i != but {
				out = append(out, m.s)
			}
		}
		return out
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var callers sync.WaitGroup
	l.use(up(-1))
	for caller := range 4 {
		callers.Go(func() { l.run(ctx, caller) })
	}
	var took []time.Duration
	for range n {
		lead := c.leader()
		l.use(up(lead))
		time.Sleep(50 * time.Millisecond) // load, not a wait for something
		killed := time.Now()
		stopped := c.members[lead].stop
		go func() { _ = stopped() }()
		// Those that were on their way out of the old leader do not count.
		c.eventually("the leader is gone", func() bool { return !c.members[lead].s.leads() })
		gone := time.Now()
		var next time.Time
		c.eventually("a create is acknowledged", func() (ok bool) { next, ok = l.after(gone); return ok })
		took = append(took, next.Sub(killed))
		if err := stopped(); err != nil {
			t.Fatal(err)
		}
		c.start(lead)
		c.ready(lead)
	}
	cancel()
	callers.Wait()
	check(t, c, l)
	return took
}

// check holds that every acknowledged session is on every member, once.
func check(t testing.TB, c *cluster, l *load) {
	t.Helper()
	for i := range c.members {
		w := c.world(i)
		w.t = t
		if err := w.s.Consistent(w.ctx()); err != nil {
			t.Fatal(err)
		}
		list, total, err := w.s.ListSessions(w.ctx(), api.SessionQuery{})
		if err != nil {
			t.Fatal(err)
		}
		tags, ids := map[string]int{}, map[api.SessionID]string{}
		for _, v := range list {
			var tag string
			if err := json.Unmarshal(v.ExtraData, &tag); err != nil {
				t.Fatalf("session %s carries %q: %v", v.ID, v.ExtraData, err)
			}
			tags[tag]++
			ids[v.ID] = tag
		}
		for tag, n := range tags {
			if n > 1 {
				t.Errorf("member %d: the create %s made %d sessions", i, tag, n)
			}
		}
		for id, tag := range l.acked {
			if ids[id] != tag {
				t.Errorf("member %d lost the acknowledged session %s (%s)", i, id, tag)
			}
		}
		if i == 0 {
			t.Logf("%d creates tried, %d acknowledged, %d sessions", l.tried, len(l.acked), total)
		}
	}
}

func TestLeaderIsKilledUnderLoad(t *testing.T) { synctest.Test(t, testLeaderIsKilledUnderLoad) }

func testLeaderIsKilledUnderLoad(t *testing.T) {
	took := failovers(t, 3)
	t.Log("without an acknowledgement for", took)
	for _, d := range took {
		if d > 3*time.Second {
			t.Errorf("no create was acknowledged for %s", d)
		}
	}
}

// BenchmarkFailover gives the time from a leader's end to the next
// acknowledged create, over 20 leaders.
func BenchmarkFailover(b *testing.B) {
	for b.Loop() {
		took := failovers(b, 20)
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "p50_ms")
		b.ReportMetric(float64(took[18].Milliseconds()), "p95_ms")
		b.ReportMetric(float64(took[19].Milliseconds()), "max_ms")
	}
}
