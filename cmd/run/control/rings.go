package control

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/gossip"
)

// maxRings bounds the regions whose ring a scheduler joins.
const maxRings = 64

// rings are the gossip rings that the scheduler is a member of, one a region:
// the first node of a region opens its ring, on the next port.
type rings struct {
	listen, advertise, home string
	id                      api.NodeID
	log                     *slog.Logger

	mu    sync.Mutex // guards the fields below
	ctx   context.Context
	group *errgroup.Group
	key   []byte
	open  map[string]*gossip.Ring
	order []string
	met   map[string]context.CancelFunc // other replicas' addresses that are being joined
}

func newRings(cfg Config) *rings {
	return &rings{
		listen: cfg.GossipListen, advertise: cfg.Advertise, home: cfg.Region, log: cfg.Log,
		open: map[string]*gossip.Ring{}, met: map[string]context.CancelFunc{},
	}
}

// start opens the home region's ring; the others open as their nodes join.
func (r *rings) start(ctx context.Context, g *errgroup.Group, replica string, key []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ctx, r.group, r.key, r.id = ctx, g, key, api.NodeIDFromKey([]byte(replica))
	_, err := r.ring(r.home)
	return err
}

// ring gives a region's ring and opens it where there is none. r.mu is held.
func (r *rings) ring(region string) (*gossip.Ring, error) {
	if ring, ok := r.open[region]; ok {
		return ring, nil
	}
	if len(r.open) >= maxRings {
		return nil, fmt.Errorf("open ring of %s: already in %d rings", region, maxRings)
	}
	host, text, err := net.SplitHostPort(r.listen)
	if err != nil {
		return nil, fmt.Errorf("split gossip address: %w", err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, api.Invalidf("--gossip-listen", "%q has no port number", r.listen)
	}
	if port != 0 {
		port += len(r.open)
	}
	ring, err := gossip.New(gossip.Config{
		Listen: net.JoinHostPort(host, strconv.Itoa(port)), Advertise: r.advertise, Key: r.key, Log: r.log,
		Meta: gossip.Meta{ID: r.id, Region: region},
	})
	if err != nil {
		return nil, err
	}
	r.group.Go(func() error { return ring.Run(r.ctx) })
	ready, cancel := context.WithTimeout(r.ctx, startTimeout)
	defer cancel()
	if err := ring.Ready(ready); err != nil {
		return nil, err
	}
	r.open[region] = ring
	r.order = append(r.order, region)
	return ring, nil
}

// addresses are told to a node that joins.
func (r *rings) addresses(region string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil {
		return nil
	}
	ring, err := r.ring(region)
	if err != nil {
		r.log.Warn("a region has no gossip: headroom rides its heartbeats only", "region", region, "error", err)
		return nil
	}
	return []string{ring.Addr()}
}

// all gives this replica's address in each ring, by region; nil before start.
func (r *rings) all() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out map[string]string
	for _, region := range r.order {
		if out == nil {
			out = map[string]string{}
		}
		out[region] = r.open[region].Addr()
	}
	return out
}

// meet joins the rings of the other replicas, given by address, opening those
// of regions that are new here, and lets go of replicas that are gone.
func (r *rings) meet(others map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil {
		return
	}
	for address, stop := range r.met {
		if _, there := others[address]; !there {
			stop()
			delete(r.met, address)
		}
	}
	for address, region := range others {
		if r.met[address] != nil {
			continue
		}
		ring, err := r.ring(region)
		if err != nil {
			r.log.Warn("a region has no gossip: headroom rides its heartbeats only", "region", region, "error", err)
			continue
		}
		ctx, cancel := context.WithCancel(r.ctx)
		r.met[address] = cancel
		r.group.Go(func() error { ring.Join(ctx, []string{address}); return nil })
	}
}

// first is where the home region's ring is reached.
func (r *rings) first() string {
	if a := r.addresses(r.home); len(a) > 0 {
		return a[0]
	}
	return ""
}

// Latest gives a node's newest headroom from whichever ring has it.
func (r *rings) Latest(id api.NodeID) (api.Headroom, time.Time, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, region := range r.order {
		if h, at, ok := r.open[region].Latest(id); ok {
			return h, at, true
		}
	}
	return api.Headroom{}, time.Time{}, false
}
