package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/cmd/run/control"
)

// joinScheduler is `perigee scheduler join`: a new replica of a running cluster.
func joinScheduler(o *options) *cobra.Command {
	var cfg control.Config
	var level string
	cmd := &cobra.Command{
		Use:   "join URL",
		Short: "Run a new scheduler that joins the cluster at URL",
		Long: `Run a new scheduler that joins the cluster whose API is at URL. It listens at
first; its vote counts once it has kept up for the settling time. The token,
best in PERIGEE_TOKEN, needs the right admin. Once it is a member, it is
started again with "perigee scheduler" and the same --raft-listen.`,
		Example: "  PERIGEE_TOKEN=pgt_… perigee scheduler join http://10.0.0.1:8080 --data /var/lib/perigee --raft-listen 10.0.0.4:7000 --tls-cert s4.pem --tls-key s4.key --tls-ca ca.pem",
		Args:    exactly("the URL of a member's API"),
		RunE: func(cmd *cobra.Command, args []string) error {
			log, err := newLogger(level)
			if err != nil {
				return err
			}
			cfg.Log, cfg.Version, cfg.Join, cfg.JoinToken = log, version(), args, o.token
			if cfg.JoinToken == "" {
				cfg.JoinToken = os.Getenv("PERIGEE_TOKEN")
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return control.Run(ctx, cfg)
		},
	}
	schedulerFlags(cmd, &cfg, &level)
	_ = cmd.Flags().MarkHidden("join") // the argument says it
	return cmd
}

func membersCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "members",
		Short:   "List the schedulers of the cluster",
		Example: "  perigee scheduler members",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			list, err := c.Replicas(cmd.Context())
			if err != nil {
				return err
			}
			return o.show(cmd, list, func(w io.Writer) error {
				var rows [][]string
				for _, v := range list {
					rows = append(rows, []string{v.Replica.ID, replicaRole(v), yes(v.Reached), v.Replica.Raft, orDash(v.Replica.API),
						strconv.FormatUint(v.Index, 10), strconv.Itoa(v.Replica.Entry), orDash(v.Replica.Version)})
				}
				return table(w, "no schedulers", []string{"REPLICA", "ROLE", "REACHED", "RAFT", "API", "INDEX", "ENTRIES", "VERSION"}, rows)
			})
		},
	}
}

func replicaRole(v api.ReplicaView) string {
	switch {
	case v.Leader:
		return "leader"
	case v.Voter:
		return "follower"
	default:
		return "settling"
	}
}

func leaveCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "leave [REPLICA]",
		Short: "Take a scheduler out for good, dead or alive; this one by default",
		Long: `Take a scheduler out of the cluster for good, dead or alive; without an
argument the one that answers. It ends by itself. A dead one is replaced by
taking it out and letting a new one join.`,
		Example: "  perigee scheduler leave r-0123456789ab",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			id, err := replicaOrSelf(cmd.Context(), c, args)
			if err != nil {
				return err
			}
			if err := c.RemoveReplica(cmd.Context(), id); err != nil {
				return err
			}
			return o.done(cmd, "scheduler %s left", id)
		},
	}
}

// replicaOrSelf gives the replica that is named, or the one that answers.
func replicaOrSelf(ctx context.Context, c *client.Client, args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	list, err := c.Replicas(ctx)
	if err != nil {
		return "", err
	}
	for _, v := range list {
		if v.Self {
			return v.Replica.ID, nil
		}
	}
	return "", fmt.Errorf("the scheduler that answers is no member; see perigee scheduler members")
}

func transferCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "transfer [REPLICA]",
		Short:   "Hand the leadership to a scheduler, by default to any other",
		Example: "  perigee scheduler transfer\n  perigee scheduler transfer r-0123456789ab",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			to := ""
			if len(args) > 0 {
				to = args[0]
			}
			if err := c.TransferLeadership(cmd.Context(), to); err != nil {
				return err
			}
			return o.done(cmd, "the leadership was handed on")
		},
	}
}
