package certify

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gpu"
)

// streamRate is the macroblocks per second of 1280x720@30: what people count in.
const streamRate = 108_000

// Print writes a certificate as a table.
func Print(w io.Writer, c api.Certificate) error {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "ENGINE\tCODEC\tENCODER\tSTATE\t720p30\tMACROBLOCKS/S\tSESSIONS\tFIRST MS\tP95 MS AT 1 / HALF / FULL\tNOTE")
	for _, e := range c.Engines {
		row := []string{e.Engine, string(e.Codec), dash(e.Encoder), string(e.State), "-", "-", "-", "-", "-", dash(e.Detail)}
		if e.State == api.EngineCertified {
			row[4], row[5] = fmt.Sprintf("%.1f", float64(e.Macroblocks)/streamRate), fmt.Sprint(e.Macroblocks)
			row[7], row[8] = fmt.Sprintf("%.0f", e.FirstFrameMS), latencies(e)
			if e.Sessions > 0 {
				row[6] = fmt.Sprint(e.Sessions)
			}
			if e.Fast > 0 {
				row[9] = strings.TrimPrefix(fmt.Sprintf("%s; preset %s: %d", e.Detail, api.PresetFast, e.Fast), "; ")
			}
		}
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("print certificate: %w", err)
	}
	kind := "quick"
	if c.Full {
		kind = "full"
	}
	fmt.Fprintf(&b, "%s, %s measurement of %s in %.1f s, %d cores of %s, clip %s\n", c.State, kind,
		c.TakenAt.Format("2006-01-02 15:04 MST"), c.Seconds, c.Cores, c.Machine, c.Clip)
	b.WriteString("720p30: streams of 1280x720 at 30 a second of a noisy picture, all of it changing; a screen of which parts stand still takes a half to a tenth.\n" +
		"FIRST MS: from opening an encoder to its first packet. P95 MS: 95 % of the pictures take no longer, with one stream, at half and at full load.\n")
	for _, e := range c.Engines {
		if e.Steal+e.Foreign >= 5 {
			fmt.Fprintf(&b, "%s %s: the hypervisor took %.0f %%, other programs %.0f %% of the processors meanwhile; taken out\n", e.Engine, e.Codec, e.Steal, e.Foreign)
		}
	}
	for _, a := range c.Alarms {
		fmt.Fprintf(&b, "ALARM: %s\n", a)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("print certificate: %w", err)
	}
	return nil
}

func latencies(e api.EngineCertificate) string {
	var out []string
	for _, p := range e.Load {
		out = append(out, fmt.Sprintf("%.1f", p.P95MS))
	}
	return strings.Join(out, " / ")
}

// PrintInventory writes what the machine has, one line each.
func PrintInventory(w io.Writer, inv gpu.Inventory) error {
	var b strings.Builder
	fmt.Fprintf(&b, "processor  %s, %d cores\n", inv.Machine, inv.Cores)
	fmt.Fprintf(&b, "nvidia     %s", inv.State)
	if inv.Driver != "" {
		fmt.Fprintf(&b, ", driver %s", inv.Driver)
	}
	if inv.Detail != "" {
		fmt.Fprintf(&b, " (%s)", inv.Detail)
	}
	b.WriteString("\n")
	for _, d := range inv.Devices {
		fmt.Fprintf(&b, "  gpu %d    %s, %d MiB, %s, encoders %s, %s", d.Index, d.Name, d.MemoryMiB, dash(d.PCI), count(d.Engines), d.State)
		if d.MIG {
			b.WriteString(", split by MIG")
		}
		if d.Detail != "" {
			fmt.Fprintf(&b, " (%s)", d.Detail)
		}
		b.WriteString("\n")
	}
	if len(inv.VAAPI) == 0 {
		b.WriteString("va-api     no render node\n")
	}
	for _, r := range inv.VAAPI {
		fmt.Fprintf(&b, "va-api     %s (%s)", r.Path, r.Driver)
		if r.State != "" {
			fmt.Fprintf(&b, ", %s (%s)", r.State, r.Detail)
		}
		b.WriteString("\n")
	}
	if _, err := io.WriteString(w, b.String()+"\n"); err != nil {
		return fmt.Errorf("print inventory: %w", err)
	}
	return nil
}

func count(n int) string {
	if n < 0 {
		return "unknown"
	}
	return fmt.Sprint(n)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
