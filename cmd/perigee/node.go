package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/edge/certify"
)

func newNode(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "node",
		Short:   "Nodes: the edge hosts that run and stream applications",
		Example: "  perigee node list\n  perigee node drain 8k2v0m1q7r3t5a9c",
	}
	group(cmd)
	cmd.AddCommand(nodeList(o), nodeShow(o),
		nodeDo(o, "drain", "Let a node take no new sessions", "takes no new sessions",
			func(ctx context.Context, c *client.Client, id api.NodeID) error { return c.SetDrain(ctx, id, true) }),
		nodeDo(o, "undrain", "Let a node take new sessions again", "takes new sessions again",
			func(ctx context.Context, c *client.Client, id api.NodeID) error { return c.SetDrain(ctx, id, false) }),
		nodeDo(o, "remove", "Forget a node and free what was reserved on it", "removed",
			func(ctx context.Context, c *client.Client, id api.NodeID) error { return c.RemoveNode(ctx, id) }))
	return cmd
}

func nodeState(v api.NodeView) string {
	switch {
	case v.Node.Lost:
		return "lost"
	case !v.Alive:
		return "silent"
	}
	state := "ready"
	if v.Node.Drain {
		state = "draining"
	}
	switch n := len(v.Alarms); n {
	case 0:
	case 1:
		state += ", 1 alarm"
	default:
		state += fmt.Sprintf(", %d alarms", n)
	}
	return state
}

// alarmFields shows what an operator has to see to.
func alarmFields(list []api.Alarm) (pairs []string) {
	for _, a := range list {
		pairs = append(pairs, "ALARM "+a.Part, fmt.Sprintf("%s; %s (since %s)", a.Reason, a.Remedy, when(a.Since)))
	}
	return pairs
}

func nodeList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the nodes and how busy they are",
		Example: "  perigee node list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			list, err := c.Nodes(cmd.Context())
			if err != nil {
				return err
			}
			return o.show(cmd, list, func(w io.Writer) error {
				var rows [][]string
				for _, v := range list {
					rows = append(rows, []string{string(v.Node.ID), orDash(v.Node.Name), orDash(v.Node.Region), nodeState(v), strconv.Itoa(v.Sessions),
						busy(v), pools(v), orDash(strings.Join(v.Node.Addresses, ",")), when(v.HeardAt)})
				}
				return table(w, "no nodes; start one with \"perigee-edge\" and a token of \"perigee account create edges --right node\"",
					[]string{"NODE", "NAME", "REGION", "STATE", "SESSIONS", "BUSY", "ENCODERS", "ADDRESSES", "HEARD"}, rows)
			})
		},
	}
}

// busy names the part of the node that binds, with its used share.
func busy(v api.NodeView) string {
	if v.Headroom.Binding == "" {
		return "-"
	}
	return fmt.Sprintf("%d%% %s", v.Headroom.Saturation, v.Headroom.Binding)
}

// pools shows what is reserved of each encoder pool.
func pools(v api.NodeView) string {
	out := make([]string, 0, len(v.Node.Pools))
	for _, p := range v.Node.Pools {
		share := uint64(0)
		if p.Macroblocks > 0 {
			share = v.Reserved[p.Pool] * 100 / p.Macroblocks
		}
		out = append(out, fmt.Sprintf("%s %d%%", p.Pool, share))
	}
	if len(out) == 0 {
		return "-"
	}
	return strings.Join(out, ",")
}

// findNode looks a node up by its id or its name.
func findNode(ctx context.Context, c *client.Client, name string) (api.NodeView, error) {
	list, err := c.Nodes(ctx)
	if err != nil {
		return api.NodeView{}, err
	}
	for _, match := range []func(api.NodeView) bool{
		func(v api.NodeView) bool { return string(v.Node.ID) == name },
		func(v api.NodeView) bool { return v.Node.Name == name },
	} {
		if i := slices.IndexFunc(list, match); i >= 0 {
			return list[i], nil
		}
	}
	return api.NodeView{}, fmt.Errorf("node %q does not exist; see perigee node list", name)
}

