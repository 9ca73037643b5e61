package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
)

func appPool(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pool",
		Short: "Instances that are started before anybody asks",
		Long: `Keep instances of an application started in a region, so that a session gets
its picture at once.

Sessions and idle instances together are --always-on, or as many as there are
sessions and --target-idle more, and at most --max. Idle instances hold their
room like sessions, and give it up as soon as a session needs it.`,
		Example: "  perigee app pool set xterm --region home --always-on 2 --target-idle 1 --max 5\n  perigee app pool list\n  perigee app pool delete xterm --region home",
	}
	group(cmd)
	cmd.AddCommand(poolSet(o), poolList(o), poolDelete(o))
	return cmd
}

func poolSet(o *options) *cobra.Command {
	var p api.WarmPool
	var windows []string
	cmd := &cobra.Command{
		Use:   "set NAME --region REGION [flags]",
		Short: "Set how many instances are kept started in a region",
		Long: `Set how many instances of an application are kept started in a region.

A --schedule replaces both counts within its hours; counts left out are 0, which
drains the pool, and days left out are all. The first window that fits holds.`,
		Example: `  perigee app pool set xterm --region home --always-on 2 --target-idle 1 --max 5
  perigee app pool set game --region eu --target-idle 3 --time-zone Europe/Berlin --schedule 22:00-07:00
  perigee app pool set game --region eu --always-on 1 --schedule 'sat-sun 10:00-23:00 always-on=4 target-idle=2'`,
		Args: exactly("the application's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p.App, p.Schedule = args[0], nil
			for _, s := range windows {
				w, err := api.ParsePoolWindow(s)
				if err != nil {
					return usagef("--%v", err)
				}
				p.Schedule = append(p.Schedule, w)
			}
			if p.Region == "" {
				return usagef("--region is missing: name the region to keep instances in; perigee node list shows them")
			}
			if p.AlwaysOn == 0 && p.TargetIdle == 0 && len(p.Schedule) == 0 {
				return usagef("--always-on or --target-idle is missing: how many instances are to be kept? perigee app pool delete removes a pool")
			}
			checked, err := p.Normalize()
			if err != nil {
				return usageError{err}
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			if err := c.SetWarmPool(cmd.Context(), checked); err != nil {
				return err
			}
			return o.show(cmd, checked, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "pool of %s in %s set; perigee app pool list %s shows it fill\n", p.App, p.Region, p.App)
				return err
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&p.Region, "region", "", "region of the nodes that keep them")
	fl.IntVar(&p.AlwaysOn, "always-on", 0, "sessions and idle instances together, whatever the demand")
	fl.IntVar(&p.TargetIdle, "target-idle", 0, "idle instances beyond the sessions that run")
	fl.IntVar(&p.Maximum, "max", 0, "sessions and idle instances up to which some are started (default no bound)")
	fl.Float64Var(&p.WithinMS, "within-ms", 0, "how much farther than the nearest node with room an instance may be (default 10)")
	fl.StringVar(&p.TimeZone, "time-zone", "", "of the schedule, as Europe/Berlin (default UTC)")
	fl.StringArrayVar(&windows, "schedule", nil, "`window` with counts of its own, as 'mon-fri 22:00-07:00 always-on=1'; repeat for more")
	return cmd
}

func poolList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "list [NAME]",
		Short:   "List the pools as they are now",
		Example: "  perigee app pool list\n  perigee app pool list xterm --json",
		Args:    atMostOne("the application's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			list, err := c.WarmPools(cmd.Context(), name)
			if err != nil {
				return err
			}
			return o.show(cmd, list, func(w io.Writer) error {
				var rows [][]string
				for _, p := range list {
					most := "-"
					if p.Maximum > 0 {
						most = strconv.Itoa(p.Maximum)
					}
					rows = append(rows, []string{p.App, p.Region, strconv.Itoa(p.AlwaysOn), strconv.Itoa(p.TargetIdle), most, strconv.Itoa(p.Wanted),
						strconv.Itoa(p.Ready), strconv.Itoa(p.Starting), strconv.Itoa(p.Sessions), orDash(strings.TrimSpace(p.Message))})
				}
				return table(w, "no pools; add one with \"perigee app pool set NAME --region REGION --always-on 1\"",
					[]string{"APP", "REGION", "ALWAYS-ON", "TARGET-IDLE", "MAX", "WANTED", "READY", "STARTING", "SESSIONS", "MESSAGE"}, rows)
			})
		},
	}
}

func poolDelete(o *options) *cobra.Command {
	var region string
	cmd := &cobra.Command{
		Use:     "delete NAME --region REGION",
		Short:   "Keep no instances started any more; sessions go on",
		Example: "  perigee app pool delete xterm --region home",
		Args:    exactly("the application's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if region == "" {
				return usagef("--region is missing: perigee app pool list shows the pools")
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			if err := c.DropWarmPool(cmd.Context(), args[0], region); err != nil {
				return err
			}
			return o.done(cmd, "pool of %s in %s removed", args[0], region)
		},
	}
	cmd.Flags().StringVar(&region, "region", "", "the pool's region")
	return cmd
}
