package scheduler

import (
	"context"
	"log/slog"
	"time"

	"github.com/perigee-cloud/perigee/api"
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

// Config of a Server. Bus, Data and Log are needed; the rest has defaults.
type Config struct {
	Data string // directory of the Raft log and snapshots
	Log  *slog.Logger
	Bus  Bus
	// Clock tells the time; its readings must be monotonic. nil = time.Now.
	Clock func() time.Time

	Headroom Headroom // nil = what the heartbeats carry
	Locator  Locator  // nil = every address is unknown
	// Kick ends a removed node's connection to the bus; nil = leave it.
	Kick func(api.NodeID) error

	NATSURLs func() []string // told to edges that join
	// Gossip gives members of a region's ring, told to edges that join it.
	Gossip  func(region string) []string
	RingKey []byte // gossip key of a new cluster; nil = draw one

	// RaftListen is where other replicas reach this one; "" keeps the only
	// replica's transport in memory.
	RaftListen string

	DefaultRegion  string        // "" = "default"
	HeartbeatEvery time.Duration // 0 = 1 s
	Lease          time.Duration // a node not heard for so long is lost; 0 = 5 s
	CommandTimeout time.Duration // for an edge's answer to one command; 0 = 1 s
	SweepEvery     time.Duration // 0 = 250 ms
	TicketLife     time.Duration // of tickets and relay credentials; 0 = 24 h
	EndTimeout     time.Duration // of an EndSession that waits; 0 = 20 s
}

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
	if c.Gossip == nil {
		c.Gossip = func(string) []string { return nil }
	}
	if c.DefaultRegion == "" {
		c.DefaultRegion = "default"
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&c.HeartbeatEvery, time.Second}, {&c.Lease, 5 * time.Second}, {&c.CommandTimeout, time.Second},
		{&c.SweepEvery, 250 * time.Millisecond}, {&c.TicketLife, 24 * time.Hour}, {&c.EndTimeout, 20 * time.Second},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
		if *d.v < 0 {
			return c, api.Invalidf("config", "a duration is negative: %s", *d.v)
		}
	}
	if c.Lease < 2*c.HeartbeatEvery {
		return c, api.Invalidf("lease", "must be at least two heartbeats (%s), got %s", 2*c.HeartbeatEvery, c.Lease)
	}
	return c, nil
}
