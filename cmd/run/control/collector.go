package control

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// smallHeap may be added to what lives before the garbage collector runs: a
	// scheduler with little in it would else collect tens of times a second
	// under load, which took a seventh of its processor time. It is less than what
	// lives in a replica with 100,000 sessions, whose memory is bounded.
	smallHeap    = 384 << 20 // bytes
	mostPercent  = 400
	leastPercent = 100 // Go's own
	tuneEvery    = time.Second
)

// TuneCollector lets this process's garbage collector run less often while the
// heap is small, until ctx ends. From 384 MiB on it runs as it does by itself.
func TuneCollector(ctx context.Context) {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := collectAt(0)
	was := debug.SetGCPercent(set)
	defer debug.SetGCPercent(was)
	tick := time.NewTicker(tuneEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(live)
		if live[0].Value.Kind() != metrics.KindUint64 {
			return // a later Go calls it otherwise
		}
		if next := collectAt(live[0].Value.Uint64()); next != set {
			set = next
			debug.SetGCPercent(set)
		}
	}
}

// collectAt gives the growth in percent of what lives at which to collect.
func collectAt(live uint64) int {
	if live == 0 {
		return mostPercent
	}
	percent := int(min(smallHeap*100/live, mostPercent))
	return max(percent/20*20, leastPercent) // in steps: setting it stops the world
}
