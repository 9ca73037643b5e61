package main

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/manifest"
)

func appCreate(o *options) *cobra.Command {
	var stage bool
	cmd := &cobra.Command{
		Use:   "create MANIFEST",
		Short: "Add applications, or new versions of them, from a manifest",
		Long: `Add applications, or new versions of them, from a manifest in YAML; several
documents add several applications. Unknown fields, wrong units and impossible
sizes are refused by their line. A version that is put again makes no new one.

  name: game
  command: [game, --fullscreen]
  resources: {cpu_millis: 2000, memory_mib: 1024, disk_mib: 512}
  video: {width: 1280, height: 720, max_fps: 60, content: motion}
  permissions: {network: egress}
  hooks: {pre_start: {command: [mkdir, -p, saves], timeout_s: 10}}
  on_exit: {restart: on-failure}

"perigee app schema" prints the JSON Schema of all fields, for editors.`,
		Example: "  perigee app create game.yaml\n  perigee app create game.yaml --stage\n  perigee app create - < game.yaml",
		Args:    exactly("the manifest's file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f := appFlags{file: args[0]}
			apps, err := f.apps(cmd, nil)
			if err != nil {
				return err
			}
			return putAll(cmd, o, apps, stage)
		},
	}
	cmd.Flags().BoolVar(&stage, "stage", false, "do not publish: only sessions that ask for the version get it")
	return cmd
}

// putAll adds applications and says which versions they got.
func putAll(cmd *cobra.Command, o *options, apps []api.App, stage bool) error {
	c, err := o.client()
	if err != nil {
		return err
	}
	put := c.PutApplication
	if stage {
		put = c.StageApplication
	}
	var done []api.AppView
	for _, a := range apps {
		v, err := put(cmd.Context(), a)
		if err != nil {
			return fmt.Errorf("put %s: %w", a.Name, err)
		}
		done = append(done, v)
	}
	return o.show(cmd, done, func(w io.Writer) error {
		for _, v := range done {
			text := "application %s is at version %d\n"
			if stage {
				text = "application %s has version %d, not published; \"perigee app publish %[1]s %[2]d\" makes it the default\n"
			}
			if _, err := fmt.Fprintf(w, text, v.Name, v.Perigee.Version); err != nil {
				return err
			}
		}
		return nil
	})
}

func appShow(o *options) *cobra.Command {
	var version int
	var asManifest bool
	cmd := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show an application and its versions",
		Example: "  perigee app show xterm\n  perigee app show xterm --manifest --version 2 > xterm.yaml",
		Args:    exactly("the application's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			v, err := c.Application(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if version == 0 {
				version = v.Perigee.Version
			}
			if asManifest {
				text, err := c.Manifest(cmd.Context(), args[0], version)
				if err != nil {
					return err
				}
				return o.show(cmd, api.ManifestView{Manifest: text}, func(w io.Writer) error {
					_, err := io.WriteString(w, text)
					return err
				})
			}
			return o.show(cmd, v, func(w io.Writer) error { return showApp(w, v) })
		},
	}
	cmd.Flags().IntVar(&version, "version", 0, "version to show as a manifest (default the published one)")
	cmd.Flags().BoolVar(&asManifest, "manifest", false, "print the manifest")
	return cmd
}

func showApp(w io.Writer, v api.AppView) error {
	var command, network, encoder, size, restart string
	if a := v.Perigee.App; a != nil {
		r := a.Resources
		command, network, encoder = strings.Join(a.Command, " "), string(a.Permissions.Network), string(r.Encoder)
		size = fmt.Sprintf("%d millicores, %d MiB memory, %d processes", r.CPUMillis, r.MemoryMiB, r.Processes)
		if r.DiskMiB > 0 {
			size += fmt.Sprintf(", %d MiB disk", r.DiskMiB)
		}
		restart = string(a.OnExit.Restart)
	}
	var versions []string
	for _, x := range v.Perigee.Versions {
		text := strconv.Itoa(x.Version)
		switch {
		case x.Default:
			text += " (default)"
		case !x.Published:
			text += " (not published)"
		}
		versions = append(versions, text)
	}
	return fields(w, "name", v.Name, "title", v.Perigee.Title, "kind", string(v.Perigee.Kind), "version", strconv.Itoa(v.Perigee.Version),
		"command", command, "resources", size, "encoder", encoder, "network", network, "restart", restart, "versions", strings.Join(versions, ", "))
}

