// Command perigee-edge is the daemon of an edge host, and the same file run
// again as the processes of its sessions: shim, stream, encode, relay and probe.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/node"
	"github.com/perigee-cloud/perigee/edge"
)

func main() {
	root := newRoot()
	if err := root.ExecuteContext(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "perigee-edge:", err)
		os.Exit(1)
	}
}

// newRoot is the daemon, with the other processes as its commands.
func newRoot() *cobra.Command {
	var cfg node.Config
	var level, tokenFile string
	root := &cobra.Command{
		Use:   "perigee-edge",
		Short: "Run an edge: applications, capture, encoding and WebRTC of one host",
		Long: `Run the daemon of an edge host.

SIGINT (Ctrl-C) ends the daemon and every session it runs. SIGTERM ends the
daemon alone: its sessions go on, and the next daemon takes them over.`,
		Example: `  perigee-edge --data /var/lib/perigee-edge --join http://10.0.0.1:8080 --token-file node.token
  perigee-edge --data /var/lib/perigee-edge --join http://10.0.0.1:8080 --region eu-west --location 48.86,2.35 --advertise 203.0.113.7`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Log, err = newLogger(level, os.Stderr); err != nil {
				return err
			}
			if cfg.Token, err = readToken(cfg.Token, tokenFile); err != nil {
				return err
			}
			if cfg.Program, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			cfg.LogLevel, cfg.Version = level, version()
			return runDaemon(cmd.Context(), cfg)
		},
	}
	f := root.Flags()
	f.StringVar(&cfg.Data, "data", "/var/lib/perigee-edge", "directory of the node's keys and sessions")
	f.StringVar(&cfg.CA, "ca", "", "authority of the schedulers' certificates, PEM, where the system does not know it")
	f.StringSliceVar(&cfg.Join, "join", nil, "base URL of a scheduler; repeat for more")
	f.StringVar(&cfg.Token, "token", "", "token that admits the node the first time (better in PERIGEE_JOIN_TOKEN or --token-file)")
	f.StringVar(&tokenFile, "token-file", "", "file that holds the token")
	f.StringVar(&cfg.Name, "name", "", "name shown to people (default: the host's)")
	f.StringVar(&cfg.Region, "region", "", `region of the node (default "default")`)
	f.StringSliceVar(&cfg.Labels, "label", nil, "mark of the node as key=value, which placement policies name; repeat for more")
	f.StringVar(&cfg.Location, "location", "", "latitude,longitude in degrees (default: where its public address is)")
	f.StringSliceVar(&cfg.Advertise, "advertise", nil, "public IP address; repeat for the other family (default: what the schedulers see, looked at every 5 minutes)")
	f.StringVar(&cfg.MediaPorts, "media-ports", "40000-40999", "UDP ports of the streams, one each; 0 = any free one")
	f.StringVar(&cfg.RelayListen, "relay-listen", ":3478", "address of the TURN and STUN relay, UDP and TCP")
	f.StringVar(&cfg.RelayTLS.Listen, "relay-tls-listen", "", "address of TURN over TLS, such as :443, with --relay-host, --relay-cert and --relay-key")
	f.StringVar(&cfg.RelayTLS.Host, "relay-host", "", "host name of the relay's certificate, by which viewers reach this node")
	f.StringVar(&cfg.RelayTLS.Cert, "relay-cert", "", "certificate of TURN over TLS, PEM; read again when it changes")
	f.StringVar(&cfg.RelayTLS.Key, "relay-key", "", "its key, PEM")
	f.StringVar(&cfg.GossipListen, "gossip-listen", ":7946", "address of gossip, TCP and UDP")
	f.Uint64Var(&cfg.CPUCapacity, "cpu-capacity", 0, "what software may encode, in H.264 macroblocks per second, at most what is certified (default: that)")
	f.IntVar(&cfg.Uplink, "uplink-mbps", 0, "speed of the network's way out in Mb/s, of which each viewer's highest bitrate is reserved (default: what the interfaces say, nothing is reserved)")
	f.Float64Var(&cfg.CPURate, "cpu-allocation-rate", 4, "how often each processor may be promised to applications (resources.cpu_millis); 0 = not counted")
	f.Float64Var(&cfg.MemoryRate, "memory-allocation-rate", 2, "how often the memory may be promised to applications (resources.memory_mib); 0 = not counted")
	f.StringVar(&cfg.Certify, "certify", "idle", "measure the encoders while no session runs: idle or never")
	imageFlags(root, &cfg.Images)
	root.PersistentFlags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	root.AddCommand(newShim(&level), newStream(&level), newEncode(&level), newRelay(&level), newProbe())
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

// runDaemon tells Ctrl-C, which ends the sessions, from SIGTERM, which does not.
func runDaemon(ctx context.Context, cfg node.Config) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		for {
			select {
			case s := <-signals:
				if s == os.Interrupt {
					end(edge.ErrEndSessions)
				} else {
					end(errors.New("terminated"))
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	if _, err := edge.Yield(); err != nil {
		cfg.Log.Warn("the daemon does not go after its streams", "error", err)
	}
	err := node.Run(ctx, cfg)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// readToken takes the token from the flag, the file or the environment.
func readToken(flag, file string) (string, error) {
	if file == "" {
		if flag == "" {
			flag = os.Getenv("PERIGEE_JOIN_TOKEN")
		}
		return flag, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read --token-file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func newLogger(level string, w io.Writer) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, api.Invalidf("--log-level", "%q is not a level; use debug, info, warn or error", level)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
