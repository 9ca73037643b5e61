package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/site"
	"github.com/perigee-cloud/perigee/edge/local"
)

// instanceLeaks starts and ends many instances, every fourth with a stream, and
// counts what they leave on the node.
func instanceLeaks(ctx context.Context, _ int) (_ []Result, err error) {
	y, err := newYard(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, y.close()) }()
	round1 := func(n int) error {
		var g errgroup.Group
		g.SetLimit(leakAtOnce)
		for k := range n {
			g.Go(func() error {
				b := api.LaunchBody{AppID: "waits"}
				b.Config.EnableStreaming = k%4 == 0
				id, err := y.launch(ctx, b)
				if err != nil {
					return err
				}
				return y.end(ctx, id)
			})
		}
		return g.Wait()
	}
	if err := round1(leakAtOnce * 4); err != nil { // what is opened once
		return nil, err
	}
	before, err := y.traces(ctx)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	if err := round1(leakRounds); err != nil {
		return nil, err
	}
	took := time.Since(begun)
	after, err := y.traces(ctx)
	if err != nil {
		return nil, err
	}
	left := 0
	for name, n := range after.counts {
		if more := n - before.counts[name]; more > 0 {
			fmt.Fprintf(os.Stderr, "  %d %s are left\n", more, name)
			left += more
		}
	}
	return []Result{
		Result{Name: "leaked_after_200", Value: float64(left), Unit: "things", Runs: leakRounds}.atMost(0),
		{Name: "daemon_rss_growth_after_200", Value: round(after.rssMiB - before.rssMiB), Unit: "MiB", Runs: leakRounds},
		{Name: "instances_started_and_ended_per_s", Value: round(leakRounds / took.Seconds()), Unit: "1/s", Runs: leakRounds},
	}, nil
}

type traces struct {
	counts map[string]int
	rssMiB float64
}

// traces counts what the edge's sessions may leave, once the daemon has
// forgotten the last of them.
func (y *yard) traces(ctx context.Context) (traces, error) {
	folders := func() int {
		dirs, _ := local.Run(filepath.Join(y.edge.Dir, "run")).Sessions()
		return len(dirs)
	}
	_ = site.Poll(ctx, 10*time.Second, func() error { // what is still there is counted
		if n := folders(); n > 0 {
			return fmt.Errorf("%d folders are left", n)
		}
		return nil
	})
	pid := strconv.Itoa(y.edge.Process.Cmd.Process.Pid)
	t := traces{counts: map[string]int{"folders": folders()}}
	for name, pattern := range map[string]string{
		"descriptors": "/proc/" + pid + "/fd/*", "displays": "/tmp/.X1*-lock", "cgroups": "/sys/fs/cgroup/*/perigee/*", "cgroups (v2)": "/sys/fs/cgroup/perigee/*/",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return t, err
		}
		t.counts[name] = len(found)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return t, fmt.Errorf("read mounts: %w", err)
	}
	t.counts["mounts"] = strings.Count(string(mounts), "\n")
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return t, err
	}
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), y.edge.Dir) {
			t.counts["processes"]++
		}
	}
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return t, fmt.Errorf("read the daemon's memory: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kib, _ := strconv.ParseFloat(f[1], 64) // the kernel writes a number
			t.rssMiB = kib / 1024
		}
	}
	return t, nil
}
