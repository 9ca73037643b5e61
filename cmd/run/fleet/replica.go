package fleet

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/gossip"
	"github.com/perigee-cloud/perigee/gossip/simnet"
	"github.com/perigee-cloud/perigee/scheduler"
)

// replica is one scheduler: the host, and what runs on it between a start and a kill.
type replica struct {
	f    *Fleet
	i    int
	host *simnet.Host
	data string

	mu     sync.Mutex // guards the fields below
	s      *scheduler.Server
	rings  []*gossip.Ring
	cancel context.CancelFunc
	ended  chan error
}

func (r *replica) hubAddress() string { return fmt.Sprintf("%s:%d", r.host.IP(), hubPort) }

func (r *replica) raftAddress() string { return fmt.Sprintf("%s:%d", r.host.IP(), raftPort) }

// ringAddress is where the replica's member of a region's ring is.
func (r *replica) ringAddress(region int) string {
	return fmt.Sprintf("%s:%d", r.host.IP(), ringPort+region)
}

// server gives the scheduler; nil while it is down.
func (r *replica) server() *scheduler.Server {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.s
}

// start runs the replica, for the first time or again.
func (r *replica) start(ctx context.Context) error {
	f := r.f
	var hubs, rafts []string
	for _, o := range f.replicas {
		hubs, rafts = append(hubs, o.hubAddress()), append(rafts, o.raftAddress())
	}
	rings := map[string]string{}
	for i, region := range f.regions {
		rings[region.Name] = r.ringAddress(i)
	}
	h := newHub(r.i, r.host, hubs)
	s, err := scheduler.New(scheduler.Config{
		Data: filepath.Join(r.data, fmt.Sprint("replica", r.i)), Log: f.cfg.Log.With("at", r.i), Bus: h, Headroom: r, Kick: h.kick, Network: r.host,
		NATSURLs: func() []string { return []string{r.hubAddress()} }, Gossip: func(region string) []string { return []string{rings[region]} },
		RaftListen: r.raftAddress(), Profile: f.cfg.Profile, Expect: len(f.replicas), Peers: rafts,
		Describe: func(d *api.Replica) { d.NATS, d.Gossip = r.hubAddress(), rings },
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	if err := h.run(ctx); err != nil {
		cancel()
		return err
	}
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { r.gossip(ctx, s, &wg) })
	go func() {
		err := s.Run(ctx)
		cancel()
		wg.Wait()
		h.wait()
		ended <- err
	}()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.s, r.cancel, r.ended, r.rings = s, cancel, ended, nil
	return nil
}

// gossip joins every region's ring, once the key is known.
func (r *replica) gossip(ctx context.Context, s *scheduler.Server, wg *sync.WaitGroup) {
	if s.Ready(ctx) != nil {
		return
	}
	for i, region := range r.f.regions {
		t, err := r.host.Transport(ringPort + i)
		if err != nil {
			r.f.cfg.Log.Error("no gossip", "error", err)
			return
		}
		ring, err := gossip.New(gossip.Config{
			Listen: r.ringAddress(i), Key: s.RingKey(), Log: r.f.cfg.Log, Transport: t,
			Meta: gossip.Meta{ID: api.NodeIDFromKey([]byte(s.ID())), Region: region.Name},
		})
		if err != nil {
			r.f.cfg.Log.Error("no gossip", "error", err)
			return
		}
		var others []string
		for _, o := range r.f.replicas {
			if o != r {
				others = append(others, o.ringAddress(i))
			}
		}
		wg.Go(func() { _ = ring.Run(ctx) }) // ends with ctx
		wg.Go(func() { ring.Join(ctx, others) })
		r.mu.Lock()
		r.rings = append(r.rings, ring)
		r.mu.Unlock()
	}
}

// Latest gives a node's newest gossiped headroom.
func (r *replica) Latest(id api.NodeID) (api.Headroom, time.Time, bool) {
	r.mu.Lock()
	rings := r.rings
	r.mu.Unlock()
	for _, ring := range rings {
		if h, at, ok := ring.Latest(id); ok {
			return h, at, true
		}
	}
	return api.Headroom{}, time.Time{}, false
}

// kill ends the replica at once: nothing that it says from now on gets out.
func (r *replica) kill() error {
	r.mu.Lock()
	cancel, ended := r.cancel, r.ended
	r.s, r.cancel = nil, nil
	r.mu.Unlock()
	if cancel == nil {
		return nil
	}
	r.f.silence(r.host.IP(), true)
	r.host.Crash()
	cancel()
	err := <-ended
	r.host.Crash() // what was opened meanwhile
	r.f.silence(r.host.IP(), false)
	return err
}
