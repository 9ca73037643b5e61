package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api/client"
)

// options are the flags that every command has.
type options struct {
	ca     string
	socket string
	url    string
	token  string
	json   bool
}

const defaultData = "/var/lib/perigee"

// newRoot builds the command line; extra commands are those that run servers.
func newRoot(extra ...func(*options) *cobra.Command) *cobra.Command {
	var o options
	root := &cobra.Command{
		Use:   "perigee",
		Short: "Stream applications from the node nearest to each user",
		Long: `Perigee streams applications from the node nearest to each user.

Commands that administer a running scheduler talk to its admin socket, which
root and the scheduler's own user may use, or with --url and --token to its API.`,
		Example: `  perigee dev
  perigee account create acme
  perigee app put xterm -- xterm -fa Monospace
  perigee session create --app xterm`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	group(root)
	f := root.PersistentFlags()
	f.StringVar(&o.socket, "socket", defaultSocket(os.Getenv("PERIGEE_DATA")), "admin socket of the scheduler")
	f.StringVar(&o.url, "url", os.Getenv("PERIGEE_URL"), "base of the API to use instead of the socket (or PERIGEE_URL)")
	f.StringVar(&o.ca, "ca", os.Getenv("PERIGEE_CA"), "authority of the API's certificate, PEM, where the system does not know it (or PERIGEE_CA)")
	f.StringVar(&o.token, "token", "", "token for --url (better in PERIGEE_TOKEN, where other users do not see it)")
	f.BoolVar(&o.json, "json", false, "print JSON")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newAccount(&o), newApp(&o), newInstance(&o), newSession(&o), newShare(&o), newNode(&o), newReplay(&o), newRefusals(&o), newSnapshot(&o), newVersion(&o))
	for _, add := range extra {
		root.AddCommand(add(&o))
	}
	return root
}

func defaultSocket(data string) string {
	if data == "" {
		data = defaultData
	}
	return filepath.Join(data, "admin.sock")
}

// group makes a command of commands: without one it shows help, with an
// unknown one it fails.
func group(cmd *cobra.Command) {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("%q is not a command of %q; see %s --help", args[0], cmd.CommandPath(), cmd.CommandPath())
		}
		return cmd.Help()
	}
}

// client connects as the flags say.
func (o *options) client() (*client.Client, error) {
	if o.url == "" {
		if o.token != "" {
			return nil, usagef("--token goes with --url; the socket needs none")
		}
		return client.New(client.Config{Socket: o.socket})
	}
	token := o.token
	if token == "" {
		token = os.Getenv("PERIGEE_TOKEN")
	}
	c, err := client.New(client.Config{URL: o.url, Token: token, CA: o.ca})
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// atMostOne wants one argument or none.
func atMostOne(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usagef("%q is too much: give %s alone, or nothing; see %s --help", args[1], what, cmd.CommandPath())
		}
		return nil
	}
}

// exactly wants a number of arguments and says what they are.
func exactly(what ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(what) {
			return usagef("%s is missing; see %s --help", what[len(args)], cmd.CommandPath())
		}
		if len(args) > len(what) {
			return usagef("%q is too much; see %s --help", args[len(what)], cmd.CommandPath())
		}
		return nil
	}
}
