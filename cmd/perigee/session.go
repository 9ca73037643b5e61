package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
)

func newSession(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "session",
		Short:   "Sessions: streams of applications to users",
		Example: "  perigee session create --app xterm --joinable\n  perigee session list --status active",
	}
	group(cmd)
	cmd.AddCommand(sessionCreate(o), sessionList(o), sessionShow(o), sessionJoin(o), sessionShare(o), sessionExplain(o), sessionDelete(o))
	return cmd
}

// screenFlags give a screen; what is not given keeps its default.
type screenFlags struct{ width, height, fps, density int }

func (s *screenFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&s.width, "width", 0, "width of the picture in pixels (default 1280)")
	f.IntVar(&s.height, "height", 0, "height of the picture in pixels (default 720)")
	f.IntVar(&s.fps, "fps", 0, "frames a second (default 60)")
	f.IntVar(&s.density, "density", 0, "dots per inch (default 240)")
}

func (s *screenFlags) body(cmd *cobra.Command) *api.ScreenBody {
	var b api.ScreenBody
	given := false
	for _, f := range []struct {
		name string
		v    *int
		into **int
	}{{"width", &s.width, &b.Width}, {"height", &s.height, &b.Height}, {"fps", &s.fps, &b.FPS}, {"density", &s.density, &b.Density}} {
		if cmd.Flags().Changed(f.name) {
			*f.into, given = f.v, true
		}
	}
	if !given {
		return nil
	}
	return &b
}

// createFlags are the flags of session create.
type createFlags struct {
	body      api.CreateBody
	screen    screenFlags
	ephemeral bool
	idle      int
	extra     string
	extras    api.RequestExtras
	place     string
	wait      time.Duration
}

