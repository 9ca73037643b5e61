package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
)

func newInstance(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "instance",
		Short:   "Instances: what runs for sessions, or by itself",
		Example: "  perigee instance launch xterm --stream --wait\n  perigee instance list --status running\n  perigee instance logs lab --follow",
	}
	group(cmd)
	cmd.AddCommand(instanceLaunch(o), instanceList(o), instanceShow(o), instanceUpdate(o), instanceLogs(o), instanceExec(o), instancePush(o), instancePull(o), instanceDelete(o))
	return cmd
}

// launchFlags are the flags of instance launch.
type launchFlags struct {
	body   api.LaunchBody
	extras api.LaunchExtras
	screen screenFlags
	node   string
	data   string
	wait   bool
}

func instanceLaunch(o *options) *cobra.Command {
	var f launchFlags
	cmd := &cobra.Command{
		Use:   "launch APP",
		Short: "Launch an instance first, with a stream or without",
		Long: `Launch an instance first. With --stream it gets a session, shown as the tag
session=ID, which "perigee session join" or any client joins; it waits for
clients until it is deleted. Without --stream it has no encoder and can never
be given a stream.`,
		Example: "  perigee instance launch xterm --name lab --stream --wait\n  perigee instance launch xterm --node 8k2v0m1q7r3t5a9c --tag team=games",
		Args:    exactly("the application's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.body.AppID, f.body.Node = args[0], api.NodeID(f.node)
			f.body.Config.Display, f.body.Perigee = f.screen.body(cmd), &f.extras
			if f.data != "" {
				if !json.Valid([]byte(f.data)) {
					return usagef("--user-data is not JSON: text needs quotes of its own, as in --user-data '\"text\"'")
				}
				f.body.UserData = json.RawMessage(f.data)
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			op, err := c.LaunchInstance(cmd.Context(), f.body)
			if err != nil {
				return err
			}
			if f.wait {
				if op, err = c.WaitOperation(cmd.Context(), op.ID); err != nil {
					return err
				}
			}
			return o.showOperation(cmd, op)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.body.Name, "name", "", "name of the instance (default ams-ID)")
	fl.IntVar(&f.body.AppVersion, "app-version", 0, "version of the application (default the published one)")
	fl.BoolVar(&f.body.Config.EnableStreaming, "stream", false, "give it a stream: that cannot be done later")
	fl.StringVar(&f.node, "node", "", "node to run on (default the best one)")
	fl.StringVar(&f.extras.Region, "region", "", "region to stay in")
	fl.IntVar(&f.extras.IdleMinutes, "idle-min", 0, "minutes without a client that end it; 0 never does")
	fl.StringArrayVar(&f.body.Tags, "tag", nil, "tag to find it by, a word or key=value; repeat for more")
	fl.StringVar(&f.data, "user-data", "", "JSON handed to the application")
	fl.BoolVar(&f.wait, "wait", false, "return when it runs or has failed")
	f.screen.add(cmd)
	return cmd
}

// showOperation prints an operation; one that failed is an error.
func (o *options) showOperation(cmd *cobra.Command, op api.OperationView) error {
	err := o.show(cmd, op, func(w io.Writer) error {
		path := slices.Concat(op.Resources["instances"], []string{""})[0]
		_, err := fmt.Fprintf(w, "instance %s: %s %s\n", path[strings.LastIndexByte(path, '/')+1:],
			strings.SplitN(op.ID, "-", 2)[0], strings.ToLower(op.Status))
		return err
	})
	if err == nil && op.StatusCode == api.OperationFailure {
		return fmt.Errorf("the instance failed: %s", op.Err)
	}
	return err
}

func instanceList(o *options) *cobra.Command {
	var q api.InstanceQuery
	var status, node string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List instances, those of sessions included",
		Example: "  perigee instance list\n  perigee instance list --status running --app xterm\n  perigee instance list --tag session=ID",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if status != "" {
				st, err := api.ParseInstanceState(status)
				if err != nil {
					return usageError{err}
				}
				q.Status = &st
			}
			q.Node = api.NodeID(node)
			c, err := o.client()
			if err != nil {
				return err
			}
			list, n, err := c.Instances(cmd.Context(), q)
			if err != nil {
				return err
			}
			return o.show(cmd, list, func(w io.Writer) error {
				var rows [][]string
				for _, v := range list {
					rows = append(rows, []string{string(v.ID), v.Name, v.AppName + " " + strconv.Itoa(v.AppVersion), v.Status,
						orDash(string(v.Node)), yes(v.Config.EnableStreaming), when(time.Unix(v.CreatedAt, 0))})
				}
				if err := table(w, "no instances; \"perigee instance launch xterm\" makes one", []string{"INSTANCE", "NAME", "APP", "STATUS", "NODE", "STREAM", "CREATED"}, rows); err != nil {
					return err
				}
				if len(list) < n {
					_, err := fmt.Fprintf(w, "%d of %d\n", len(list), n)
					return err
				}
				return nil
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&status, "status", "", "created, prepared, started, running, stopped, deleted or error")
	fl.StringVar(&q.App, "app", "", "of this application")
	fl.StringVar(&node, "node", "", "on this node")
	fl.StringVar(&q.Tag, "tag", "", "with this tag")
	fl.IntVar(&q.Limit, "limit", 0, "at most so many; 0 is all")
	return cmd
}

func instanceShow(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "show INSTANCE",
		Short:   "Show an instance by its id or name",
		Example: "  perigee instance show lab",
		Args:    exactly("the instance's id or name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			v, err := c.Instance(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return o.show(cmd, v, func(w io.Writer) error {
				d := v.Perigee
				return fields(w, "instance", string(v.ID), "name", v.Name, "app", fmt.Sprintf("%s version %d", v.AppName, v.AppVersion),
					"status", fmt.Sprintf("%s (%d)", v.Status, v.StatusCode), "why", v.StatusText, "node", string(v.Node), "region", d.Region,
					"stream", yes(v.Config.EnableStreaming), "screen", fmt.Sprintf("%dx%d@%d", d.Screen.Width, d.Screen.Height, d.Screen.FPS),
					"tags", strings.Join(v.Tags, ", "), "protected", onlyIf(d.Protected, "from being deleted"), "idle after", onlyIf(d.IdleMinutes > 0, strconv.Itoa(d.IdleMinutes)+" min"), "account", d.Account, "created", when(time.Unix(v.CreatedAt, 0)), "ended", whenSet(d.EndedAt))
			})
		},
	}
}

