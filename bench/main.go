// Bench measures Perigee against its peers in the same run and prints a table.
//
//	make bench              everything
//	make bench RUN=cpu      the measurements whose name matches
//
// It writes bench/results/latest.json; bench/README.md keeps the history.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/jezek/xgb"
)

// measurement is one group of numbers that are taken together.
type measurement struct {
	name string
	run  func(ctx context.Context, runs int) ([]Result, error)
}

func measurements() []measurement {
	return []measurement{
		{"stream_latency", streamLatency},
		{"stream_start", streamStart},
		{"stream_cost", streamCost},
		{"cpu_ratio", cpuRatio},
		{"instances_start", instanceStart},
		{"instances_container", containerStart},
		{"instances_leaks", instanceLeaks},
		{"instances_daemon_restart", daemonRestart},
		{"picture_codecs", pictureCodecs},
		{"picture_still", pictureStill},
		{"picture_link", pictureLink},
		{"picture_loss", pictureLoss},
		{"scheduler_placement", schedulerPlacement},
		{"encoders_probe", encodersProbe},
		{"encoders_certificate", encodersCertificate},
		{"encoders_density", encodersDensity},
		{"encoders_spread", encodersSpread},
		{"encoders_large", encodersSpreadLarge},
		{"encoders_gossip", encodersGossip},
		{"scheduler_ledger", schedulerLedger},
		{"scheduler_herd", schedulerHerd},
		{"scheduler_replica", schedulerReplica},
		{"scheduler_failover", schedulerFailover},
		{"fleet_model", fleetModel},
		{"fleet_full", fleetFull},
		{"fleet_calm", fleetCalm},
	}
}

func main() {
	if role := os.Getenv(gossipRole); role != "" {
		gossipMain(role)
	}
	pattern := flag.String("run", ".", "regular expression: measure only what matches")
	runs := flag.Int("runs", 3, "repetitions of each measurement")
	out := flag.String("out", "bench/results/latest.json", "file for the results")
	part := flag.String("child", "", "run one part in this process; the bench does so itself")
	flag.Parse()
	xgb.Logger.SetOutput(io.Discard) // it writes to stderr what comes back as an error
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := func() error { return measure(ctx, *pattern, *runs, *out) }
	if *part != "" {
		do = func() error { return runChild(ctx, *part, flag.Args()) }
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func measure(ctx context.Context, pattern string, runs int, out string) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return fmt.Errorf("read -run: %w", err)
	}
	if runs < 1 {
		return fmt.Errorf("read -runs: must be at least 1, got %d", runs)
	}
	var all []Result
	for _, m := range measurements() {
		if !re.MatchString(m.name) {
			continue
		}
		began := time.Now()
		fmt.Fprintf(os.Stderr, "measuring %s …\n", m.name)
		results, err := m.run(ctx, runs)
		if err != nil {
			return fmt.Errorf("measure %s: %w", m.name, err)
		}
		fmt.Fprintf(os.Stderr, "  %s took %s\n", m.name, time.Since(began).Round(time.Second))
		all = append(all, results...)
	}
	if len(all) == 0 {
		return fmt.Errorf("nothing matches -run %q", pattern)
	}
	if err := printTable(os.Stdout, all); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return fmt.Errorf("make results folder: %w", err)
	}
	return writeJSON(out, all)
}
