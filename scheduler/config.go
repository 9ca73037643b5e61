package scheduler

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// Bus carries commands to the edges and their reports and heartbeats back.
type Bus interface {
	// Command delivers one command and gives the edge's answer.
	Command(ctx context.Context, node api.NodeID, c api.Command) (api.Ack, error)
	OnReport(handle func(ctx context.Context, r api.Report) api.Ack) error
	OnHeartbeat(handle func(ctx context.Context, h api.Heartbeat) api.HeartbeatAnswer) error
}

// Headroom is the gossiped live room of the nodes.
type Headroom interface {
	// Latest gives a node's newest measurement and when it came.
	Latest(id api.NodeID) (api.Headroom, time.Time, bool)
}

// Locator finds where an address is; the zero Location when unknown.
type Locator interface {
	Locate(address string) api.Location
}

// Network is how replicas reach each other.
type Network interface {
	// Listen accepts connections at host:port; port 0 takes a free one.
	Listen(address string) (net.Listener, error)
	Dial(ctx context.Context, address string) (net.Conn, error)
}

// Networks finds the autonomous system of an address; 0 when unknown.
type Networks interface {
	ASN(address string) uint32
}

// Config of a Server. Bus, Data and Log are needed; the rest has defaults.
type Config struct {
	Data string // directory of the Raft log and snapshots
	Log  *slog.Logger
	Bus  Bus
	// Clock tells the time; its readings must be monotonic. nil = time.Now.
	Clock func() time.Time

	Headroom Headroom // nil = what the heartbeats carry
	Locator  Locator  // nil = every address is unknown
	Networks Networks // nil = every network is unknown
	// Kick ends a removed node's connection to the bus; nil = leave it.
	Kick func(api.NodeID) error

	NATSURLs func() []string // told to edges that join
	STUN     func() []string // host:port where they learn their address; nil = nowhere
	// Gossip gives members of a region's ring, told to edges that join it.
	Gossip  func(region string) []string
	RingKey []byte // gossip key of a new cluster; nil = draw one

	// RaftListen is host:port where other replicas reach this one; "" keeps the
	// only replica's transport in memory. Without Certificates it must be a
	// loopback address.
	RaftListen    string
	RaftAdvertise string       // host:port that the others dial; "" = RaftListen
	Certificates  Certificates // mutual TLS between replicas; nil = plain TCP
	Network       Network      // nil = this machine's TCP
	Profile       string       // ProfileSite or ProfileWAN; "" = ProfileSite
	// A new replica with Peers (host:port of RaftListen) founds a cluster with
	// them once Expect replicas have found each other, or joins theirs.
	Expect int
	Peers  []string
	// Join asks a member to let this new replica in; nil = it founds its own.
	Join func(ctx context.Context, r api.Replica) error
	// Describe completes what the other replicas are told of this one; nil = nothing.
	Describe func(r *api.Replica)
	// Settle is how long a new replica keeps up before its vote counts; 0 = 10 s.
	Settle time.Duration
	// EntryVersion is the highest version of entries it says that it reads;
	// 0 = state.EntryVersion.
	EntryVersion int

	// QueueLength bounds the sessions that wait for room, 0 = 1,000, negative = none
	// may; QueueAccount those of one account, 0 = a quarter of them; QueueWait how
	// long one may wait, 0 = 10 min.
	QueueLength, QueueAccount int
	QueueWait                 time.Duration
	// WaitAlive is how long a waiting session may go unasked for; 0 = api.WaitAlive.
	WaitAlive time.Duration

	DefaultRegion  string        // "" = "default"
	Trunk          float64       // share of each pool kept for joins and reconnects, 0 to 0.5
	HeartbeatEvery time.Duration // 0 = 1 s
	Lease          time.Duration // a node not heard for so long is lost; 0 = 5 s
	CommandTimeout time.Duration // for an edge's answer to one command; 0 = 1 s
	SweepEvery     time.Duration // 0 = 250 ms
	TicketLife     time.Duration // of tickets and relay credentials; 0 = 24 h
	EndTimeout     time.Duration // of an EndSession that waits; 0 = 20 s
}