func onlyIf(b bool, text string) string {
	if b {
		return text
	}
	return ""
}

func whenSet(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return when(t)
}

func instanceLogs(o *options) *cobra.Command {
	var follow bool
	var tail int
	cmd := &cobra.Command{
		Use:     "logs INSTANCE",
		Short:   "Print what an instance's application wrote, also after its end",
		Example: "  perigee instance logs lab\n  perigee instance logs lab --tail 2000 --follow",
		Args:    exactly("the instance's id or name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if tail < 0 {
				return usagef("--tail must be 0 or more, got %d", tail)
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			if !o.json {
				return c.Log(cmd.Context(), args[0], tail, follow, cmd.OutOrStdout())
			}
			if follow {
				return usagef("--follow goes on and on: leave --json out")
			}
			var b strings.Builder
			if err := c.Log(cmd.Context(), args[0], tail, false, &b); err != nil {
				return err
			}
			return o.show(cmd, map[string]string{"log": b.String()}, nil)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the instance has ended")
	cmd.Flags().IntVar(&tail, "tail", 0, "begin so many bytes before the end; 0 begins with all that is kept")
	return cmd
}

func instanceDelete(o *options) *cobra.Command {
	var force, wait bool
	cmd := &cobra.Command{
		Use:     "delete INSTANCE",
		Short:   "End an instance, and its session with it",
		Example: "  perigee instance delete lab --wait",
		Args:    exactly("the instance's id or name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			op, err := c.DeleteInstance(cmd.Context(), args[0], force)
			if err != nil {
				return err
			}
			if wait {
				if op, err = c.WaitOperation(cmd.Context(), op.ID); err != nil {
					return err
				}
			}
			return o.showOperation(cmd, op)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "do not wait for the application to end by itself")
	cmd.Flags().BoolVar(&wait, "wait", false, "return when it has ended")
	return cmd
}
