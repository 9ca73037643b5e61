// Package control builds a scheduler from its configuration: location, bus,
// gossip, replica, gateway and their listeners, and runs them as one.
package control

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// Config of one scheduler. Addresses are host:port; port 0 takes a free one.
type Config struct {
	Data           string   // directory of the replica's log, snapshots and sockets
	Listen         string   // HTTP API and player
	STUNListen     string   // UDP, where edges learn their public address; "" = that of Listen
	NATSListen     string   // embedded NATS; unused with NATSURL
	NATSURL        string   // an external NATS instead of the embedded one
	NATSNodeURL    string   // the same for edges; with a user, they use that instead of their keys
	GossipListen   string   // memberlist, TCP and UDP
	Advertise      string   // host at which edges reach NATS and gossip; "" = the host they joined by
	PublicURL      string   // base of the websocket addresses in answers; "" = each request's own
	TrustedProxies []string // networks whose X-Forwarded-* are believed
	CORSOrigins    []string // origins that pages may call from; empty = any
	MaxRequests    int      // requests a second over all clients; 0 = no limit
	Region         string   // region where clients of unknown place go first
	TrunkPercent   float64  // share of each node kept for joins and reconnects
	QueueLength    int      // sessions that may wait for room; 0 = none
	QueueAccount   int      // of one account; 0 = a quarter
	QueueWait      time.Duration
	MMDB           string // City-schema MaxMind database; "" = none
	ASN            string // ASN-schema MaxMind database; "" = none
	Networks       string // the operator's own table of networks; "" = none
	Heartbeat      time.Duration
	Lease          time.Duration
	// Other replicas; all are "" or nil for the only one.
	RaftListen    string   // host:port for the other replicas; "" = there are none
	RaftAdvertise string   // host:port that they dial; "" = RaftListen
	NATSCluster   string   // host:port of NATS for theirs; "" = port 6222 of RaftListen's host
	Profile       string   // of Raft's timers: site or wan
	Expect        int      // replicas that found the cluster together
	Peers         []string // their RaftListen addresses
	Join          []string // base URLs of members that may let this new replica in
	JoinToken     string   // with the right admin, for Join
	Settle        time.Duration
	APICert       string // PEM files: TLS on the API and on the edges' NATS; "" = plain
	APIKey        string
	TLSCert       string // PEM files: mutual TLS between the replicas
	TLSKey        string
	TLSCA         string
	front         *certificates // of APICert; nil = plain
	peerHost      string        // host at which the other replicas reach this one

	Version string
	Log     *slog.Logger
	Ready   func(Runtime) // called once everything listens; may be nil
}

// Runtime is where a running scheduler is reached; it stands in
// <data>/runtime.json while it runs.
type Runtime struct {
	API    string `json:"api"`    // base URL on this host
	Socket string `json:"socket"` // admin socket
	NATS   string `json:"nats"`
	Gossip string `json:"gossip"`
	PID    int    `json:"pid"`
}

// check fills what may be left out and refuses what cannot work.
func (c Config) check() (Config, error) {
	if c.Data == "" {
		return c, api.Invalidf("--data", "is missing: name a directory for the replica's state")
	}
	var err error
	if c.Data, err = filepath.Abs(c.Data); err != nil {
		return c, fmt.Errorf("find data directory: %w", err)
	}
	for _, a := range []struct{ flag, value string }{
		{"--listen", c.Listen}, {"--nats-listen", c.NATSListen}, {"--gossip-listen", c.GossipListen},
	} {
		if _, _, err := net.SplitHostPort(a.value); err != nil {
			return c, api.Invalidf(a.flag, "%q is not host:port, for example 0.0.0.0:8080 or :8080", a.value)
		}
	}
	if c.STUNListen != "" {
		if _, _, err := net.SplitHostPort(c.STUNListen); err != nil {
			return c, api.Invalidf("--stun-listen", "%q is not host:port, for example 0.0.0.0:3478 or :3478", c.STUNListen)
		}
	}
	if c.Region == "" {
		c.Region = "default"
	}
	if !(c.TrunkPercent >= 0 && c.TrunkPercent <= 50) { // a NaN is neither
		return c, api.Invalidf("--trunk-percent", "must be 0 to 50, got %v", c.TrunkPercent)
	}
	if c.QueueLength < 0 || c.QueueAccount < 0 {
		return c, api.Invalidf("--queue-length", "and --queue-account must be 0 or more, got %d and %d", c.QueueLength, c.QueueAccount)
	}
	if c.Heartbeat <= 0 || c.Lease < 2*c.Heartbeat {
		return c, api.Invalidf("--lease", "must be at least twice --heartbeat, or one late heartbeat loses a node")
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return c, fmt.Errorf("make data directory: %w", err)
	}
	return c.checkCluster()
}

// Socket is the admin socket of a scheduler with this data directory.
func Socket(data string) string { return filepath.Join(data, "admin.sock") }
