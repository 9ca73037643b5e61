package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/perigee-cloud/perigee/cmd/run/fleet"
)

// The fleets of the full-code measurements.
const (
	fullEdges, fullRegions, fullStreams = 300, 6, 4
	fullSpan                            = 4 * time.Minute // one round of everything; PERIGEE_FLEET_SPAN=30m for more
	fullRate                            = 4.0
	fullStay                            = time.Minute
	calmEdges, calmStreams, calmRate    = 300, 4, 4.0
	calmSpan                            = time.Minute
	fullLimit                           = 3 * time.Hour // a wall clock's
	spanVariable                        = "PERIGEE_FLEET_SPAN"
)

// fleetFull runs production code on virtual time, with all that a fleet must bear.
func fleetFull(ctx context.Context, runs int) ([]Result, error) {
	span := fullSpan
	if text := os.Getenv(spanVariable); text != "" {
		var err error
		if span, err = time.ParseDuration(text); err != nil {
			return nil, fmt.Errorf("read %s, for example 30m: %w", spanVariable, err)
		}
	}
	var loss, cut []float64
	violations, double, lost, sessions := 0, 0, 0, 0
	for seed := range uint64(runs) {
		r, err := fleetRun(ctx, fleet.Size{Config: fleet.Config{Seed: seed + 1, Replicas: 3, Regions: fullRegions, Edges: fullEdges,
			Streams: fullStreams, Span: span, Rate: fullRate, Stay: fullStay}})
		if err != nil {
			return nil, err
		}
		loss, cut = append(loss, millis(r.LeaderLoss)...), append(cut, millis(r.LeaderCut)...)
		violations, double, lost, sessions = violations+r.Violations, double+r.DoubleReservations, lost+r.Lost, sessions+r.Created
	}
	number := func(name, unit string, v float64) Result {
		return Result{Name: name, Value: round(v), Unit: unit, Runs: runs}
	}
	return []Result{
		number("fleet_full_violations", "", float64(violations)).atMost(0),
		number("fleet_full_double_reservations", "", float64(double)).atMost(0),
		number("fleet_full_lost_sessions", "", float64(lost)).atMost(0),
		number("fleet_full_sessions", "", float64(sessions)),
		number("fleet_full_leader_loss_ms_p50", "virtual ms", median(loss)),
		number("fleet_full_leader_loss_ms_max", "virtual ms", quantile(loss, 1)),
		number("fleet_full_leader_cut_ms_p50", "virtual ms", median(cut)),
		number("fleet_full_leader_cut_ms_max", "virtual ms", quantile(cut, 1)),
	}, nil
}

// fleetCalm measures what the model of bench/fleet draws from: with nothing amiss.
func fleetCalm(ctx context.Context, _ int) ([]Result, error) {
	r, err := fleetRun(ctx, fleet.Size{Calm: true, Config: fleet.Config{Seed: 3, Replicas: 3, Regions: fullRegions, Edges: calmEdges,
		Streams: calmStreams, Span: calmSpan, Rate: calmRate, Stay: fullStay}})
	if err != nil {
		return nil, err
	}
	var out []Result
	for _, d := range []struct {
		name string
		q    []time.Duration
	}{{"fleet_create", r.Create}, {"fleet_gossip", r.Gossip}, {"fleet_headroom_age", r.Age}} {
		for _, p := range []int{50, 95, 100} {
			out = append(out, Result{Name: fmt.Sprintf("%s_ms_p%d", d.name, p), Unit: "virtual ms", Runs: 1,
				Value: round(float64(d.q[p*fleet.Quantiles/100]) / float64(time.Millisecond))})
		}
		fmt.Fprintln(os.Stderr, "  ", d.name, d.q)
	}
	return out, nil
}

// fleetRun runs a simulation of a size: a bubble needs a test.
func fleetRun(ctx context.Context, s fleet.Size) (r fleet.Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, fullLimit)
	defer cancel()
	dir, err := os.MkdirTemp("", "perigee-bench")
	if err != nil {
		return r, fmt.Errorf("make folder for the fleet: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left is in the system's own folder
	s.Out = filepath.Join(dir, "result.json")
	b, err := json.Marshal(s)
	if err != nil {
		return r, fmt.Errorf("write size of the fleet: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout", fullLimit.String(), "-run", "TestFleetSurvives", "./cmd/run/fleet")
	cmd.Env = append(os.Environ(), fleet.SizeVariable+"="+string(b))
	text, runErr := cmd.CombinedOutput()
	if b, err = os.ReadFile(s.Out); err != nil {
		return r, fmt.Errorf("run fleet: %w: %s", runErr, text)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read result of the fleet: %w", err)
	}
	if runErr != nil {
		fmt.Fprintf(os.Stderr, "%s\n", text) // the violations, which are counted too
	}
	return r, nil
}

func millis(v []time.Duration) []float64 {
	out := make([]float64, len(v))
	for i, d := range v {
		out[i] = float64(d) / float64(time.Millisecond)
	}
	return out
}
