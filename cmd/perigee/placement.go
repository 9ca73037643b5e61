package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/place"
)

func sessionExplain(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "explain SESSION",
		Short:   "Say why a session runs where it does",
		Example: "  perigee session explain c25k8fh3pn6a8q46taug\n  perigee session explain c25k8fh3pn6a8q46taug --json >> requests.json",
		Args:    exactly("the session's id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			x, err := c.Placement(cmd.Context(), api.SessionID(args[0]))
			if err != nil {
				return err
			}
			return o.show(cmd, x, func(w io.Writer) error {
				r := x.Request
				where := "unknown"
				if r.Client.Known {
					where = fmt.Sprintf("%.2f,%.2f ±%.0f km (%s)", r.Client.Latitude, r.Client.Longitude, r.Client.RadiusKM, r.Client.Source)
				}
				if err := fields(w, "session", string(x.Session), "placed", when(x.At), "app", r.App, "region", r.Region,
					"screen", fmt.Sprintf("%dx%d@%d", r.Screen.Width, r.Screen.Height, r.Screen.FPS), "codecs", fmt.Sprint(r.Codecs),
					"client", where, "network", r.Network, "probes", fmt.Sprint(len(r.Probes)), "nodes", fmt.Sprint(x.Nodes)); err != nil {
					return err
				}
				_, err := io.WriteString(w, "\n"+place.Table(x.Candidates))
				return err
			})
		},
	}
}

func newReplay(o *options) *cobra.Command {
	var file string
	var all bool
	cmd := &cobra.Command{
		Use:   "replay FILE --policy POLICY.yaml",
		Short: "Show what another placement policy would have changed",
		Long: `Place recorded requests again by another policy and show what would change.

FILE holds what "perigee session explain --json" or "perigee refusals --json"
printed, once or many times behind one another; - reads it from the standard input. The policy is the
"placement" of an application, in YAML or JSON; an empty file is none.`,
		Example: "  perigee replay requests.json --policy other.yaml",
		Args:    exactly("the file of recorded requests"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usagef("--policy is missing: name the file of the other policy")
			}
			policy, err := readStrict[api.PlacementPolicy]("--policy", file, nil)
			if err != nil {
				return err
			}
			recorded, err := readRecorded(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			return o.replay(cmd, recorded, policy, all)
		},
	}
	cmd.Flags().StringVar(&file, "policy", "", "file of the other policy")
	cmd.Flags().BoolVar(&all, "all", false, "show the sessions that would not change, too")
	return cmd
}

// replayLine is one session in the output of a replay.
type replayLine struct {
	Session api.SessionID          `json:"session"`
	Changed bool                   `json:"changed"`
	Was     api.ExplainedCandidate `json:"was"`
	Now     api.ExplainedCandidate `json:"now"`
}

func (o *options) replay(cmd *cobra.Command, recorded []api.Explanation, policy *api.PlacementPolicy, all bool) error {
	lines := []replayLine{}
	var rows [][]string
	changed := 0
	for _, x := range recorded {
		r := place.Replay(x, policy, place.Operator{})
		if r.Changed() {
			changed++
		} else if !all {
			continue
		}
		lines = append(lines, replayLine{x.Session, r.Changed(), r.Was, r.Now})
		rows = append(rows, []string{string(x.Session), placedOn(r.Was), placedOn(r.Now)})
	}
	return o.show(cmd, lines, func(w io.Writer) error {
		if len(rows) > 0 {
			if err := table(w, "", []string{"SESSION", "WAS", "WOULD BE"}, rows); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintf(w, "%d of %d sessions would change\n", changed, len(recorded))
		return err
	})
}

func placedOn(c api.ExplainedCandidate) string {
	switch {
	case c.Rank == 0 && c.Refusal != nil:
		return "refused: " + c.Refusal.Detail
	case c.Rank == 0:
		return "refused"
	case c.EstimateMS < 0:
		return fmt.Sprintf("%s, %s@%d", c.Node, c.Codec, c.FPS)
	default:
		return fmt.Sprintf("%s, %.0f ms, %s@%d", c.Node, c.EstimateMS, c.Codec, c.FPS)
	}
}

// maxRecorded bounds how many requests one replay reads.
const maxRecorded = 100_000

func readRecorded(file string, stdin io.Reader) ([]api.Explanation, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read recorded requests: %w", err)
		}
		defer f.Close()
		in = f
	}
	var out []api.Explanation
	for d := json.NewDecoder(in); ; {
		var text json.RawMessage
		err := d.Decode(&text)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		list := make([]api.Explanation, 1) // one, or a list of them
		if err == nil && text[0] == '[' {
			err = json.Unmarshal(text, &list)
		} else if err == nil {
			err = json.Unmarshal(text, &list[0])
		}
		if err != nil {
			return nil, fmt.Errorf("read recorded request %d: %w", len(out)+1, err)
		}
		for _, x := range list {
			if x.Session == "" || len(x.Candidates) == 0 && !x.Refused {
				return nil, fmt.Errorf("read recorded request %d: it is no explanation; record them by perigee session explain --json, or perigee refusals --json", len(out)+1)
			}
			if len(out) == maxRecorded {
				return nil, fmt.Errorf("read recorded requests: more than %d", maxRecorded)
			}
			out = append(out, x)
		}
	}
}

// newRefusals lists the requests that were turned away.
func newRefusals(o *options) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "refusals",
		Short:   "List the latest requests that no node took, and why",
		Example: "  perigee refusals --limit 20\n  perigee refusals --limit 1000 --json | perigee replay - --policy other.yaml",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > api.MaxRefusals {
				return usagef("--limit must be 1 to %d, got %d", api.MaxRefusals, limit)
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			list, err := c.Refusals(cmd.Context(), limit)
			if err != nil {
				return err
			}
			return o.show(cmd, list, func(w io.Writer) error {
				var rows [][]string
				for _, x := range list {
					why := "no node has joined"
					if len(x.Candidates) > 0 && x.Candidates[0].Refusal != nil {
						why = string(x.Candidates[0].Node) + ": " + x.Candidates[0].Refusal.Detail
					}
					r := x.Request
					rows = append(rows, []string{when(x.At), r.App, orDash(r.Region), fmt.Sprintf("%dx%d@%d", r.Screen.Width, r.Screen.Height, r.Screen.FPS), why})
				}
				return table(w, "nobody was turned away", []string{"AT", "APP", "REGION", "SIZE", "THE NEAREST"}, rows)
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 100, "at most this many, the newest first")
	return cmd
}
