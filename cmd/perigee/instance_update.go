package main

import (
	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
)

func instanceUpdate(o *options) *cobra.Command {
	var tags []string
	var untag, protect, unprotect, joinable bool
	var idle int
	cmd := &cobra.Command{
		Use:   "update INSTANCE",
		Short: "Change an instance's tags, protection, idle time, or whether it can be joined",
		Long: `Change an instance while it runs; what is not given stays. The tags that are
given replace all of its own. A protected instance is not deleted, not even by
force, until its protection is taken away; its end by itself, by its idle time
or with its node is not held up.`,
		Example: "  perigee instance update lab --tag team=games --tag demo\n  perigee instance update lab --protect\n  perigee instance update lab --unprotect --idle-min 30 --joinable=false",
		Args:    exactly("the instance's id or name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			given := cmd.Flags().Changed
			switch {
			case len(ownFlags(cmd)) == 0:
				return usagef("nothing to change: give --tag, --no-tags, --protect, --unprotect, --joinable or --idle-min")
			case given("tag") && untag:
				return usagef("--tag and --no-tags exclude each other")
			case protect && unprotect:
				return usagef("--protect and --unprotect exclude each other")
			}
			var b api.InstanceChangeBody
			var more api.InstanceChangeExtras
			if given("tag") || untag {
				tags = append([]string{}, tags...)
				b.Tags = &tags
			}
			if protect || unprotect {
				more.Protected = &protect
			}
			if given("joinable") {
				more.Joinable = &joinable
			}
			if given("idle-min") {
				more.IdleMinutes = &idle
			}
			if more != (api.InstanceChangeExtras{}) {
				b.Perigee = &more
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			v, err := c.ChangeInstance(cmd.Context(), args[0], b)
			if err != nil {
				return err
			}
			if o.json {
				return o.show(cmd, v, nil)
			}
			return o.done(cmd, "instance %s changed", v.Name)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&tags, "tag", nil, "tag to find it by, a word or key=value; repeat for more")
	fl.BoolVar(&untag, "no-tags", false, "take all of its own tags away")
	fl.BoolVar(&protect, "protect", false, "keep it from being deleted")
	fl.BoolVar(&unprotect, "unprotect", false, "let it be deleted again")
	fl.BoolVar(&joinable, "joinable", true, "whether its session can be joined; false ends it when its client leaves")
	fl.IntVar(&idle, "idle-min", 0, "minutes without a client that end it, from now on; 0 never does")
	return cmd
}
