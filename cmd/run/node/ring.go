package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/gossip"
)

// ring is the node's membership of its region's gossip. A member cannot move: it
// leaves and comes anew when the node's address, the members or the key change.
type ring struct {
	cfg  Config
	next chan api.NodeJoined // of one place

	mu  sync.Mutex
	now *gossip.Ring // nil between two memberships
}

func newRing(cfg Config) *ring {
	return &ring{cfg: cfg, next: make(chan api.NodeJoined, 1)}
}

// Publish spreads the node's headroom.
func (r *ring) Publish(h api.Headroom) {
	r.mu.Lock()
	m := r.now
	r.mu.Unlock()
	if m != nil {
		m.Publish(h)
	}
}

// follow makes the ring be as a join's answer says. It is for one goroutine.
func (r *ring) follow(joined api.NodeJoined) {
	select { // what has not been looked at is out of date
	case <-r.next:
	default:
	}
	r.next <- joined
}

// run is a member until ctx ends. The first time must go well: a port that is
// taken is the operator's to mend. Later on the node does without, until the next
// change: its headroom rides the heartbeats too.
func (r *ring) run(ctx context.Context, joined api.NodeJoined) error {
	for first := true; ctx.Err() == nil; first = false {
		next, err := r.member(ctx, joined)
		switch {
		case errors.Is(err, errRingChanged):
			joined = next
		case err == nil:
		case first:
			return fmt.Errorf("gossip (--gossip-listen %s): %w", r.cfg.GossipListen, err)
		default:
			r.cfg.Log.Warn("the node is in no ring of gossip: its headroom rides its heartbeats only", "error", err)
			select {
			case <-ctx.Done():
			case joined = <-r.next:
			}
		}
	}
	return nil
}

// member is a member until ctx ends or the ring is another (errRingChanged).
func (r *ring) member(ctx context.Context, joined api.NodeJoined) (next api.NodeJoined, err error) {
	m, err := gossip.New(gossip.Config{
		Listen: r.cfg.GossipListen, Advertise: joined.Node.Addresses[0], Key: joined.RingKey, Log: r.cfg.Log,
		Meta: gossip.MetaOf(joined.Node),
	})
	if err != nil {
		return next, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.Run(gctx) })
	g.Go(func() error { m.Join(gctx, joined.Gossip); return nil })
	g.Go(func() error {
		for {
			select {
			case <-gctx.Done():
				return nil
			case next = <-r.next:
				if !sameRing(joined, next) {
					return errRingChanged
				}
			}
		}
	})
	r.set(m)
	defer r.set(nil)
	err = g.Wait() // next is written by then
	return next, err
}

// errRingChanged ends one membership for the next.
var errRingChanged = errors.New("the ring changed")

func (r *ring) set(m *gossip.Ring) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = m
}

func sameRing(a, b api.NodeJoined) bool {
	return a.Node.Addresses[0] == b.Node.Addresses[0] && a.Node.Location == b.Node.Location &&
		bytes.Equal(a.RingKey, b.RingKey) && slices.Equal(a.Gossip, b.Gossip)
}
