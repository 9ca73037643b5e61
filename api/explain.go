package api

import "time"

// Explanation is why a session runs where it does, and all that is needed to
// decide it again by another policy.
type Explanation struct {
	Session SessionID    `json:"session"`
	At      time.Time    `json:"at"`
	Request PlacementAsk `json:"request"`
	// Policy is the application's at that time.
	Policy *PlacementPolicy `json:"policy,omitempty"`
	// Refused says that nobody took it; the session is the one that was asked for.
	Refused bool `json:"refused,omitempty"`
	// Warm is the node of the started instance that the session was given.
	Warm NodeID `json:"warm,omitempty"`
	// WaitedS is how many seconds it had waited; ceilings rise with them.
	WaitedS float64 `json:"waited_s,omitempty"`
	// Nodes is how many nodes there were; Candidates are those near enough to
	// matter, the chosen one first, then as they were ranked, then the refused ones.
	Nodes      int                  `json:"nodes"`
	Candidates []ExplainedCandidate `json:"candidates"`
}

// MaxRefusals bounds the refused requests that are listed at once.
const MaxRefusals = 1000

// PlacementAsk is what was asked.
type PlacementAsk struct {
	App     string   `json:"app"`
	Region  string   `json:"region,omitempty"`
	Screen  Screen   `json:"screen"`
	Codecs  []Codec  `json:"codecs"`
	Client  Location `json:"client"`
	Network string   `json:"network,omitempty"` // of the client, as a prefix
	// Encoder the application may be encoded by.
	Encoder EncoderChoice `json:"encoder,omitempty"`
	ASN     uint32        `json:"asn,omitempty"` // its autonomous system
	Probes  []Probe       `json:"probes,omitempty"`
	// Parts that the application takes beside an encoder; Counted: its bitrate too.
	Parts   Parts `json:"parts,omitzero"`
	Counted bool  `json:"counted,omitempty"`
}

// ExplainedCandidate is one node as placement saw it. Rank is 1 for the chosen
// one; 0 for a refused one, whose refusal says why.
type ExplainedCandidate struct {
	Rank     int               `json:"rank"`
	Node     NodeID            `json:"node"`
	Region   string            `json:"region"`
	Labels   map[string]string `json:"labels,omitempty"`
	Location Location          `json:"location"`

	DistanceKM float64 `json:"distance_km"` // negative when unknown
	EstimateMS float64 `json:"estimate_ms"` // round trip; negative when unknown
	ErrorMS    float64 `json:"error_ms"`
	Source     string  `json:"source"`            // "probe", "silent", "atlas", "distance" or "unknown"
	Samples    int     `json:"samples,omitempty"` // of the atlas
	ScoreMS    float64 `json:"score_ms"`          // the estimate with what the policy adds; the least wins

	Pool      Pool         `json:"pool,omitempty"`
	Codec     Codec        `json:"codec,omitempty"`
	FPS       int          `json:"fps,omitempty"`
	Preset    Preset       `json:"preset,omitempty"`
	Step      string       `json:"step,omitempty"`       // of the ladder
	Cost      uint64       `json:"cost,omitempty"`       // macroblocks per second
	FreeShare float64      `json:"free_share,omitempty"` // of the pool beside this session, 0 to 1
	Pools     []PoolRecord `json:"pools,omitempty"`      // what was free
	Parts     []PartUse    `json:"parts,omitempty"`      // and beside the pools
	Takes     Parts        `json:"takes,omitzero"`       // what the session takes of those
	// Refusal is why it could not be taken.
	Refusal *Refusal `json:"refusal,omitempty"`
}

// PoolRecord is a pool with what was reserved of it.
type PoolRecord struct {
	Capacity
	Reserved uint64 `json:"reserved"`
	Running  int    `json:"running"` // encoder sessions
}
