package place

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Table shows lines to a reader: one candidate a row.
func Table(lines []Line) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(cells ...any) { _, _ = fmt.Fprintf(w, strings.Repeat("%v\t", len(cells)-1)+"%v\n", cells...) } // into memory: cannot fail
	row("rank", "node", "region", "km", "pool", "codec", "cost", "free", "why")
	for _, l := range lines {
		km := "?"
		if l.DistanceKM >= 0 {
			km = fmt.Sprintf("%.0f", l.DistanceKM)
		}
		n := l.Candidate.Node
		if l.Rank == 0 {
			row("-", n.ID, n.Region, km, "-", "-", "-", "-", string(l.Refusal.Code)+": "+l.Refusal.Detail)
			continue
		}
		row(l.Rank, n.ID, n.Region, km, l.Choice.Pool, l.Choice.Codec, l.Choice.Cost, fmt.Sprintf("%.0f%%", 100*l.FreeShare),
			fmt.Sprintf("%s, rank %d", l.Choice.Placement.Source, l.Choice.Placement.Rank))
	}
	_ = w.Flush() // into memory: cannot fail
	return b.String()
}
