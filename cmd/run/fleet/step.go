package fleet

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/scheduler"
)

// Step is something that happens to the fleet. It is undone after For.
type Step struct {
	At   time.Duration // since the fleet was up
	Name string
	For  time.Duration
	do   func(ctx context.Context, f *Fleet, wg *sync.WaitGroup) error
}

// LeaderLoss kills the replica that leads, and starts it again after a while.
func LeaderLoss(at, down time.Duration) Step {
	return Step{at, "leader loss", down, func(ctx context.Context, f *Fleet, wg *sync.WaitGroup) error {
		r, err := f.mustLead(ctx)
		if err != nil {
			return err
		}
		f.outage(ctx, wg, f.other(r), func(d time.Duration) { f.count(func(r *Result) { r.LeaderLoss = append(r.LeaderLoss, d) }) })
		if err := r.kill(); err != nil {
			return fmt.Errorf("kill replica: %w", err)
		}
		pause(ctx, down)
		return r.start(ctx)
	}}
}

// LeaderCut cuts the replica that leads off from the other replicas, in both
// directions or (deaf) only what comes to it.
func LeaderCut(at, dur time.Duration, deaf bool) Step {
	name := "leader cut"
	if deaf {
		name = "leader deaf"
	}
	return Step{at, name, dur, func(ctx context.Context, f *Fleet, wg *sync.WaitGroup) error {
		r, err := f.mustLead(ctx)
		if err != nil {
			return err
		}
		f.outage(ctx, wg, f.other(r), func(d time.Duration) { f.count(func(r *Result) { r.LeaderCut = append(r.LeaderCut, d) }) })
		replicas, ip := f.isReplica(), r.host.IP()
		f.split(func(from, to string) bool { return replicas[from] && replicas[to] && (to == ip || from == ip && !deaf) })
		pause(ctx, dur)
		f.split(nil)
		return nil
	}}
}

// RegionCut cuts a region off from the others, replicas included.
func RegionCut(at, dur time.Duration, region int) Step {
	return Step{at, "region cut", dur, func(ctx context.Context, f *Fleet, _ *sync.WaitGroup) error {
		f.split(func(from, to string) bool { return (f.regionOf[from] == region) != (f.regionOf[to] == region) })
		pause(ctx, dur)
		f.split(nil)
		return nil
	}}
}

// RegionLoss takes the power of all machines of a region, its replica's too,
// and gives it back after a while.
func RegionLoss(at, dur time.Duration, region int) Step {
	return Step{at, "region loss", dur, func(ctx context.Context, f *Fleet, _ *sync.WaitGroup) error {
		var wg sync.WaitGroup
		for _, n := range f.nodes {
			if n.region == region {
				f.silence(n.host.IP(), true)
				wg.Go(n.lose)
			}
		}
		wg.Wait()
		for _, r := range f.replicas {
			if f.regionOf[r.host.IP()] == region {
				if err := r.kill(); err != nil {
					return fmt.Errorf("kill replica: %w", err)
				}
			}
		}
		pause(ctx, dur)
		for _, n := range f.nodes {
			if n.region == region {
				f.silence(n.host.IP(), false)
				n.start(ctx)
			}
		}
		for _, r := range f.replicas {
			if f.regionOf[r.host.IP()] == region {
				if err := r.start(ctx); err != nil {
					return err
				}
			}
		}
		return nil
	}}
}

// StaleGossip loses every datagram: headroom rides the heartbeats, and what the
// rings exchange by streams.
func StaleGossip(at, dur time.Duration) Step {
	return Step{at, "stale gossip", dur, func(ctx context.Context, f *Fleet, _ *sync.WaitGroup) error {
		f.deafen(true)
		pause(ctx, dur)
		f.deafen(false)
		return nil
	}}
}

// Upgrade ends every third daemon and starts it again: their sessions go on.
func Upgrade(at time.Duration) Step {
	return Step{at, "upgrade", 0, func(ctx context.Context, f *Fleet, _ *sync.WaitGroup) error {
		for i, n := range f.nodes {
			if i%3 == 0 {
				n.stop()
				n.start(ctx)
			}
		}
		return nil
	}}
}

// mustLead waits for a leader.
func (f *Fleet) mustLead(ctx context.Context) (*replica, error) {
	for range 600 {
		if r := f.leader(ctx); r != nil {
			return r, nil
		}
		if !pause(ctx, 100*time.Millisecond) {
			break
		}
	}
	return nil, fmt.Errorf("step: nobody leads for a minute: %w", context.DeadlineExceeded)
}

// other gives a running scheduler that is not the one.
func (f *Fleet) other(than *replica) func() *scheduler.Server {
	return func() *scheduler.Server {
		for _, r := range f.replicas {
			if s := r.server(); r != than && s != nil {
				return s
			}
		}
		return nil
	}
}

func (f *Fleet) isReplica() map[string]bool {
	out := map[string]bool{}
	for _, r := range f.replicas {
		out[r.host.IP()] = true
	}
	return out
}

// Everything is every kind of step in turn, as often as a span has room for
// whole rounds, at least once.
func Everything(span time.Duration, regions int) []Step {
	var out []Step
	for n, at := 0, 10*time.Second; n == 0 || at+roundTime <= span; n, at = n+1, at+roundTime {
		out = append(out,
			LeaderLoss(at, 15*time.Second),
			LeaderCut(at+35*time.Second, 20*time.Second, false),
			LeaderCut(at+75*time.Second, 20*time.Second, true),
			RegionCut(at+115*time.Second, 20*time.Second, (regions-1+n)%regions),
			StaleGossip(at+150*time.Second, 20*time.Second),
			Upgrade(at+175*time.Second),
			RegionLoss(at+185*time.Second, 25*time.Second, (1+n)%regions),
		)
	}
	return out
}

// roundTime is what one round of Everything takes.
const roundTime = 240 * time.Second
