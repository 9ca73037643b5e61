package main

import (
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
)

func newShare(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "share",
		Short:   "Shares: who takes part in a session beside its client",
		Example: "  perigee share list --session-id c25k8fh3pn6a8q46taug\n  perigee share delete c25k8fh3pn6a8q46taug-1",
	}
	group(cmd)
	cmd.AddCommand(shareList(o), shareShow(o), shareUpdate(o), shareDelete(o))
	return cmd
}

func sessionShare(o *options) *cobra.Command {
	var body api.ShareBody
	var seat api.Seat
	var control bool
	var rights []string
	var expiry string
	cmd := &cobra.Command{
		Use:   "share SESSION",
		Short: "Make a link for others to watch a session, or to drive it too",
		Example: `  perigee session share c25k8fh3pn6a8q46taug --description "for Ann"
  perigee session share c25k8fh3pn6a8q46taug --control --expiry 2h
  perigee session share c25k8fh3pn6a8q46taug --right input`,
		Args: exactly("the session's id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			seat.Role = api.RoleViewer
			if control || len(rights) > 0 {
				seat.Role = api.RoleControl
			}
			for _, r := range rights {
				seat.Rights = append(seat.Rights, api.ViewerRight(r))
			}
			body.Perigee = &seat
			if expiry != "" {
				at, err := parseExpiry(expiry)
				if err != nil {
					return err
				}
				body.ExpiryAt = at.Unix()
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			x, err := c.ShareSession(cmd.Context(), api.SessionID(args[0]), body)
			if err != nil {
				return err
			}
			return o.show(cmd, x, func(w io.Writer) error { return showShare(w, x) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&body.Description, "description", "", "whom or what it is for")
	f.BoolVar(&control, "control", false, "let them drive it too, with every right (default: watch only)")
	f.StringSliceVar(&rights, "right", nil, "what they may do, if not all: input, data (channels to the application), microphone; repeat for more")
	f.StringVar(&expiry, "expiry", "", "a duration like 2h, a date, or a time like 2026-12-24T18:00:00Z (default 12h, at most 30 days)")
	return cmd
}

// parseExpiry reads a duration from now, a date (its end, here) or a time.
func parseExpiry(text string) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(d), nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	if day, err := time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
		return day.AddDate(0, 0, 1), nil
	}
	return time.Time{}, usagef("--expiry %q is no duration like 2h, no date like 2026-12-24 and no time like 2026-12-24T18:00:00Z", text)
}

func mayText(s api.Seat) string {
	if s.Role == api.RoleViewer {
		return "watch"
	}
	if len(s.Rights) == 0 {
		return "control"
	}
	var words []string
	for _, r := range s.Rights {
		words = append(words, string(r))
	}
	return strings.Join(words, ", ")
}

func showShare(w io.Writer, x api.ShareView) error {
	return fields(w, "share", x.ID, "session", string(x.SessionID), "description", x.Description, "may", mayText(x.Perigee.Seat),
		"expires", when(time.Unix(x.ExpiryAt, 0)), "link", x.Perigee.Link, "url", x.URL)
}

func shareList(o *options) *cobra.Command {
	var q api.ShareQuery
	var session string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List shares",
		Example: "  perigee share list --session-id c25k8fh3pn6a8q46taug",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q.Session = api.SessionID(session)
			c, err := o.client()
			if err != nil {
				return err
			}
			list, _, err := c.Shares(cmd.Context(), q)
			if err != nil {
				return err
			}
			return o.show(cmd, list, func(w io.Writer) error {
				var rows [][]string
				for _, x := range list {
					rows = append(rows, []string{x.ID, mayText(x.Perigee.Seat), when(time.Unix(x.CreatedAt, 0)), when(time.Unix(x.ExpiryAt, 0)), x.Description})
				}
				return table(w, "no shares", []string{"SHARE", "MAY", "CREATED", "EXPIRES", "DESCRIPTION"}, rows)
			})
		},
	}
	cmd.Flags().StringVar(&session, "session-id", "", "only those of this session")
	return cmd
}

func shareShow(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "show SHARE",
		Short:   "Show a share with its link",
		Example: "  perigee share show c25k8fh3pn6a8q46taug-1",
		Args:    exactly("the share's id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			x, err := c.Share(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return o.show(cmd, x, func(w io.Writer) error { return showShare(w, x) })
		},
	}
}

func shareUpdate(o *options) *cobra.Command {
	var description, expiry string
	cmd := &cobra.Command{
		Use:     "update SHARE",
		Short:   "Change a share's description or expiry",
		Example: "  perigee share update c25k8fh3pn6a8q46taug-1 --expiry 24h",
		Args:    exactly("the share's id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var body api.ShareChangeBody
			if cmd.Flags().Changed("description") {
				body.Description = &description
			}
			if expiry != "" {
				at, err := parseExpiry(expiry)
				if err != nil {
					return err
				}
				unix := at.Unix()
				body.ExpiryAt = &unix
			}
			if body == (api.ShareChangeBody{}) {
				return usagef("nothing is to be changed: give --description or --expiry")
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			x, err := c.ChangeShare(cmd.Context(), args[0], body)
			if err != nil {
				return err
			}
			return o.show(cmd, x, func(w io.Writer) error { return showShare(w, x) })
		},
	}
	cmd.Flags().StringVar(&description, "description", "", "whom or what it is for")
	cmd.Flags().StringVar(&expiry, "expiry", "", "a duration like 2h, a date, or a time like 2026-12-24T18:00:00Z")
	return cmd
}

func shareDelete(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "delete SHARE",
		Short:   "Take a share back; who came by it is cut off",
		Example: "  perigee share delete c25k8fh3pn6a8q46taug-1",
		Args:    exactly("the share's id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			if err := c.RevokeShare(cmd.Context(), args[0]); err != nil {
				return err
			}
			return o.done(cmd, "share %s is taken back", args[0])
		},
	}
}
