package ledger

import (
	"context"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/scheduler"
)

// TestClusterIsMeasured runs each kind of round for a moment, and a small herd
// on a cluster whose nodes cannot take all of it.
func TestClusterIsMeasured(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	const room = 40
	c, err := Start(ctx, Config{Dir: t.TempDir(), Nodes: 4, Streams: room / 4, Headroom: Stale{Old: 2 * time.Second}, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	r, err := c.Herd(ctx, room+10)
	if err != nil || r != (HerdResult{Created: room, Refused: 10}) {
		t.Errorf("a herd of %d on room for %d: %+v, %v", room+10, room, r, err)
	}
	if err := c.Settle(ctx); err != nil {
		t.Fatal(err)
	}
	for i, s := range c.Servers {
		if err := s.Consistent(ctx); err != nil {
			t.Fatal(err)
		}
		if st, err := s.Status(ctx); err != nil || st.Sessions != 0 {
			t.Errorf("replica %d has %d sessions left, %v", i, st.Sessions, err)
		}
	}
	made := 0
	once := func(do func(context.Context) error) {
		t.Helper()
		if err := do(ctx); err != nil {
			t.Error(err)
		}
		made++
	}
	for i := range c.Servers {
		k, err := dial(ctx, c.URLs[i], c.Token)
		if err != nil {
			t.Fatal(err)
		}
		once(func(context.Context) error { return k.create(newRand(uint64(i))) })
		if err := k.c.Close(); err != nil {
			t.Error(err)
		}
	}
	lead, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	once(func(ctx context.Context) error { _, err := c.Create(ctx, lead, Somewhere(newRand(9))); return err })
	if st, err := c.Servers[lead].Status(ctx); err != nil || st.Sessions != made {
		t.Errorf("%d sessions of %d, %v", st.Sessions, made, err)
	}
}

func TestBigReplicaIsMeasured(t *testing.T) {
	dir, b := t.TempDir(), Big{Nodes: 5, Live: 20, Finished: 300}
	if err := Prepare(t.Context(), dir, b); err != nil {
		t.Fatal(err)
	}
	e, index := newEdges(newRand(bigSeed), b.Nodes, 1)
	err := alone(t.Context(), dir, wire{e, 0, index}, func(ctx context.Context, s *scheduler.Server) error {
		st, err := s.Status(ctx)
		if err == nil && (st.Sessions != b.Live) {
			t.Errorf("%d sessions of %d came back", st.Sessions, b.Live)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := resident(); err != nil || n < 1<<20 {
		t.Errorf("this process takes %d bytes, %v", n, err)
	}
}
