package api

// Need is what a session asks of a node.
type Need struct {
	App    string
	Region string // "" = any
	Screen Screen
	Codecs []Codec // acceptable, preferred first
	Client Location
	// Probes are round trips that the client measured.
	Probes []Probe
	// Network of the client, for regions of demand and for the atlas: its address;
	// "" when unknown.
	Network string
	ASN     uint32 // autonomous system of that address; 0 = unknown
	// Encoder says which pools may encode; "" = any.
	Encoder EncoderChoice
	// Policy is the application's and the account's together; nil = the nearest
	// node with room.
	Policy *PlacementPolicy
	// Parts is what the application takes beside an encoder; Counted says that the
	// bitrate of its stream is reserved too.
	Parts   Parts
	Counted bool
	// MoreViewers are those of its shares: each takes the uplink once more.
	MoreViewers uint32
	// Trunk lets the session use the share that is kept for joins.
	Trunk bool
}

// RefusalCode says why a candidate was refused.
type RefusalCode string

// Why a node cannot host a session.
const (
	RefusedRegion   RefusalCode = "region"   // another region was asked for
	RefusedDrain    RefusalCode = "drain"    // takes no new sessions
	RefusedLost     RefusalCode = "lost"     // not heard within its lease
	RefusedCodec    RefusalCode = "codec"    // no pool encodes a wanted codec
	RefusedEncoder  RefusalCode = "encoder"  // not enough macroblocks per second left
	RefusedSessions RefusalCode = "sessions" // the encoder's session limit is reached
	RefusedHeadroom RefusalCode = "headroom" // live measurements say the node is busy
	RefusedNoNodes  RefusalCode = "no_nodes" // no node has joined
	RefusedLatency  RefusalCode = "latency"  // above the policy's ceiling
	RefusedLabel    RefusalCode = "label"    // a label is missing or forbidden
	RefusedSize     RefusalCode = "size"     // more than a whole pool or part of the node carries
	RefusedCPU      RefusalCode = "cpu"      // the applications' processors are reserved
	RefusedMemory   RefusalCode = "memory"   // so is its memory
	RefusedUplink   RefusalCode = "uplink"   // so is its way out
	RefusedVRAM     RefusalCode = "vram"     // no graphics processor has so much memory left
	RefusedKept     RefusalCode = "kept"     // its room is kept for one that has waited long
)

// Refusal is one candidate that could not be taken, and why.
type Refusal struct {
	Node   NodeID      `json:"node,omitempty"`
	Region string      `json:"region,omitempty"`
	Code   RefusalCode `json:"code"`
	Detail string      `json:"detail"`
}

// Placement is why a session runs where it does.
type Placement struct {
	Rank       int     `json:"rank"`        // 1 = the nearest node
	DistanceKM float64 `json:"distance_km"` // great circle; negative when a location is unknown
	EstimateMS float64 `json:"estimate_ms"` // round trip; negative when unknown
	ErrorMS    float64 `json:"error_ms"`
	Source     string  `json:"source"` // where the estimate came from: "probe", "silent", "atlas", "asn", "distance", "unknown"
	// Step of the ladder that the session came down to; "" = as it was asked for.
	Step string `json:"step,omitempty"`
	// ExtraMS is how much longer the round trip is than to the best node there is,
	// with room or not; 0 for rank 1.
	ExtraMS float64 `json:"extra_ms,omitempty"`
}

// DemandCell counts what was turned away in one minute: planners need it and it
// cannot be recovered later.
type DemandCell struct {
	Minute int64       `json:"minute"` // Unix minutes
	Region string      `json:"region"`
	App    string      `json:"app"`
	Codec  Codec       `json:"codec"`
	Size   string      `json:"size"` // "1280x720@60"
	Reason RefusalCode `json:"reason"`
	Count  uint64      `json:"count"`
}

// Probe is one round trip that a client measured to a node's relay.
type Probe struct {
	Node        NodeID  `json:"node"`
	RoundTripMS float64 `json:"round_trip_ms"` // above 0
	// Silent says that nothing came back within RoundTripMS: it is at least that.
	Silent bool `json:"silent,omitempty"`
}

// MaxProbes bounds the probes of one create; SilentMS is when a client gives one up.
const (
	MaxProbes = 8
	SilentMS  = 250
)