const (
	defaultQueue   = 1000
	maxQueueLength = 10_000
)

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Data == "":
		return c, api.Invalidf("data", "is missing: name a directory for the scheduler's state")
	case c.Log == nil:
		return c, api.Invalidf("log", "is missing")
	case c.Bus == nil:
		return c, api.Invalidf("bus", "is missing")
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	none := func() []string { return nil }
	if c.NATSURLs == nil {
		c.NATSURLs = none
	}
	if c.Network == nil {
		c.Network = machine{}
	}
	if c.STUN == nil {
		c.STUN = none
	}
	if c.Gossip == nil {
		c.Gossip = func(string) []string { return nil }
	}
	if c.DefaultRegion == "" {
		c.DefaultRegion = "default"
	}
	if err := c.checkCluster(); err != nil {
		return c, err
	}
	c.EntryVersion = cmp.Or(c.EntryVersion, state.EntryVersion)
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&c.HeartbeatEvery, time.Second}, {&c.Lease, 5 * time.Second}, {&c.CommandTimeout, time.Second},
		{&c.SweepEvery, 250 * time.Millisecond}, {&c.TicketLife, 24 * time.Hour}, {&c.EndTimeout, 20 * time.Second},
		{&c.Settle, 10 * time.Second}, {&c.QueueWait, 10 * time.Minute}, {&c.WaitAlive, api.WaitAlive},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
		if *d.v < 0 {
			return c, api.Invalidf("config", "a duration is negative: %s", *d.v)
		}
	}
	c.QueueLength = cmp.Or(c.QueueLength, defaultQueue)
	c.QueueAccount = cmp.Or(c.QueueAccount, max(c.QueueLength/4, 1))
	if c.QueueLength > maxQueueLength || c.QueueAccount < 0 {
		return c, api.Invalidf("queue", "holds 1 to %d sessions, got %d, %d of one account", maxQueueLength, c.QueueLength, c.QueueAccount)
	}
	if !(c.Trunk >= 0 && c.Trunk <= 0.5) { // a NaN is neither
		return c, api.Invalidf("trunk", "must be a share of 0 to 0.5, got %v", c.Trunk)
	}
	if c.Lease < 2*c.HeartbeatEvery {
		return c, api.Invalidf("lease", "must be at least two heartbeats (%s), got %s", 2*c.HeartbeatEvery, c.Lease)
	}
	return c, nil
}

// checkCluster refuses what would leave the replicas open or split.
func (c Config) checkCluster() error {
	switch c.Profile {
	case "", ProfileSite, ProfileWAN:
	default:
		return api.Invalidf("--profile", "%q is not a profile; use %s or %s", c.Profile, ProfileSite, ProfileWAN)
	}
	if c.RaftListen == "" {
		if c.Expect > 1 || len(c.Peers) > 0 || c.Join != nil {
			return api.Invalidf("--raft-listen", "is missing: other replicas reach this one there, for example 10.0.0.1:7000")
		}
		return nil
	}
	host, _, err := net.SplitHostPort(c.RaftListen)
	if err != nil {
		return api.Invalidf("--raft-listen", "%q is not host:port, for example 10.0.0.1:7000", c.RaftListen)
	}
	ip := net.ParseIP(host)
	if c.Certificates == nil && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return api.Invalidf("--raft-listen", "%q is open to the network: give --tls-cert, --tls-key and --tls-ca, or listen on 127.0.0.1", c.RaftListen)
	}
	at := cmp.Or(c.RaftAdvertise, c.RaftListen)
	if host, _, err := net.SplitHostPort(at); err != nil {
		return api.Invalidf("--raft-advertise", "%q is not host:port, for example 10.0.0.1:7000", at)
	} else if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return api.Invalidf("--raft-advertise", "is missing: --raft-listen %s names no host that the others can dial", c.RaftListen)
	}
	switch {
	case c.Expect < 0 || c.Expect > 7:
		return api.Invalidf("--bootstrap-expect", "must be 1 to 7 replicas, 3 or 5 are usual, got %d", c.Expect)
	case c.Expect > 1 && len(c.Peers) == 0:
		return api.Invalidf("--peer", "is missing: name the other replicas' --raft-listen addresses")
	case c.Join != nil && (c.Expect > 1 || len(c.Peers) > 0):
		return api.Invalidf("--join", "goes without --bootstrap-expect and --peer: a replica joins a cluster or founds one")
	}
	return nil
}