func nodeShow(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "show NODE",
		Short:   "Show a node, by its id or name",
		Example: "  perigee node show 8k2v0m1q7r3t5a9c",
		Args:    exactly("the node's id or name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			v, err := findNode(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return o.show(cmd, v, func(w io.Writer) error {
				n, place := v.Node, "unknown"
				if n.Location.Known {
					place = fmt.Sprintf("%.3f, %.3f (%s)", n.Location.Latitude, n.Location.Longitude, n.Location.Source)
				}
				pairs := []string{"node", string(n.ID), "name", n.Name, "state", nodeState(v), "region", n.Region, "location", place,
					"addresses", strings.Join(n.Addresses, ", "), "relay", strings.Join(n.Relay, ", "), "version", n.Version,
					"sessions", strconv.Itoa(v.Sessions), "busy", busy(v), "cpu", fmt.Sprintf("%d%%", v.Headroom.CPU),
					"memory", fmt.Sprintf("%d%%", v.Headroom.Memory), "joined", when(n.JoinedAt), "heard", when(v.HeardAt)}
				for _, p := range n.Pools {
					pairs = append(pairs, "encoder "+string(p.Pool),
						fmt.Sprintf("%d of %d macroblocks/s reserved, codecs %v", v.Reserved[p.Pool], p.Macroblocks, p.Codecs))
				}
				pairs = append(append(pairs, alarmFields(v.Alarms)...), partFields(v)...)
				pairs = append(pairs, ownFields(v)...)
				if err := fields(w, append(pairs, engineFields(v.Headroom)...)...); err != nil {
					return err
				}
				return certificate(w, n)
			})
		},
	}
}

// ownFields shows how the node's own stages of the latency fare.
func ownFields(v api.NodeView) (pairs []string) {
	for _, s := range api.OwnStages() {
		d, ok := v.OwnLatency[s]
		if !ok {
			continue
		}
		alarm := ""
		if d.Drifts {
			alarm = "; ALARM: it drifts"
		}
		pairs = append(pairs, "own "+string(s), fmt.Sprintf("%.1f ms at the median, usually %.1f%s", d.RecentMS, d.UsualMS, alarm))
	}
	return pairs
}

// partFields shows what is reserved beside the encoders, and what binds.
func partFields(v api.NodeView) (pairs []string) {
	if full := v.Full(); full.Part != "" {
		pairs = append(pairs, "reserved", fmt.Sprintf("%d%% %s", full.Percent, full.Part))
	}
	for _, p := range v.Parts {
		most := "not known"
		if p.Most > 0 {
			most = strconv.FormatUint(p.Most, 10)
		}
		pairs = append(pairs, strings.TrimSpace("reserved "+string(p.Part)+" "+p.Device), fmt.Sprintf("%d of %s %s", p.Reserved, most, p.Part.Unit()))
	}
	return pairs
}

// engineFields shows what the hardware engines say of themselves now, and what
// is not ours of the machine.
func engineFields(h api.Headroom) (pairs []string) {
	if h.Foreign > 0 {
		pairs = append(pairs, "foreign cpu", fmt.Sprintf("%d%%", h.Foreign))
	}
	if h.ForeignMemory > 0 {
		pairs = append(pairs, "foreign memory", fmt.Sprintf("%d%%", h.ForeignMemory))
	}
	if h.Uplink > 0 {
		pairs = append(pairs, "uplink", fmt.Sprintf("%d%% (foreign %d%%)", h.Uplink, h.ForeignUplink))
	}
	share := func(v int) string {
		if v < 0 {
			return "unknown"
		}
		return fmt.Sprintf("%d%%", v)
	}
	for _, e := range h.Engines {
		pairs = append(pairs, "engine "+e.Engine, fmt.Sprintf("%s, encoder %s (foreign %s), sm %s, vram %s, %d sessions, %.1f ms",
			e.State, share(e.Encoder), share(e.Foreign), share(e.SM), share(e.VRAM), e.Sessions, float64(e.LatencyUS)/1000))
	}
	return pairs
}

// certificate shows what the node's encoders were measured to do.
func certificate(w io.Writer, n api.Node) error {
	if n.Certificate == nil {
		_, err := fmt.Fprintln(w, "\nencoders not certified yet: the figures are estimates")
		return err
	}
	c, err := n.Certificate.Open(n.PublicKey)
	if err != nil {
		_, err = fmt.Fprintf(w, "\nencoders: the certificate is not to be trusted: %v\n", err)
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return certify.Print(w, c)
}

// nodeDo makes one of the commands that change a node.
func nodeDo(o *options, verb, short, done string, do func(context.Context, *client.Client, api.NodeID) error) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " NODE",
		Short:   short + ", by its id or name",
		Example: "  perigee node " + verb + " 8k2v0m1q7r3t5a9c",
		Args:    exactly("the node's id or name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			v, err := findNode(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if err := do(cmd.Context(), c, v.Node.ID); err != nil {
				return err
			}
			return o.done(cmd, "node %s %s", v.Node.ID, done)
		},
	}
}