func sessionCreate(o *options) *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create --app APP",
		Short: "Place a session on the nearest node with room",
		Example: `  perigee session create --app xterm --joinable --idle-min 10
  perigee session create --app game --width 1920 --height 1080 --fps 60 --codec H264,VP8 --client-address 203.0.113.7`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := f.request(cmd)
			if err != nil {
				return err
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			a, err := c.CreateSession(cmd.Context(), body)
			if err != nil {
				return err
			}
			if a.Perigee.Queue != nil {
				if err := waitForRoom(cmd, c, &a); err != nil {
					return err
				}
			}
			return o.show(cmd, a, func(w io.Writer) error {
				return fields(w, "session", string(a.ID), "status", string(a.Status), "region", a.Region, "node", string(a.Perigee.Node),
					"distance", km(a.Perigee.DistanceKM), "nearest", nearest(a.Perigee), "codec", string(a.Perigee.Codec), "step", a.Perigee.Step, "url", a.URL)
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.body.App, "app", "", "application to run")
	fl.IntVar(&f.body.AppVersion, "app-version", 0, "its version (default the newest)")
	fl.StringVar(&f.body.Region, "region", "", "region to stay in (default any)")
	fl.BoolVar(&f.body.Joinable, "joinable", false, "let another client join after the first has left")
	fl.BoolVar(&f.ephemeral, "ephemeral", true, "forget the session when its client leaves")
	fl.IntVar(&f.idle, "idle-min", 0, "minutes without a client that end it, 0 = never (default 30 when joinable)")
	fl.StringVar(&f.extra, "extra-data", "", "JSON handed to the application")
	fl.StringSliceVar(&f.extras.Codecs, "codec", nil, "wanted codec, preferred first; repeat for more")
	fl.StringVar(&f.extras.ClientAddress, "client-address", "", "address of the user, to place near")
	fl.StringVar(&f.place, "location", "", "place of the user instead, LATITUDE,LONGITUDE in degrees")
	fl.StringVar(&f.extras.IdempotencyKey, "idempotency-key", "", "key that makes a repeated create answer the same session")
	fl.DurationVar(&f.wait, "wait", 0, "how long to wait in the queue when no node has room, like 5m (default: do not wait)")
	f.screen.add(cmd)
	return cmd
}

func (f *createFlags) request(cmd *cobra.Command) (api.CreateBody, error) {
	b := f.body
	if b.App == "" {
		return b, usagef("--app is missing: name the application to run (see perigee app list)")
	}
	b.Ephemeral, b.Screen = &f.ephemeral, f.screen.body(cmd)
	if cmd.Flags().Changed("idle-min") {
		b.IdleMinutes = &f.idle
	}
	if f.extra != "" {
		if !json.Valid([]byte(f.extra)) {
			return b, usagef("--extra-data %q is not JSON", f.extra)
		}
		b.ExtraData = json.RawMessage(f.extra)
	}
	if f.place != "" {
		loc, err := parsePlace(f.place)
		if err != nil {
			return b, err
		}
		f.extras.Location = loc
	}
	if f.wait < 0 || f.wait > api.MaxWaitS*time.Second {
		return b, usagef("--wait must be up to %s, got %s", api.MaxWaitS*time.Second, f.wait)
	}
	f.extras.WaitS = int((f.wait + time.Second - 1) / time.Second)
	b.Perigee = &f.extras
	return b, nil
}

func parsePlace(text string) (*api.LocationBody, error) {
	first, second, ok := strings.Cut(text, ",")
	latitude, err1 := strconv.ParseFloat(strings.TrimSpace(first), 64)
	longitude, err2 := strconv.ParseFloat(strings.TrimSpace(second), 64)
	if !ok || err1 != nil || err2 != nil {
		return nil, usagef("--location %q must be LATITUDE,LONGITUDE, as 52.52,13.40", text)
	}
	return &api.LocationBody{Latitude: &latitude, Longitude: &longitude}, nil
}

func sessionList(o *options) *cobra.Command {
	var q api.SessionQuery
	var status string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List sessions",
		Example: "  perigee session list --status active --sort created_at --order desc --limit 20",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if q.Limit < 0 || q.Offset < 0 {
				return usagef("--limit and --offset must be 0 or more")
			}
			q.Status = api.Status(status)
			c, err := o.client()
			if err != nil {
				return err
			}
			list, total, err := c.Sessions(cmd.Context(), q)
			if err != nil {
				return err
			}
			return o.show(cmd, list, func(w io.Writer) error {
				var rows [][]string
				for _, s := range list {
					rows = append(rows, []string{string(s.ID), s.App, string(s.Status), s.Region, orDash(string(s.Perigee.Node)),
						km(s.Perigee.DistanceKM), yes(s.Perigee.Connected), when(s.Perigee.CreatedAt), s.StatusMessage})
				}
				if err := table(w, "no sessions", []string{"SESSION", "APP", "STATUS", "REGION", "NODE", "DISTANCE", "VIEWER", "CREATED", "MESSAGE"}, rows); err != nil {
					return err
				}
				if len(list) < total {
					_, err = fmt.Fprintf(w, "%d of %d\n", len(list), total)
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&status, "status", "", "only those that are created, active, error, terminating or terminated")
	f.IntVar(&q.Limit, "limit", 0, "at most this many, 0 = all")
	f.IntVar(&q.Offset, "offset", 0, "leave out the first ones")
	f.StringVar(&q.SortBy, "sort", "created_at", "sort by id, app, region, status or created_at")
	f.StringVar(&q.SortOrder, "order", "asc", "asc or desc")
	return cmd
}

func sessionShow(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "show SESSION",
		Short:   "Show a session",
		Example: "  perigee session show c25k8fh3pn6a8q46taug",
		Args:    exactly("the session's id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			s, err := c.Session(cmd.Context(), api.SessionID(args[0]))
			if err != nil {
				return err
			}
			return o.show(cmd, s, func(w io.Writer) error {
				p := s.Perigee
				ended := ""
				if !p.EndedAt.IsZero() {
					ended = when(p.EndedAt)
				}
				return fields(w, "session", string(s.ID), "app", fmt.Sprintf("%s version %d", s.App, p.AppVersion),
					"status", string(s.Status), "message", s.StatusMessage, "account", p.Account, "region", s.Region,
					"queue", queueText(p.Queue), "node", string(p.Node), "distance", km(p.DistanceKM), "rank", nearest(p), "step", p.Step,
					"generation", strconv.FormatUint(uint64(p.Generation), 10), "codec", string(p.Codec), "encoder", string(p.Pool),
					"screen", fmt.Sprintf("%dx%d@%d", p.Screen.Width, p.Screen.Height, p.Screen.FPS), "joinable", yes(s.Joinable),
					"viewer", yes(p.Connected), "created", when(p.CreatedAt), "ended", ended)
			})
		},
	}
}

func sessionJoin(o *options) *cobra.Command {
	var s screenFlags
	cmd := &cobra.Command{
		Use:     "join SESSION",
		Short:   "Take a session over from its present client",
		Example: "  perigee session join c25k8fh3pn6a8q46taug --width 1920 --height 1080",
		Args:    exactly("the session's id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			a, err := c.JoinSession(cmd.Context(), api.SessionID(args[0]), api.JoinBody{Screen: s.body(cmd)})
			if err != nil {
				return err
			}
			return o.show(cmd, a, func(w io.Writer) error {
				return fields(w, "session", args[0], "node", string(a.Perigee.Node), "url", a.URL)
			})
		},
	}
	s.add(cmd)
	return cmd
}

func sessionDelete(o *options) *cobra.Command {
	var e client.End
	cmd := &cobra.Command{
		Use:     "delete SESSION...",
		Short:   "End sessions",
		Example: "  perigee session delete c25k8fh3pn6a8q46taug --sync\n  perigee session delete $(perigee session list --json | jq -r '.[].id')",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("the session's id is missing; see %s --help", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			return o.deleteSessions(cmd.Context(), cmd, c, args, e)
		},
	}
	cmd.Flags().BoolVar(&e.Force, "force", false, "do not wait for the application to end by itself")
	cmd.Flags().BoolVar(&e.Sync, "sync", false, "return when they have ended")
	return cmd
}

func (o *options) deleteSessions(ctx context.Context, cmd *cobra.Command, c *client.Client, args []string, e client.End) error {
	word := "will end"
	if e.Sync {
		word = "ended"
	}
	if len(args) == 1 {
		if err := c.DeleteSession(ctx, api.SessionID(args[0]), e); err != nil {
			return err
		}
		return o.done(cmd, "session %s %s", args[0], word)
	}
	ids := make([]api.SessionID, len(args))
	for i, a := range args {
		ids[i] = api.SessionID(a)
	}
	a, err := c.DeleteSessions(ctx, ids, e)
	if err != nil {
		return err
	}
	if err := o.show(cmd, a, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%d sessions %s\n", len(a.Deleted), word)
		return err
	}); err != nil {
		return err
	}
	if n := len(a.Errors); n > 0 {
		return fmt.Errorf("%d of %d sessions could not be deleted; the first, %s: %s", n, len(ids), a.Errors[0].Session, a.Errors[0].Message)
	}
	return nil
}
