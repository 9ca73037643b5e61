package api

import (
	"slices"
	"time"
)

// Pool is a kind of encoder on a node that reservations are made on.
type Pool string

// The pools of a node.
const (
	PoolNVENC Pool = "nvenc"
	PoolVAAPI Pool = "vaapi"
	PoolCPU   Pool = "cpu"
	// PoolNone is of instances without a stream: it reserves nothing.
	PoolNone Pool = "none"
)

// Location is a place on Earth with its error: degrees, kilometres.
// The zero Location is unknown.
type Location struct {
	Latitude  float64 `json:"latitude"`
	Longitude float64 `json:"longitude"`
	RadiusKM  float64 `json:"radius_km,omitempty"`
	Known     bool    `json:"known"`
	// Source says where it came from: "client", "mmdb", "table", "operator".
	Source string `json:"source,omitempty"`
	City   string `json:"city,omitempty"`
}

// Capacity is what one pool of a node may carry.
type Capacity struct {
	Pool        Pool    `json:"pool"`
	Macroblocks uint64  `json:"macroblocks_per_s"` // of H.264, per second; of the cheapest codec where the pool has no H.264
	Sessions    int     `json:"sessions"`          // encoder sessions at once; 0 = no limit
	Codecs      []Codec `json:"codecs"`
	// Factors are what the node certified of its encoders' cost; a codec that is
	// not listed costs what Cost says, a preset that is not is not offered.
	Factors []CostFactor `json:"cost_factors,omitempty"`
}

// CostFactor is what one macroblock of a codec costs by a preset, in thousandths
// of the pool's unit.
type CostFactor struct {
	Codec       Codec  `json:"codec"`
	Preset      Preset `json:"preset,omitempty"`
	Thousandths uint32 `json:"thousandths"`
}

// MaxFactor bounds a cost factor.
const MaxFactor = 100_000

// Cost gives what a stream takes of the pool, in its unit. A preset that the pool
// does not offer costs what the default does.
func (c Capacity) Cost(codec Codec, preset Preset, s Screen) uint64 {
	return Scaled(Macroblocks(s.Width, s.Height, s.FPS), c.thousandths(codec, preset))
}

func (c Capacity) thousandths(codec Codec, preset Preset) uint64 {
	for _, p := range []Preset{preset, PresetDefault} {
		if f, ok := c.factor(codec, p); ok {
			return f
		}
	}
	if c.Pool == PoolCPU {
		return softwareCost(codec)
	}
	return 1000
}

// factor gives a cost that the node certified itself.
func (c Capacity) factor(codec Codec, preset Preset) (thousandths uint64, ok bool) {
	for _, f := range c.Factors {
		if f.Codec == codec && f.Preset == preset && f.Thousandths > 0 {
			return uint64(f.Thousandths), true
		}
	}
	return 0, false
}

func (c Capacity) encodes(codec Codec) bool { return slices.Contains(c.Codecs, codec) }

// Node is an edge host as the schedulers know it.
type Node struct {
	ID        NodeID     `json:"id"`
	Name      string     `json:"name"`
	PublicKey []byte     `json:"public_key"` // Ed25519
	Region    string     `json:"region"`
	Location  Location   `json:"location"`
	Addresses []string   `json:"addresses"` // public addresses, one per family, for ICE and TURN
	RelayPort int        `json:"relay_port"`
	Relay     []string   `json:"relay"` // TURN and STUN URLs of the node's relay
	Pools     []Capacity `json:"pools"`
	Boot      string     `json:"boot"` // id of the daemon's current start
	Drain     bool       `json:"drain"`
	Version   string     `json:"version"`
	// RelaySecret signs TURN passwords; only the node and the schedulers hold it.
	RelaySecret []byte    `json:"-"`
	JoinedAt    time.Time `json:"joined_at"`
	Lost        bool      `json:"lost"`
	// Labels are the operator's own marks, which policies name.
	Labels map[string]string `json:"labels,omitempty"`
	// Machine is what the node has beside its encoders; nil = nothing is known.
	Machine *Machine `json:"machine,omitempty"`
	// Certificate is what the node's encoders were measured to do; nil until then.
	Certificate *SignedCertificate `json:"certificate,omitempty"`
}

// NodeJoin is what an edge says of itself when its daemon starts. Node's
// RelaySecret travels beside it because Node never shows it.
type NodeJoin struct {
	Node        Node   `json:"node"`
	RelaySecret []byte `json:"relay_secret"`
	// Signature is Ed25519 by the node's key over JoinPayload.
	Signature []byte `json:"signature"`
	// Token admits a node the first time; a known key needs none.
	Token string `json:"token,omitempty"`
}

// NodeJoined is what a joining edge needs to take part.
type NodeJoined struct {
	Node          Node     `json:"node"` // as recorded, with a location if one was found
	NATS          []string `json:"nats"`
	Gossip        []string `json:"gossip"` // addresses of ring members
	RingKey       []byte   `json:"ring_key"`
	TicketKey     []byte   `json:"ticket_key"` // Ed25519 public key that checks tickets
	HeartbeatMS   int      `json:"heartbeat_ms"`
	LeaseMS       int      `json:"lease_ms"`
	PublicAddress string   `json:"public_address"` // the address the request came from
	// STUN lists where schedulers answer STUN, "host:port"; an unspecified host is
	// the one that the node joined by.
	STUN []string `json:"stun,omitempty"`
	// Schedulers are the base URLs of the schedulers that a node may join by.
	Schedulers []string `json:"schedulers,omitempty"`
}

// JoinPayload is what NodeJoin.Signature signs: the node's key and boot id.
func JoinPayload(n Node) []byte {
	return append(append([]byte("perigee-join-1\x00"), n.PublicKey...), n.Boot...)
}
