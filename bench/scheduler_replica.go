package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/perigee-cloud/perigee/bench/ledger"
)

// bigReplica is what a replica holds whose size is measured.
func bigReplica() ledger.Big { return ledger.Big{Nodes: 1000, Live: 100_000, Finished: 1_000_000} }

// schedulerReplica measures a big replica in a process of its own.
func schedulerReplica(ctx context.Context, runs int) (_ []Result, err error) {
	dir, err := os.MkdirTemp("", "perigee-bench-replica")
	if err != nil {
		return nil, fmt.Errorf("make directory of the replica: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := child(ctx, "prepare", dir, nil); err != nil {
		return nil, err
	}
	var rss, stall, calm, took []float64
	for range runs {
		var r ledger.BigResult
		if err := child(ctx, "measure", dir, &r); err != nil {
			return nil, err
		}
		rss, stall = append(rss, float64(r.RSS)/(1<<20)), append(stall, ms(r.Stall))
		calm, took = append(calm, ms(r.Calm)), append(took, ms(r.Snapshot))
	}
	number := func(name, unit string, v []float64) Result {
		return Result{Name: name, Value: round(median(v)), Unit: unit, Runs: runs}
	}
	return []Result{
		number("replica_rss_mib_100k_live", "MiB", rss).atMost(1024),
		number("snapshot_stall_ms_max", "ms", stall).atMost(100).against("longest create without a snapshot", median(calm)),
		number("snapshot_ms", "ms", took),
	}, nil
}

// child runs a part of the bench in a process of its own; answer may be nil.
func child(ctx context.Context, part, dir string, answer any) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the bench: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, "-child", part, dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("run %s: %w", part, err)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(out, answer); err != nil {
		return fmt.Errorf("read answer of %s: %w", part, err)
	}
	return nil
}

// runChild is the other end of child.
func runChild(ctx context.Context, part string, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("run %s: want a directory", part)
	}
	switch part {
	case "prepare":
		return ledger.Prepare(ctx, args[0], bigReplica())
	case "measure":
		r, err := ledger.Measure(ctx, args[0], bigReplica())
		if err != nil {
			return err
		}
		if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		return nil
	default:
		return fmt.Errorf("run %s: there is no such part", part)
	}
}
