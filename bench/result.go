package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// Result is one measured number. Value and PeerValue are medians over Runs runs
// in this process's own run; Ratio is Value/PeerValue when there is a peer.
type Result struct {
	Name      string  `json:"name"`
	Value     float64 `json:"value"`
	Unit      string  `json:"unit"`
	Peer      string  `json:"peer,omitempty"`
	PeerValue float64 `json:"peer_value,omitempty"`
	Ratio     float64 `json:"ratio,omitempty"`
	// Target is the bound to reach; AtMost says which side of it is good. A
	// result without a target is stated, not judged: Met is null.
	Target *float64 `json:"target"`
	AtMost bool     `json:"at_most,omitempty"`
	Met    *bool    `json:"met"`
	Runs   int      `json:"runs"`
}

// atMost judges a result against an upper bound.
func (r Result) atMost(bound float64) Result {
	met := r.Value <= bound
	r.Target, r.AtMost, r.Met = &bound, true, &met
	return r
}

// against adds the peer measured in the same run.
func (r Result) against(peer string, value float64) Result {
	r.Peer, r.PeerValue = peer, value
	if value != 0 {
		r.Ratio = round(r.Value / value)
	}
	return r
}

func median(v []float64) float64 { return quantile(v, 0.5) }

// quantile gives the nearest-rank quantile; NaN of nothing.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Clone(v)
	slices.Sort(s)
	return s[min(int(math.Ceil(q*float64(len(s)))), len(s))-1+boolInt(q == 0)]
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func round(v float64) float64 { return math.Round(v*1000) / 1000 }

func printTable(w io.Writer, results []Result) error {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "name\tvalue\tunit\tpeer\tratio\ttarget\tmet\truns")
	for _, r := range results {
		peer, ratio, target, met := "–", "–", "–", "–"
		if r.Peer != "" {
			peer, ratio = fmt.Sprintf("%s %.4g", r.Peer, r.PeerValue), fmt.Sprintf("%.3f", r.Ratio)
		}
		if r.Target != nil {
			sign := "≥"
			if r.AtMost {
				sign = "≤"
			}
			target = fmt.Sprintf("%s %.4g", sign, *r.Target)
			met = map[bool]string{true: "yes", false: "NO"}[*r.Met]
		}
		fmt.Fprintf(tw, "%s\t%.4g\t%s\t%s\t%s\t%s\t%s\t%d\n", r.Name, r.Value, r.Unit, peer, ratio, target, met, r.Runs)
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("print results: %w", err)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("print results: %w", err)
	}
	return nil
}

func writeJSON(path string, results []Result) error {
	b, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return fmt.Errorf("encode results: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}
