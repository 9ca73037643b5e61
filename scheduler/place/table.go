package place

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/perigee-cloud/perigee/api"
)

// Table shows an explanation's candidates to a reader: one a row.
func Table(lines []api.ExplainedCandidate) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { _, _ = fmt.Fprintln(w, strings.Join(cells, "\t")) } // into memory: cannot fail
	row("rank", "node", "region", "km", "round trip", "score", "pool", "codec", "cost", "free", "why")
	for _, l := range lines {
		km, trip, score := "?", "?", "-"
		if l.DistanceKM >= 0 {
			km = fmt.Sprintf("%.0f", l.DistanceKM)
		}
		if l.EstimateMS >= 0 {
			trip = fmt.Sprintf("%.1f ±%.1f ms", l.EstimateMS, l.ErrorMS)
			score = fmt.Sprintf("%.1f", l.ScoreMS)
		}
		if l.Refusal != nil {
			row("-", string(l.Node), l.Region, km, trip, "-", "-", "-", "-", "-", string(l.Refusal.Code)+": "+l.Refusal.Detail)
			continue
		}
		why := l.Source
		if l.Samples > 0 {
			why = fmt.Sprintf("%s of %d samples", why, l.Samples)
		}
		row(fmt.Sprint(l.Rank), string(l.Node), l.Region, km, trip, score, string(l.Pool), strings.TrimSpace(fmt.Sprintf("%s@%d %s", l.Codec, l.FPS, l.Preset)),
			fmt.Sprint(l.Cost), fmt.Sprintf("%.0f%%", 100*l.FreeShare), why)
	}
	_ = w.Flush() // into memory: cannot fail
	return b.String()
}
