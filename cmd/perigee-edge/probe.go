package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/edge/certify"
	"github.com/perigee-cloud/perigee/edge/gpu"
	"github.com/perigee-cloud/perigee/edge/gpu/nvml"
	"github.com/perigee-cloud/perigee/edge/probe"
)

// newProbe measures the machine's encoders; its own commands are the processes
// that enter C for it, and for the daemon.
func newProbe() *cobra.Command {
	var asJSON, full bool
	var data string
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Measure what this machine's encoders can do",
		Long: `Measure what this machine's encoders can do, by encoding a noisy picture.

The quick measurement takes less than 15 seconds. With --data the result is
compared with the stored certificate, signed with the node's key and stored; the
daemon does the same by itself while no session runs.`,
		Example: "  perigee-edge probe\n  perigee-edge probe --full --json\n  perigee-edge probe --data /var/lib/perigee-edge",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := terminable(cmd.Context())
			defer stop()
			program, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			return runProbe(ctx, cmd.OutOrStdout(), program, data, full, asJSON)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print the certificate as JSON")
	f.BoolVar(&full, "full", false, "hold each load for 3 seconds instead of 0.3")
	f.StringVar(&data, "data", "", "the node's data directory: sign and store the certificate there")
	cmd.AddCommand(newProbeInventory(), newProbeEngine(), newProbeWatch())
	return cmd
}

func runProbe(ctx context.Context, w io.Writer, program, data string, full, asJSON bool) error {
	command := certify.SelfCommand(program)
	inv := certify.Take(ctx, command)
	cfg := certify.Config{Command: command, Inventory: inv, Full: full}
	if !asJSON {
		if err := certify.PrintInventory(w, inv); err != nil {
			return err
		}
	}
	var id *edge.Identity
	if data != "" {
		var err error
		if id, err = edge.OpenIdentity(data); err != nil {
			if errors.Is(err, edge.ErrInUse) {
				err = fmt.Errorf("%w: it measures by itself while no session runs; leave --data out to measure beside it", err)
			}
			return err
		}
		defer func() { _ = id.Close() }() // only a lock
		cfg.Node = id.ID
	}
	c := certify.Measure(ctx, cfg)
	if id != nil {
		path := filepath.Join(data, certify.File)
		before, _, err := certify.Load(path, id.Public())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			fmt.Fprintln(os.Stderr, "perigee-edge: the stored certificate is replaced:", err)
		}
		c.Alarms = certify.Compare(before, c)
		if c.State != api.CertificateInterrupted {
			if _, err := certify.Save(path, c, id.Key); err != nil {
				return err
			}
		}
	} else {
		c.Alarms = certify.Compare(api.Certificate{}, c)
	}
	if asJSON {
		if err := printJSON(w, c, inv); err != nil {
			return err
		}
	} else if err := certify.Print(w, c); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("the measurement was cut off")
	}
	return nil
}

// printJSON writes what the tables say: the certificate's fields, and the
// inventory beside them.
func printJSON(w io.Writer, c api.Certificate, inv gpu.Inventory) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(struct {
		api.Certificate
		Inventory gpu.Inventory `json:"inventory"`
	}{c, inv}); err != nil {
		return fmt.Errorf("print certificate: %w", err)
	}
	return nil
}

func newProbeInventory() *cobra.Command {
	var library string
	cmd := &cobra.Command{
		Use: "inventory", Short: "List the machine's encoders as JSON", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return json.NewEncoder(os.Stdout).Encode(probe.Inventory(cmd.Context(), version(), library))
		},
	}
	cmd.Flags().StringVar(&library, "nvml", "", "the driver's library (default: where the loader finds it)")
	return cmd
}

func newProbeEngine() *cobra.Command {
	var engine, pool, codec, device string
	var phase time.Duration
	var yield, fast bool
	cmd := &cobra.Command{
		Use: "engine", Short: "Measure one codec on one engine", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := api.ParseCodec(codec)
			if err != nil {
				return err
			}
			if yield { // whoever else wants the processors has them
				const nice = 10
				if err := unix.Setpriority(unix.PRIO_PROCESS, 0, nice); err != nil {
					return fmt.Errorf("lower own priority: %w", err)
				}
			}
			ctx, stop := terminable(cmd.Context())
			defer stop()
			return json.NewEncoder(os.Stdout).Encode(probe.Measure(ctx, probe.Engine(engine, api.Pool(pool), device, c, phase, fast)))
		},
	}
	f := cmd.Flags()
	f.StringVar(&engine, "engine", "cpu", "name of the engine")
	f.StringVar(&pool, "pool", "cpu", "nvenc, vaapi or cpu")
	f.StringVar(&device, "device", "", "the processor of a hardware pool")
	f.StringVar(&codec, "codec", "H264", "codec")
	f.DurationVar(&phase, "phase", time.Second, "how long each load is held")
	f.BoolVar(&fast, "fast", false, "measure the faster preset, too, where there is one")
	f.BoolVar(&yield, "yield", false, "give way to other programs")
	return cmd
}

// newProbeWatch reads the graphics processors each second, one line of JSON
// each, until its output closes: the daemon's way to NVML.
func newProbeWatch() *cobra.Command {
	var library string
	var renders []string
	var every, relist time.Duration
	cmd := &cobra.Command{
		Use: "watch", Short: "Read the graphics processors each second", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := terminable(cmd.Context())
			defer stop()
			return probe.Watch(ctx, os.Stdout, nvml.Open(library), &gpu.RenderMeter{Root: "/", Paths: renders}, every, relist)
		},
	}
	cmd.Flags().StringVar(&library, "nvml", "", "the driver's library (default: where the loader finds it)")
	cmd.Flags().StringSliceVar(&renders, "render", nil, "render nodes of VA-API, in the order of their names")
	cmd.Flags().DurationVar(&every, "every", time.Second, "time between two readings")
	cmd.Flags().DurationVar(&relist, "relist", 10*time.Second, "time after which the devices are listed anew")
	return cmd
}
