package main

import (
	"context"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
)

func newAccount(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "account",
		Short:   "Service accounts and their tokens",
		Example: "  perigee account create acme\n  perigee account page-token acme --app xterm --uses 5 --ttl 1h",
	}
	group(cmd)
	cmd.AddCommand(accountCreate(o), accountList(o), accountDelete(o), accountToken(o), accountPageToken(o), accountRevoke(o), accountPolicy(o))
	return cmd
}

// tokenFlags are the flags of the commands that make a token.
type tokenFlags struct {
	rights []string
	app    string
	uses   int
	ttl    time.Duration
}

func (t *tokenFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&t.rights, "right", nil, "right of the token; repeat for more: sessions, on_behalf, create, join, node, admin (default sessions,on_behalf)")
	f.StringVar(&t.app, "app", "", "restrict the token to one application")
	f.IntVar(&t.uses, "uses", 0, "how often it may create or join; 0 = not counted")
	f.DurationVar(&t.ttl, "ttl", 0, "how long it is good for, like 720h; 0 = one year")
}

func (t *tokenFlags) spec(account string) api.TokenSpec {
	s := api.TokenSpec{Account: account, App: t.app, Uses: t.uses, TTL: t.ttl}
	for _, r := range t.rights {
		s.Rights = append(s.Rights, api.Right(r))
	}
	return s
}

func accountCreate(o *options) *cobra.Command {
	var t tokenFlags
	cmd := &cobra.Command{
		Use:     "create NAME",
		Short:   "Make an account and its first token",
		Example: "  perigee account create acme\n  perigee account create edges --right node --ttl 24h",
		Args:    exactly("the account's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.makeToken(cmd, t.spec(args[0]), (*client.Client).CreateAccount)
		},
	}
	t.add(cmd)
	return cmd
}

func accountToken(o *options) *cobra.Command {
	var t tokenFlags
	cmd := &cobra.Command{
		Use:     "token NAME",
		Short:   "Make a further token of an account",
		Example: "  perigee account token acme --ttl 720h",
		Args:    exactly("the account's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.makeToken(cmd, t.spec(args[0]), (*client.Client).CreateToken)
		},
	}
	t.add(cmd)
	return cmd
}

func accountPageToken(o *options) *cobra.Command {
	var app string
	var uses int
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:     "page-token NAME --app APP",
		Short:   "Make a token that is safe in a web page",
		Long:    "Make a token that may only create and join sessions of one application, a few times, for a while.",
		Example: "  perigee account page-token acme --app xterm --uses 5 --ttl 1h",
		Args:    exactly("the account's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case app == "":
				return usagef("--app is missing: name the application that the page shows")
			case uses < 1:
				return usagef("--uses must be 1 or more, got %d", uses)
			case ttl <= 0:
				return usagef("--ttl must be a time like 1h, got %v", ttl)
			}
			spec := api.TokenSpec{Account: args[0], Rights: []api.Right{api.RightCreate, api.RightJoin}, App: app, Uses: uses, TTL: ttl}
			return o.makeToken(cmd, spec, (*client.Client).CreateToken)
		},
	}
	f := cmd.Flags()
	f.StringVar(&app, "app", "", "the application that the page shows")
	f.IntVar(&uses, "uses", 1, "how often it may create or join")
	f.DurationVar(&ttl, "ttl", time.Hour, "how long it is good for")
	return cmd
}

func (o *options) makeToken(cmd *cobra.Command, spec api.TokenSpec,
	make func(*client.Client, context.Context, api.TokenSpec) (api.TokenAnswer, error)) error {
	c, err := o.client()
	if err != nil {
		return err
	}
	a, err := make(c, cmd.Context(), spec)
	if err != nil {
		return err
	}
	return o.show(cmd, a, func(w io.Writer) error {
		return fields(w, "account", a.Grant.Account, "token", a.Token, "token id", a.Grant.TokenID,
			"rights", rights(a.Grant.Rights), "app", a.Grant.App, "uses", usesText(a.Grant.Uses), "expires", when(a.Grant.Expires),
			"note", "the token is shown only now")
	})
}

func rights(list []api.Right) string {
	out := make([]string, len(list))
	for i, r := range list {
		out[i] = string(r)
	}
	return strings.Join(out, ",")
}

// usesText is empty for a token whose uses are not counted.
func usesText(n int) string {
	if n < 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func accountList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List accounts and their tokens' ids",
		Example: "  perigee account list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			list, err := c.Accounts(cmd.Context())
			if err != nil {
				return err
			}
			return o.show(cmd, list, func(w io.Writer) error {
				var rows [][]string
				for _, a := range list {
					if len(a.Tokens) == 0 {
						rows = append(rows, []string{a.Name, "-", "-", "-", "-", "-"})
					}
					for _, g := range a.Tokens {
						rows = append(rows, []string{a.Name, g.TokenID, rights(g.Rights), orDash(g.App), orDash(usesText(g.Uses)), when(g.Expires)})
					}
				}
				return table(w, "no accounts; make one with \"perigee account create NAME\"",
					[]string{"ACCOUNT", "TOKEN ID", "RIGHTS", "APP", "USES", "EXPIRES"}, rows)
			})
		},
	}
}

func accountDelete(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete an account and all its tokens",
		Example: "  perigee account delete acme",
		Args:    exactly("the account's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			if err := c.DeleteAccount(cmd.Context(), args[0]); err != nil {
				return err
			}
			return o.done(cmd, "account %s deleted", args[0])
		},
	}
}

func accountRevoke(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "revoke NAME TOKEN-ID",
		Short:   "Take a token back",
		Example: "  perigee account revoke acme 5f1c0e6c2f9a",
		Args:    exactly("the account's name", "the token's id (see perigee account list)"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			if err := c.RevokeToken(cmd.Context(), args[0], args[1]); err != nil {
				return err
			}
			return o.done(cmd, "token %s of %s revoked", args[1], args[0])
		},
	}
}
