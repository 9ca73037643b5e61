package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/control"
)

// newScheduler is `perigee scheduler`: one replica with its gateway and NATS.
func newScheduler(o *options) *cobra.Command {
	cmd := runScheduler()
	cmd.AddCommand(joinScheduler(o), membersCommand(o), leaveCommand(o), transferCommand(o))
	return cmd
}

// runScheduler runs one replica.
func runScheduler() *cobra.Command {
	var cfg control.Config
	var level string
	cmd := &cobra.Command{
		Use:   "scheduler",
		Short: "Run a scheduler: gateway, placement, replicated state",
		Example: `  perigee scheduler --data /var/lib/perigee
  perigee scheduler --data /var/lib/perigee --listen :443 --public-url https://play.example --trusted-proxy 10.0.0.0/8 --mmdb /var/lib/GeoLite2-City.mmdb`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(level)
			if err != nil {
				return err
			}
			cfg.Log, cfg.Version, cfg.JoinToken = log, version(), os.Getenv("PERIGEE_TOKEN")
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return control.Run(ctx, cfg)
		},
	}
	schedulerFlags(cmd, &cfg, &level)
	return cmd
}

// schedulerFlags are those of a replica, however it becomes a member.
func schedulerFlags(cmd *cobra.Command, cfg *control.Config, level *string) {
	f := cmd.Flags()
	f.StringVar(&cfg.Data, "data", "/var/lib/perigee", "directory of the replica's state")
	f.StringVar(&cfg.Listen, "listen", ":8080", "address of the HTTP API and the player")
	f.StringVar(&cfg.STUNListen, "stun-listen", "", "UDP address where edges learn their public address (default: that of --listen)")
	f.StringVar(&cfg.NATSListen, "nats-listen", ":4222", "address of the embedded NATS, where edges connect")
	f.StringVar(&cfg.NATSURL, "nats-url", "", "external NATS to use instead of the embedded one, nats://user:password@host:4222")
	f.StringVar(&cfg.NATSNodeURL, "nats-node-url", "", "where edges reach the external NATS; with user:password they use that, else their own keys (default: --nats-url without its user)")
	f.StringVar(&cfg.GossipListen, "gossip-listen", ":7946", "address of gossip, TCP and UDP")
	f.StringVar(&cfg.Advertise, "advertise", "", "host at which edges reach NATS and gossip (default: the one they joined by)")
	f.StringVar(&cfg.PublicURL, "public-url", "", "base of the websocket addresses in answers (default: each request's own)")
	f.StringSliceVar(&cfg.TrustedProxies, "trusted-proxy", nil, "address or network whose X-Forwarded-* headers are believed; repeat for more")
	f.StringSliceVar(&cfg.CORSOrigins, "cors-origin", nil, "origin that pages may call from; repeat for more (default: any)")
	f.IntVar(&cfg.MaxRequests, "max-requests", 0, "requests a second over all clients; 0 = no limit")
	f.StringVar(&cfg.Region, "region", "default", "region where clients of unknown place go first")
	f.StringVar(&cfg.MMDB, "mmdb", "", "City-schema MaxMind database; read again when it changes")
	f.StringVar(&cfg.ASN, "asn-mmdb", "", "ASN-schema MaxMind database: clients of one network provider share what is learned of their round trips")
	f.StringVar(&cfg.Networks, "networks", "", "your own table of networks and places: network,latitude,longitude,radius_km,region,asn")
	f.Float64Var(&cfg.TrunkPercent, "trunk-percent", 0, "share of each node's encoders kept for joins and reconnects")
	f.IntVar(&cfg.QueueLength, "queue-length", 1000, "sessions that may wait for room; 0 = none")
	f.IntVar(&cfg.QueueAccount, "queue-account", 0, "sessions of one account that may (default: a quarter of --queue-length)")
	f.DurationVar(&cfg.QueueWait, "queue-wait", 10*time.Minute, "how long one may wait at most")
	f.DurationVar(&cfg.Heartbeat, "heartbeat", time.Second, "how often an edge reports")
	f.DurationVar(&cfg.Lease, "lease", 6*time.Second, "how long a silent edge counts as alive")
	f.StringVar(&cfg.RaftListen, "raft-listen", "", "address for the other replicas, for example 10.0.0.1:7000 (default: there are none)")
	f.StringVar(&cfg.RaftAdvertise, "raft-advertise", "", "address at which they reach it (default: --raft-listen)")
	f.StringVar(&cfg.NATSCluster, "nats-cluster-listen", "", "address for their NATS (default: port 6222 beside --raft-listen)")
	f.StringVar(&cfg.Profile, "profile", "site", "timers between replicas: site, or wan for replicas in several regions")
	f.IntVar(&cfg.Expect, "bootstrap-expect", 0, "how many new replicas found the cluster together; 3 or 5")
	f.StringSliceVar(&cfg.Peers, "peer", nil, "--raft-listen address of another replica; repeat for each")
	f.StringSliceVar(&cfg.Join, "join", nil, "base URL of a member's API that lets this new replica in; with a token of the right admin in PERIGEE_TOKEN")
	f.DurationVar(&cfg.Settle, "settle", 10*time.Second, "how long a new replica keeps up before its vote counts")
	f.StringVar(&cfg.APICert, "api-cert", "", "certificate of the HTTP API and of the edges' NATS, PEM with its chain; read again when it changes (default: plain)")
	f.StringVar(&cfg.APIKey, "api-key", "", "its key, PEM")
	f.StringVar(&cfg.TLSCert, "tls-cert", "", "certificate shown to other replicas, PEM; read again when it changes")
	f.StringVar(&cfg.TLSKey, "tls-key", "", "its key, PEM")
	f.StringVar(&cfg.TLSCA, "tls-ca", "", "authority that the other replicas' certificates are checked against, PEM")
	f.StringVar(level, "log-level", "info", "debug, info, warn or error")
}

// newLogger writes text to standard error.
func newLogger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, api.Invalidf("--log-level", "%q is not a level; use debug, info, warn or error", level)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}

// interruptible gives a context that ends with the first interrupt.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}
