package api

import (
	"encoding/json"
	"time"
)

// Verb is what a Command asks of an edge.
type Verb string

// Verbs. Each is idempotent: repeating one changes nothing more.
const (
	VerbStart Verb = "start" // have the instance and its stream running
	VerbStop  Verb = "stop"  // end it and clean up
	VerbAdmit Verb = "admit" // a new client takes over: cut the present one, resize
	VerbDrain Verb = "drain" // take no new sessions (Spec is empty)
	VerbLog   Verb = "log"   // read a part of what the application wrote
	// VerbShares says which shares there are: those who came by others are cut.
	VerbShares Verb = "shares"
	// VerbEnter asks whether the instance can be entered; links of RoleEnter follow.
	VerbEnter Verb = "enter"
	// VerbClaim hands a started instance to its session: Spec is the session's.
	VerbClaim Verb = "claim"
)

// Command tells an edge what is desired of a session. The edge answers each
// with an Ack; an unanswered one is sent again.
type Command struct {
	Verb       Verb       `json:"verb"`
	Session    SessionID  `json:"session"`
	Generation Generation `json:"generation"`
	Boot       string     `json:"boot"` // the daemon start it is meant for
	Reason     Reason     `json:"reason,omitempty"`
	Force      bool       `json:"force,omitempty"`  // stop without waiting for the application
	Spec       *Spec      `json:"spec,omitempty"`   // with start and claim
	Screen     *Screen    `json:"screen,omitempty"` // with admit
	Viewer     uint32     `json:"viewer,omitempty"` // with admit: number of the client that may connect
	Log        *LogQuery  `json:"log,omitempty"`    // with log
	Shares     *ShareList `json:"shares,omitempty"` // with shares
}

// Spec is everything an edge needs to run a session.
type Spec struct {
	App        App             `json:"app"`
	Screen     Screen          `json:"screen"`
	Pool       Pool            `json:"pool"`
	Codecs     []Codec         `json:"codecs"`           // allowed, preferred first
	Preset     Preset          `json:"preset,omitempty"` // one that the node's Capacity offers
	GPU        string          `json:"gpu,omitempty"`    // device whose memory is reserved for the application; "" = none
	ExtraData  json.RawMessage `json:"extra_data,omitempty"`
	ICEServers []ICEServer     `json:"ice_servers,omitempty"` // for the stream's own use
	Warm       bool            `json:"warm,omitempty"`        // started for a session to come
	Claimed    bool            `json:"claimed,omitempty"`     // it was, and has its session
}

// Ack answers a Command or a Report.
type Ack struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	// Stop tells an edge that the reported generation is not wanted any more.
	Stop bool `json:"stop,omitempty"`
	// Log answers the verb log.
	Log *LogPart `json:"log,omitempty"`
}

// Report is what an edge observed of a session. It is sent again until acknowledged.
type Report struct {
	Node       NodeID     `json:"node"`
	Boot       string     `json:"boot"`
	Seq        uint64     `json:"seq"` // grows within a boot; an older one is ignored
	Session    SessionID  `json:"session"`
	Generation Generation `json:"generation"`
	Observed   Observed   `json:"observed"`
	Reason     Reason     `json:"reason,omitempty"`
	Message    string     `json:"message,omitempty"` // at most 200 bytes
	Connected  bool       `json:"connected"`         // a viewer is connected
	Pool       Pool       `json:"pool,omitempty"`    // where it really encodes
	Codec      Codec      `json:"codec,omitempty"`   // what it really encodes
	Screen     Screen     `json:"screen,omitzero"`
	// RoundTripMS is the viewer's measured round trip; 0 = not measured.
	RoundTripMS float64 `json:"round_trip_ms,omitempty"`
	// Latency is what was measured since the stream began; nil = nothing new is told.
	Latency *Latency `json:"latency,omitempty"`
}

// MaxMessage bounds Report.Message in bytes.
const MaxMessage = 200

// Running is one line of a heartbeat's inventory.
type Running struct {
	Session    SessionID  `json:"s"`
	Generation Generation `json:"g"`
	Observed   Observed   `json:"o"`
	Connected  bool       `json:"c"`
}

// Heartbeat keeps a node's lease and carries its inventory and headroom.
type Heartbeat struct {
	Node     NodeID    `json:"node"`
	Boot     string    `json:"boot"`
	Seq      uint64    `json:"seq"`
	SentAt   time.Time `json:"sent_at"` // the node's clock: never compared with ours
	Headroom Headroom  `json:"headroom"`
	Running  []Running `json:"running"`
	Alarms   []Alarm   `json:"alarms,omitempty"` // at most MaxAlarms
}

// SignalKind is what a Signal carries.
type SignalKind string

// Kinds of signal.
const (
	SignalOpen  SignalKind = "open"  // a viewer's websocket is there
	SignalFrame SignalKind = "frame" // one text frame, untouched
	SignalClose SignalKind = "close" // the sender is done; Data may hold the reason
	SignalAck   SignalKind = "ack"   // only acknowledges
)

// Signal is one signalling message between a client's websocket and the stream
// process. Frames of one viewer and direction are numbered from 1, acknowledged
// and sent again until they are.
type Signal struct {
	Session    SessionID  `json:"s"`
	Generation Generation `json:"g"`
	Viewer     string     `json:"v"` // one websocket connection
	Role       Role       `json:"r,omitempty"`
	// Rights of one in control, none = all; with SignalOpen.
	Rights []ViewerRight `json:"p,omitempty"`
	Kind   SignalKind    `json:"k"`
	Seq    uint64        `json:"q,omitempty"`
	Ack    uint64        `json:"a,omitempty"` // highest sequence received in order
	Data   []byte        `json:"d,omitempty"`
}

// MaxFrame bounds one signalling frame in bytes; an SDP offer is about 10 KiB.
const MaxFrame = 256 << 10
