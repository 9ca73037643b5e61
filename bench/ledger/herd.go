package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// Stale is gossip of a moment ago, from before anything was placed: every node
// has room for everything.
type Stale struct{ Old time.Duration }

// Latest gives what was measured then.
func (s Stale) Latest(api.NodeID) (api.Headroom, time.Time, bool) {
	h := api.Headroom{Boot: boot, Seq: 1 << 40, Pools: []api.PoolHeadroom{{Pool: api.PoolCPU, Free: 1 << 40}}}
	return h, time.Now().Add(-s.Old), true
}

// HerdResult is what became of creates that came all at once.
type HerdResult struct {
	Created, Refused int
	// Double counts reservations above a node's capacity on any replica, ids
	// given twice, and acknowledged sessions that a replica does not reserve for.
	Double int
}

// Herd asks for n sessions at once through all replicas, and looks at every
// replica's ledger when all are answered.
func (c *Cluster) Herd(ctx context.Context, n int) (HerdResult, error) {
	var r HerdResult
	var mu sync.Mutex
	ids := map[api.SessionID]bool{}
	rnd := newRand(5)
	places := make([]api.Location, n)
	for i := range places {
		places[i] = Somewhere(rnd)
	}
	err := each(ctx, n, n, func(ctx context.Context, i int) error {
		a, err := c.Create(ctx, i%len(c.Servers), places[i])
		mu.Lock()
		defer mu.Unlock()
		var e *api.Error
		switch {
		case errors.As(err, &e) && e.Code == api.CodeNoCapacity:
			r.Refused++
		case err != nil:
			return fmt.Errorf("create in a herd: %w", err)
		case ids[a.Session.ID]:
			r.Double++
		default:
			ids[a.Session.ID] = true
			r.Created++
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	for _, s := range c.Servers {
		if err := s.Consistent(ctx); err != nil {
			return r, fmt.Errorf("wait for replica: %w", err)
		}
		nodes, err := s.ListNodes(ctx)
		if err != nil {
			return r, fmt.Errorf("read ledger: %w", err)
		}
		reserved := 0
		for _, v := range nodes {
			have, most := v.Reserved[api.PoolCPU]/c.cost, v.Node.Pools[0].Macroblocks/c.cost
			reserved += int(have)
			if have > most {
				r.Double += int(have - most)
			}
		}
		r.Double += max(r.Created-reserved, reserved-r.Created)
	}
	return r, nil
}
