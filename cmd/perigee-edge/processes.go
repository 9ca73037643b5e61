package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/encoder"
	"github.com/perigee-cloud/perigee/edge/image"
	"github.com/perigee-cloud/perigee/edge/instance"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/edge/relay"
	"github.com/perigee-cloud/perigee/edge/stream"
	"github.com/perigee-cloud/perigee/media/rtc"
)

// The processes of a session are started by the daemon; they log to a file in
// the session's folder.

func newShim(level *string) *cobra.Command {
	var dir string
	var images image.Config
	cmd := &cobra.Command{
		Use:   "shim",
		Short: "Run one instance: X server, sound server, sandbox, application (started by the daemon)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(*level, os.Stderr)
			if err != nil {
				return err
			}
			ctx, stop := terminable(cmd.Context())
			defer stop()
			return instance.RunShim(ctx, instance.ShimConfig{Dir: local.Session(dir), Images: images, Log: log})
		},
	}
	dirFlag(cmd, &dir)
	imageFlags(cmd, &images)
	cmd.Flags().StringVar(&images.Locks, "image-locks", "", "folder where the node's instances note the images they use")
	return cmd
}

// imageFlags are the daemon's and the shim's alike.
func imageFlags(cmd *cobra.Command, c *image.Config) {
	f := cmd.Flags()
	f.StringVar(&c.Socket, "containerd", image.DefaultSocket, "socket of the containerd that keeps the images of containers; none = run no containers")
	f.StringVar(&c.Credentials, "registry-credentials", "", "docker config.json with the registries' users, readable by its owner alone")
	f.IntVar(&c.MaxMiB, "image-cache-mib", image.DefaultMaxMiB, "what unpacked images may take; those used least recently make room")
	f.IntVar(&c.SpareMiB, "disk-spare-mib", image.DefaultSpareMiB, "what images leave free on containerd's disk")
}

func newStream(level *string) *cobra.Command {
	var dir, ports string
	cmd := &cobra.Command{
		Use:   "stream",
		Short: "Stream one session: signalling, WebRTC, input (started by the daemon)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(*level, os.Stderr)
			if err != nil {
				return err
			}
			udp, err := rtc.ParsePorts(ports)
			if err != nil {
				return api.Invalidf("--ports", "%v", err)
			}
			ctx, stop := terminable(cmd.Context())
			defer stop()
			folder := local.Session(dir)
			// A packet goes through one goroutine after the other: with one processor
			// they hand it on without waking threads.
			runtime.GOMAXPROCS(1)
			return stream.Run(ctx, stream.Config{Dir: folder, Ports: udp, Advertise: folder.Run().Addresses(), Log: log})
		},
	}
	dirFlag(cmd, &dir)
	cmd.Flags().StringVar(&ports, "ports", "40000-40999", "UDP ports to take one of; 0 = any free one")
	return cmd
}

func newEncode(level *string) *cobra.Command {
	return &cobra.Command{
		Use:   "encode",
		Short: "Capture and encode one stream (started by the stream process)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(*level, os.Stderr)
			if err != nil {
				return err
			}
			const socket = 3 // where the stream process left its end
			conn, err := encoder.Inherited(socket)
			if err != nil {
				return err
			}
			ctx, stop := terminable(cmd.Context())
			defer stop()
			return encoder.Run(ctx, encoder.Config{Socket: conn, Log: log})
		},
	}
}

func newRelay(level *string) *cobra.Command {
	var cfg relay.Config
	var run string
	cmd := &cobra.Command{
		Use:   "relay",
		Short: "Run the node's TURN and STUN relay (started by the daemon)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Log, err = newLogger(*level, os.Stderr); err != nil {
				return err
			}
			cfg.Run = local.Run(run)
			ctx, stop := terminable(cmd.Context())
			defer stop()
			return relay.Run(ctx, cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Listen, "listen", ":3478", "address, UDP and TCP")
	f.StringVar(&cfg.TLSListen, "tls-listen", "", "address of TURN over TLS")
	f.StringVar(&cfg.Host, "host", "", "host name that its certificate must be of")
	f.StringVar(&cfg.Cert, "cert", "", "its certificate, PEM")
	f.StringVar(&cfg.Key, "key", "", "the certificate's key, PEM")
	f.StringVar(&run, "run", "", "run directory of the node's sessions")
	f.StringVar(&cfg.SecretFile, "secret", "", "file with the node's relay secret")
	return cmd
}

func dirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", "", "folder of the session")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if *dir == "" {
			return api.Invalidf("--dir", "is missing: this process is started by the daemon")
		}
		return nil
	}
}

// terminable gives a context that ends with SIGTERM or SIGINT.
func terminable(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
}