func appPublish(o *options) *cobra.Command {
	var back bool
	cmd := &cobra.Command{
		Use:     "publish NAME VERSION",
		Short:   "Publish a version, or take it back; the last published one is the default",
		Example: "  perigee app publish xterm 3\n  perigee app publish xterm 3 --withdraw",
		Args:    exactly("the application's name", "the version"),
		RunE: func(cmd *cobra.Command, args []string) error {
			version, err := strconv.Atoi(args[1])
			if err != nil || version < 1 {
				return usagef("%q must be the number of a version; see perigee app show %s", args[1], args[0])
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			v, err := c.PublishVersion(cmd.Context(), args[0], version, !back)
			if err != nil {
				return err
			}
			return o.show(cmd, v, func(w io.Writer) error {
				text := "version %d of application %s is published\n"
				if back {
					text = "version %d of application %s is not published any more\n"
				} else if !v.Default {
					text = "version %d of application %s is published, but a later one is the default\n"
				}
				_, err := fmt.Fprintf(w, text, version, args[0])
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&back, "withdraw", false, "take it back: only sessions that ask for it get it")
	return cmd
}

// pageTokenLife is how long the player's page may start sessions.
const pageTokenLife = 12 * time.Hour

func appRun(o *options) *cobra.Command {
	var account, at string
	var print bool
	cmd := &cobra.Command{
		Use:   "run NAME",
		Short: "Open the player with an application",
		Long: `Make a token for this application that holds for 12 hours and open the player
in the desktop's browser; without one, or with --print, print its address.`,
		Example: "  perigee app run xterm\n  perigee app run xterm --player http://stream.example.com:8080 --print",
		Args:    exactly("the application's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			base, err := url.Parse(strings.TrimRight(firstOf(at, o.url), "/"))
			if err != nil || base.Host == "" {
				return usagef("--player %q must be the address of the player, like http://127.0.0.1:8080", firstOf(at, o.url))
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			if _, err := c.Application(cmd.Context(), args[0]); err != nil {
				return err
			}
			t, err := c.CreateToken(cmd.Context(), api.TokenSpec{
				Account: account, Rights: []api.Right{api.RightCreate, api.RightJoin}, App: args[0], TTL: pageTokenLife,
			})
			if err != nil {
				return err
			}
			base.Path += "/"
			base.RawQuery = url.Values{"app": {args[0]}, "token": {t.Token}}.Encode()
			where := base.String()
			opened := !print && !o.json && openBrowser(where)
			return o.show(cmd, map[string]string{"url": where}, func(w io.Writer) error {
				text := "open %s\n"
				if opened {
					text = "opened %s\n"
				}
				_, err := fmt.Fprintf(w, text, where)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&account, "account", "player", "account of the sessions; made where it is missing")
	cmd.Flags().StringVar(&at, "player", "", "address of the player (default --url, else http://127.0.0.1:8080)")
	cmd.Flags().BoolVar(&print, "print", false, "only print the address")
	return cmd
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return "http://127.0.0.1:8080"
}

// openBrowser opens an address on the desktop, where there is one.
func openBrowser(address string) bool {
	if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
		return false
	}
	return exec.Command("xdg-open", address).Run() == nil
}

func appSchema(*options) *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON Schema of manifests, for editors",
		Example: "  perigee app schema > perigee.schema.json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(cmd.OutOrStdout(), manifest.Schema)
			return err
		},
	}
}
