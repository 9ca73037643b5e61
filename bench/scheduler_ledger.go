package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/perigee-cloud/perigee/bench/ledger"
)

const (
	ledgerCallers = 256
	ledgerRound   = 2 * time.Second
	ledgerNodes   = 300
	ledgerStreams = 1 << 20 // of each node: capacity is not what is measured
	staleGossip   = 2 * time.Second
)

// ledgerRun is what the rounds of one kind achieved.
type ledgerRun struct {
	name string
	do   func(context.Context) (ledger.Rate, error)
	got  []float64
}

// schedulerLedger measures creates against bare Raft, in turn: called on the
// leader, through the gateways, and one at a time on an idle cluster.
func schedulerLedger(ctx context.Context, runs int) (_ []Result, err error) {
	dir, err := os.MkdirTemp("", "perigee-bench-ledger")
	if err != nil {
		return nil, fmt.Errorf("make directory of the replicas: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := ledger.Start(ctx, ledger.Config{Dir: filepath.Join(dir, "perigee"), Nodes: ledgerNodes, Streams: ledgerStreams, Seed: 1})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	wal, err := ledger.StartRaw(ctx, filepath.Join(dir, "wal"), ledger.WAL)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, wal.Close()) }()
	bolt, err := ledger.StartRaw(ctx, filepath.Join(dir, "bolt"), ledger.Bolt)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bolt.Close()) }()
	kinds := ledgerKinds(c, wal, bolt)
	for run := range runs + 1 { // the first warms up
		for _, k := range kinds {
			rate, err := k.do(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k.name, err)
			}
			if err := c.Settle(ctx); err != nil {
				return nil, err
			}
			if run > 0 {
				k.got = append(k.got, valueOf(rate))
			}
		}
	}
	return ledgerResults(kinds, runs), nil
}

// valueOf is a round's number: with one caller its median in milliseconds, else
// how many a second.
func valueOf(r ledger.Rate) float64 {
	if r.Median > 0 {
		return ms(r.Median)
	}
	return r.PerSecond
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func ledgerKinds(c *ledger.Cluster, wal, bolt *ledger.Raw) []*ledgerRun {
	apply := func(w *ledger.Raw, callers int) func(context.Context) (ledger.Rate, error) {
		return func(ctx context.Context) (ledger.Rate, error) { return w.Apply(ctx, callers, ledgerRound) }
	}
	direct := func(callers int) func(context.Context) (ledger.Rate, error) {
		return func(ctx context.Context) (ledger.Rate, error) {
			lead, err := c.Leader(ctx)
			if err != nil {
				return ledger.Rate{}, err
			}
			return c.Direct(ctx, lead, callers, ledgerRound)
		}
	}
	return []*ledgerRun{
		{name: "raft", do: apply(wal, ledgerCallers)},
		{name: "creates", do: direct(ledgerCallers)},
		{name: "bolt", do: apply(bolt, ledgerCallers)},
		{name: "gateways", do: func(ctx context.Context) (ledger.Rate, error) {
			return c.HTTP(ctx, []int{0, 1, 2}, ledgerCallers, ledgerRound)
		}},
		{name: "gateway of the leader", do: func(ctx context.Context) (ledger.Rate, error) {
			lead, err := c.Leader(ctx)
			if err != nil {
				return ledger.Rate{}, err
			}
			return c.HTTP(ctx, []int{lead}, ledgerCallers, ledgerRound)
		}},
		{name: "raft idle", do: apply(wal, 1)},
		{name: "create idle", do: direct(1)},
		{name: "bolt idle", do: apply(bolt, 1)},
	}
}

func ledgerResults(kinds []*ledgerRun, runs int) []Result {
	of := func(name string) []float64 {
		for _, k := range kinds {
			if k.name == name {
				return k.got
			}
		}
		return nil
	}
	// A ratio is of two rounds that followed each other.
	ratio := func(a, b string) float64 {
		var r []float64
		for i, v := range of(a) {
			r = append(r, v/of(b)[i])
		}
		return round(median(r))
	}
	number := func(name, unit, kind string) Result {
		return Result{Name: name, Value: round(median(of(kind))), Unit: unit, Runs: runs}
	}
	quotient := func(name, a, b string) Result {
		return Result{Name: name, Value: ratio(a, b), Runs: runs}
	}
	return []Result{
		number("ledger_creates_per_s_256", "1/s", "creates").against("bare raft", median(of("raft"))),
		quotient("ledger_ratio_to_raft_256", "creates", "raft").atLeast(0.5),
		number("gateway_creates_per_s", "1/s", "gateways").atLeast(8000),
		number("gateway_creates_per_s_leader", "1/s", "gateway of the leader"),
		number("create_latency_ms_idle", "ms", "create idle").against("bare raft", median(of("raft idle"))),
		quotient("create_latency_ratio_to_raft_idle", "create idle", "raft idle").atMost(3),
		quotient("raft_boltdb_ratio_to_wal_256", "bolt", "raft"),
		quotient("raft_boltdb_latency_ratio_to_wal_idle", "bolt idle", "raft idle"),
	}
}

// The herd: room for 9,000 of 10,000 creates that come at once.
const (
	realNodes, realStreams = 90, 100
	realCreates            = 10_000
)

// schedulerHerd lets a herd loose on three replicas that know nothing newer of
// their nodes than from two seconds before it.
func schedulerHerd(ctx context.Context, runs int) ([]Result, error) {
	doubles := 0
	for range runs {
		r, err := oneHerd(ctx)
		if err != nil {
			return nil, err
		}
		if r.Created != realNodes*realStreams || r.Created+r.Refused != realCreates {
			return nil, fmt.Errorf("a herd of %d on room for %d: %d created, %d refused", realCreates, realNodes*realStreams, r.Created, r.Refused)
		}
		doubles += r.Double
	}
	return []Result{Result{Name: "double_reservations", Value: float64(doubles), Runs: runs}.atMost(0)}, nil
}

func oneHerd(ctx context.Context) (_ ledger.HerdResult, err error) {
	dir, err := os.MkdirTemp("", "perigee-bench-herd")
	if err != nil {
		return ledger.HerdResult{}, fmt.Errorf("make directory of the replicas: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := ledger.Start(ctx, ledger.Config{Dir: dir, Nodes: realNodes, Streams: realStreams, Headroom: ledger.Stale{Old: staleGossip}, Seed: 2})
	if err != nil {
		return ledger.HerdResult{}, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return c.Herd(ctx, realCreates)
}
