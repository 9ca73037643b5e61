package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// kills is how many leaders the test ends; PERIGEE_KILLS=20 is the long run.
func kills(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("PERIGEE_KILLS"))
	if err != nil {
		return 3
	}
	return n
}

// newCluster starts three schedulers, and the same checks at the end as of a world.
func newCluster(t *testing.T) *site.Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pe2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	before := snapshot(t)
	c, err := site.StartCluster(t.Context(), dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("end: %v", err)
		}
		left(t, dir, before)
		for i, m := range c.Members {
			if t.Failed() {
				lines := strings.Split(m.Sched.Output(), "\n")
				t.Logf("scheduler %d's last lines:\n%s", i, strings.Join(lines[max(0, len(lines)-40):], "\n"))
			}
		}
	})
	return c
}

// leaderOf waits until everyone reaches everyone, and gives who leads.
func leaderOf(t *testing.T, c *site.Cluster) int {
	t.Helper()
	lead, err := c.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return lead
}

func clientOf(t *testing.T, s *site.Site) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: s.API, Token: s.Token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestLeadersAreKilled ends leaders by kill -9 while sessions are created
// through another replica, with one session on an edge all the while.
func TestLeadersAreKilled(t *testing.T) {
	c := newCluster(t)
	first := c.Members[leaderOf(t, c)]
	edge, err := first.AddEdge(t.Context(), "edge")
	if err != nil {
		t.Fatal(err)
	}
	for _, put := range [][]string{{"app", "put", "blank", "--", "sleep", "1000"}, {"app", "put", "cave", "--kind", "external"}} {
		if _, err := c.Members[0].CLI(t.Context(), put...); err != nil {
			t.Fatal(err)
		}
	}
	idle := 0
	streaming, err := clientOf(t, c.Members[1]).CreateSession(t.Context(), api.CreateBody{App: "blank", IdleMinutes: &idle})
	if err != nil {
		t.Fatal(err)
	}
	active := func(within time.Duration) {
		t.Helper()
		for i, m := range c.Members {
			eventually(t, within, func() error {
				v, err := clientOf(t, m).Session(t.Context(), streaming.ID)
				if err == nil && v.Status != api.StatusActive {
					err = fmt.Errorf("member %d shows the session as %s (%s)", i, v.Status, v.StatusMessage)
				}
				return err
			})
		}
	}
	active(15 * time.Second)
	runs := site.Children(edge.Dir, string(streaming.ID), "stream")
	var took []time.Duration
	made := map[api.SessionID]bool{}
	for range kills(t) {
		took = append(took, killOne(t, c, made))
	}
	active(10 * time.Second)
	if now := site.Children(edge.Dir, string(streaming.ID), "stream"); !slices.Equal(runs, now) {
		t.Errorf("the session's stream was %v and is %v", runs, now)
	}
	for i, m := range c.Members {
		list, total, err := clientOf(t, m).Sessions(t.Context(), api.SessionQuery{Limit: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		seen := map[api.SessionID]bool{}
		for _, v := range list {
			if seen[v.ID] {
				t.Errorf("member %d lists session %s twice", i, v.ID)
			}
			seen[v.ID] = true
		}
		for id := range made {
			if !seen[id] {
				t.Errorf("member %d lost the acknowledged session %s", i, id)
			}
		}
		if total != len(made)+1 {
			t.Errorf("member %d has %d sessions, %d were acknowledged", i, total, len(made)+1)
		}
	}
	slices.Sort(took)
	t.Logf("from kill -9 to the next acknowledged create: median %s, longest %s, of %d; %d sessions", took[len(took)/2], took[len(took)-1], len(took), len(made))
	if worst := took[len(took)-1]; worst > 3*time.Second {
		t.Errorf("no create was acknowledged for %s", worst)
	}
	if _, err := c.Members[2].CLI(t.Context(), "session", "delete", string(streaming.ID)); err != nil {
		t.Error(err)
	}
}

// killOne ends the leader, starts it again, and gives how long creates through
// another member waited. Those that were acknowledged are added to made.
func killOne(t *testing.T, c *site.Cluster, made map[api.SessionID]bool) time.Duration {
	t.Helper()
	lead := leaderOf(t, c)
	through := clientOf(t, c.Members[(lead+1)%len(c.Members)])
	create := func() {
		t.Helper()
		a, err := through.CreateSession(t.Context(), api.CreateBody{App: "cave"})
		if err != nil {
			t.Errorf("a client saw the election: %v", err)
			return
		}
		made[a.ID] = true
	}
	for range 20 {
		create()
	}
	killed := time.Now()
	if err := c.Kill(lead); err != nil {
		t.Fatal(err)
	}
	create()
	took := time.Since(killed)
	for range 20 {
		create()
	}
	if err := c.Members[lead].StartScheduler(t.Context()); err != nil {
		t.Fatal(err)
	}
	return took
}

// TestMembersComeAndGo lets a scheduler join, take the lead, and leave.
func TestMembersComeAndGo(t *testing.T) {
	c := newCluster(t)
	lead := leaderOf(t, c)
	list, err := c.Members[lead].Replicas(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other := list[slices.IndexFunc(list, func(v api.ReplicaView) bool { return !v.Leader })].Replica.ID
	if _, err := c.Members[lead].CLI(t.Context(), "scheduler", "transfer", other); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() error {
		list, err := c.Members[lead].Replicas(t.Context())
		if err == nil && !slices.ContainsFunc(list, func(v api.ReplicaView) bool { return v.Leader && v.Replica.ID == other }) {
			err = errors.New("another one leads")
		}
		return err
	})
	file := c.Members[0].Dir + "/state.snap"
	if _, err := c.Members[0].CLI(t.Context(), "snapshot", "save", file); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Members[1].CLI(t.Context(), "account", "create", "later"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Members[2].CLI(t.Context(), "snapshot", "restore", file); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() error {
		out, err := c.Members[1].CLI(t.Context(), "account", "list")
		if err == nil && (strings.Contains(out, "later") || !strings.Contains(out, "tester")) {
			err = fmt.Errorf("the accounts are\n%s", out)
		}
		return err
	})
	if _, err := c.Members[1].CLI(t.Context(), "scheduler", "leave", other); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() error {
		for _, m := range c.Members {
			list, err := m.Replicas(t.Context())
			if err != nil && strings.Contains(m.Sched.Output(), "was removed from its cluster") {
				continue // it is the one that left
			}
			if err != nil || len(list) != 2 {
				return fmt.Errorf("%d members: %w", len(list), err)
			}
		}
		return nil
	})
}
