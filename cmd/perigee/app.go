package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/manifest"
)

func newApp(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "app",
		Short:   "Applications that can be streamed",
		Example: "  perigee app create game.yaml\n  perigee app put xterm -- xterm -fa Monospace\n  perigee app run xterm",
	}
	group(cmd)
	cmd.AddCommand(appCreate(o), appPut(o), appShow(o), appList(o), appPublish(o), appRun(o), appDelete(o), appSchema(o), appPool(o))
	return cmd
}

// appFlags describe an application on the command line.
type appFlags struct {
	file     string
	title    string
	kind     string
	image    string
	env      []string
	network  bool
	cpu      int
	memory   int
	procs    int
	codecs   []string
	readOnly []string
}

func appPut(o *options) *cobra.Command {
	var f appFlags
	cmd := &cobra.Command{
		Use:   "put NAME [flags] [-- COMMAND [ARG...]]",
		Short: "Add an application, or a new version of one",
		Long: `Add an application, or a new version of one, from flags or from a manifest.

A manifest is YAML; several documents add several applications:

  name: xterm
  title: Terminal
  command: [xterm, -fa, Monospace]
  env: {LANG: C.UTF-8}
  network: false
  resources: {cpu_millis: 1000, memory_mib: 512, processes: 64}
  codecs: [H264, VP8]`,
		Example: `  perigee app put xterm -- xterm -fa Monospace
  perigee app put game --title "A game" --network --memory 2048 -- /usr/games/game --fullscreen
  perigee app put boxed --image registry.example.com/game@sha256:… -- /opt/game/run
  perigee app put --file game.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			apps, err := f.apps(cmd, args)
			if err != nil {
				return err
			}
			return putAll(cmd, o, apps, false)
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.file, "file", "f", "", "manifest to read, - for standard input")
	fl.StringVar(&f.title, "title", "", "name shown to people")
	fl.StringVar(&f.kind, "kind", "", "program (default), container, or external for somebody else's provider")
	fl.StringVar(&f.image, "image", "", "OCI image by digest or tag: makes it a container, whose command may be left out")
	fl.StringArrayVar(&f.env, "env", nil, "variable of its environment, NAME=VALUE; repeat for more")
	fl.BoolVar(&f.network, "network", false, "give it the host's network; else it has none")
	fl.IntVar(&f.cpu, "cpu", 0, "thousandths of a core it may use (default 2000)")
	fl.IntVar(&f.memory, "memory", 0, "MiB of memory it may use (default 1024)")
	fl.IntVar(&f.procs, "processes", 0, "processes it may have (default 256)")
	fl.StringSliceVar(&f.codecs, "codec", nil, "codec it may be streamed in, preferred first; repeat for more (default all)")
	fl.StringArrayVar(&f.readOnly, "read-only", nil, "path of the host to show in its sandbox; repeat for more")
	return cmd
}

// apps reads the manifest, or the flags.
func (f *appFlags) apps(cmd *cobra.Command, args []string) ([]api.App, error) {
	if f.file == "" {
		a, err := f.app(cmd, args)
		return []api.App{a}, err
	}
	if len(args) > 0 || len(ownFlags(cmd)) > 1 {
		return nil, usagef("--file says everything: leave the other arguments out")
	}
	if f.file == "-" {
		return readManifest("standard input", cmd.InOrStdin())
	}
	r, err := os.Open(f.file)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	defer func() { _ = r.Close() }() // only read
	return readManifest(f.file, r)
}

// ownFlags are the names of the given flags that only this command has.
func ownFlags(cmd *cobra.Command) []string {
	var out []string
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if cmd.InheritedFlags().Lookup(f.Name) == nil {
			out = append(out, f.Name)
		}
	})
	return out
}

func (f *appFlags) app(cmd *cobra.Command, args []string) (api.App, error) {
	var a api.App
	dash := cmd.ArgsLenAtDash()
	if len(args) == 0 || dash == 0 {
		return a, usagef("the application's name is missing; see %s --help", cmd.CommandPath())
	}
	if len(args) > 1 && dash != 1 {
		return a, usagef("put the command after --, as in: perigee app put %s -- %s", args[0], strings.Join(args[1:], " "))
	}
	a = api.App{
		Name: args[0], Title: f.title, Kind: api.AppKind(f.kind), Command: args[1:], Image: f.image, Network: f.network,
		Resources: api.Resources{CPUMillis: f.cpu, MemoryMiB: f.memory, Processes: f.procs}, ReadOnly: f.readOnly,
	}
	if f.image != "" && f.kind == "" {
		a.Kind = api.AppContainer
	}
	for _, kv := range f.env {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return a, usagef("--env %q must be NAME=VALUE", kv)
		}
		if a.Env == nil {
			a.Env = map[string]string{}
		}
		a.Env[k] = v
	}
	for _, name := range f.codecs {
		codec, err := api.ParseCodec(name)
		if err != nil {
			return a, usagef("--%v", err)
		}
		a.Codecs = append(a.Codecs, codec)
	}
	if _, err := a.Normalize(); err != nil {
		return a, usageError{err}
	}
	return a, nil
}

// readManifest reads applications from YAML.
func readManifest(name string, r io.Reader) ([]api.App, error) {
	list, err := manifest.Read(r)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", name, err)
	}
	return list, nil
}

func appList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the applications",
		Example: "  perigee app list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			list, err := c.Applications(cmd.Context())
			if err != nil {
				return err
			}
			return o.show(cmd, list, func(w io.Writer) error {
				var rows [][]string
				for _, v := range list {
					var command string
					if v.Perigee.App != nil {
						command = strings.TrimSpace(v.Perigee.App.Image + " " + strings.Join(v.Perigee.App.Command, " "))
					}
					rows = append(rows, []string{v.Name, strconv.Itoa(v.Perigee.Version), string(v.Perigee.Kind), orDash(v.Perigee.Title), orDash(command)})
				}
				return table(w, "no applications; add one with \"perigee app put xterm -- xterm\"",
					[]string{"NAME", "VERSION", "KIND", "TITLE", "COMMAND"}, rows)
			})
		},
	}
}

func appDelete(o *options) *cobra.Command {
	var version int
	cmd := &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete an application, whose sessions go on, or one version that nobody runs",
		Example: "  perigee app delete xterm\n  perigee app delete xterm --version 3",
		Args:    exactly("the application's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("version") {
				if err := c.DeleteVersion(cmd.Context(), args[0], version); err != nil {
					return err
				}
				return o.done(cmd, "version %d of application %s deleted", version, args[0])
			}
			if err := c.DeleteApplication(cmd.Context(), args[0]); err != nil {
				return err
			}
			return o.done(cmd, "application %s deleted", args[0])
		},
	}
	cmd.Flags().IntVar(&version, "version", 0, "delete this version only")
	return cmd
}
