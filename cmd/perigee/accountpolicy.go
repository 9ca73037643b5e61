package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/perigee-cloud/perigee/api"
)

func accountPolicy(o *options) *cobra.Command {
	var file string
	var clear bool
	cmd := &cobra.Command{
		Use:   "policy NAME [--set FILE | --clear]",
		Short: "Show or set where an account's sessions may run",
		Long: `Show or set where an account's new sessions may run, beside what their
applications say.

What either requires or forbids holds; of two ceilings the lower one. The order,
what is preferred and the ladder are the account's where it says so, else the
application's. "trunk: true" lets the account use the share of each node that
--trunk-percent keeps. FILE is YAML or JSON, - the standard input.`,
		Example: "  perigee account policy acme\n  perigee account policy acme --set policy.yaml\n  echo 'trunk: true' | perigee account policy acme --set -",
		Args:    exactly("the account's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file != "" && clear {
				return usagef("--set and --clear exclude each other")
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			switch {
			case clear:
				if err := c.SetAccountPolicy(cmd.Context(), args[0], nil); err != nil {
					return err
				}
				return o.done(cmd, "account %s has no policy of its own", args[0])
			case file != "":
				p, err := readAccountPolicy(file, cmd.InOrStdin())
				if err != nil {
					return err
				}
				if err := c.SetAccountPolicy(cmd.Context(), args[0], p); err != nil {
					return err
				}
				return o.done(cmd, "policy of account %s set: it holds for its next sessions", args[0])
			}
			p, err := c.AccountPolicy(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return o.show(cmd, p, func(w io.Writer) error {
				if p == (api.AccountPolicy{}) {
					_, err := fmt.Fprintf(w, "account %s has no policy of its own\n", args[0])
					return err
				}
				return yaml.NewEncoder(w).Encode(p)
			})
		},
	}
	cmd.Flags().StringVar(&file, "set", "", "file of the policy, YAML or JSON; - is the standard input")
	cmd.Flags().BoolVar(&clear, "clear", false, "take the policy away")
	return cmd
}

// readAccountPolicy reads a policy; an empty file is a mistake.
func readAccountPolicy(file string, stdin io.Reader) (*api.AccountPolicy, error) {
	p, err := readStrict[api.AccountPolicy]("--set", file, stdin)
	if err == nil && p == nil {
		return nil, usagef("--set %s is empty: use --clear to take the policy away", file)
	}
	return p, err
}
