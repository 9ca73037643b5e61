package api

import (
	"encoding/json"
	"strings"
	"time"
	"unicode"
)

// Desired is what the scheduler wants of a session; only the scheduler writes it.
type Desired string

// Observed is what the edge last reported of a session; only reports write it.
type Observed string

// Status is what the API shows: a pure function of Desired and Observed.
type Status string

// Desired states.
const (
	DesiredRun  Desired = "run"
	DesiredStop Desired = "stop"
)

// Observed states.
const (
	ObservedNone     Observed = ""         // nothing heard yet
	ObservedStarting Observed = "starting" // the edge took the command
	ObservedRunning  Observed = "running"  // the instance runs
	ObservedStopped  Observed = "stopped"  // ended and cleaned up
	ObservedFailed   Observed = "failed"   // ended by a fault and cleaned up
	ObservedLost     Observed = "lost"     // its node's lease ran out
)

// Statuses on the wire.
const (
	StatusCreated     Status = "created"
	StatusActive      Status = "active"
	StatusError       Status = "error"
	StatusTerminating Status = "terminating"
	StatusTerminated  Status = "terminated"
)

// StatusOf is the transition table: what a client is shown.
func StatusOf(d Desired, o Observed) Status {
	if d == DesiredStop {
		switch o {
		case ObservedStopped:
			return StatusTerminated
		case ObservedFailed:
			return StatusError
		default:
			return StatusTerminating
		}
	}
	switch o {
	case ObservedRunning:
		return StatusActive
	case ObservedStopped:
		return StatusTerminated
	case ObservedFailed, ObservedLost:
		return StatusError
	default:
		return StatusCreated
	}
}

// Next says whether an observed state may follow another within one
// generation: an ended instance never comes back, a lost one may.
func Next(from, to Observed) bool {
	switch from {
	case ObservedStopped, ObservedFailed:
		return false
	case ObservedRunning:
		return to != ObservedNone && to != ObservedStarting
	case ObservedLost:
		return to != ObservedNone
	default:
		return to != ObservedNone
	}
}

// Final says whether nothing will change any more: the session holds no reservation.
func Final(o Observed) bool { return o == ObservedStopped || o == ObservedFailed }

// Reason says why a session ended or is in error.
type Reason string

// Reasons.
const (
	ReasonNone           Reason = ""
	ReasonDeleted        Reason = "deleted"         // by the API
	ReasonIdle           Reason = "idle"            // nobody watched for idle_time_min
	ReasonClientLeft     Reason = "client_left"     // a session that cannot be joined lost its client
	ReasonNeverConnected Reason = "never_connected" // no client within 5 minutes
	ReasonNodeLost       Reason = "node_lost"
	ReasonStartFailed    Reason = "start_failed" // X server, sandbox or sound server
	ReasonAppExited      Reason = "app_exited"   // ended by itself with status 0
	ReasonAppCrashed     Reason = "app_crashed"
	ReasonAppHung        Reason = "app_hung" // did not draw anything in time
	ReasonStreamFailed   Reason = "stream_failed"
	ReasonSuperseded     Reason = "superseded"  // a newer generation runs elsewhere
	ReasonNoCapacity     Reason = "no_capacity" // it waited, and no room came in time
	ReasonReleased       Reason = "released"    // a started instance that its pool gave up
	ReasonInactive       Reason = "inactive"    // its client did nothing and the picture did not change

	// Why a container's image could not be had.
	ReasonImageNotFound    Reason = "image_not_found"
	ReasonImageDenied      Reason = "image_denied"      // the registry wants other credentials
	ReasonImageMismatch    Reason = "image_mismatch"    // what came is not what the digest says
	ReasonImageTimeout     Reason = "image_timeout"     // the registry hangs, or is too slow
	ReasonImageUnreachable Reason = "image_unreachable" // no way to the registry
	ReasonDiskFull         Reason = "disk_full"         // the node has no room to unpack it
)

// ConnectTimeout ends a session whose client never connects: the SDK's own timer.
const ConnectTimeout = 5 * time.Minute

// JoinableIdle is how long a joinable session without idle_time_min waits for a client.
const JoinableIdle = 30 * time.Minute

// Session is a user's claim on one stream.
type Session struct {
	ID         SessionID  `json:"id"`
	Generation Generation `json:"generation"`
	Account    string     `json:"account"`
	App        string     `json:"app"`
	AppVersion int        `json:"app_version"`
	Region     string     `json:"region"`
	Node       NodeID     `json:"node"`
	Pool       Pool       `json:"pool"`
	Codec      Codec      `json:"codec"` // what is reserved for
	Reserved   uint64     `json:"reserved"`
	// Parts is what is reserved of the node beside the pool, for one viewer; each of
	// MoreViewers, one for every share, takes the uplink once more.
	Parts       Parts  `json:"parts,omitzero"`
	MoreViewers uint32 `json:"more_viewers,omitempty"`
	Screen      Screen `json:"screen"`
	Joinable    bool   `json:"joinable"`
	Ephemeral   bool   `json:"ephemeral"`
	// IdleMinutes without a viewer end it; 0 never does; negative is not set.
	IdleMinutes int             `json:"idle_time_min"`
	ExtraData   json.RawMessage `json:"extra_data,omitempty"`

	Desired  Desired  `json:"desired"`
	Observed Observed `json:"observed"`
	Reason   Reason   `json:"reason,omitempty"`
	Message  string   `json:"message,omitempty"`

	CreatedAt time.Time `json:"created_at"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
	// Connected says whether a viewer is connected; ViewerAt is when that last
	// changed, zero when no viewer ever came.
	Connected bool      `json:"connected"`
	ViewerAt  time.Time `json:"viewer_at,omitzero"`

	Placement Placement `json:"placement"`
	Preset    Preset    `json:"preset,omitempty"` // of the encoder
	// PlacedAt is when it got its present place; zero = when it was created.
	PlacedAt time.Time `json:"placed_at,omitzero"`
	// Warm marks an instance that a pool started: nobody's until a create takes it,
	// which makes it a session FromPool.
	Warm     bool `json:"warm,omitempty"`
	FromPool bool `json:"from_pool,omitempty"`
	// Queue is its place in the queue while it waits for room.
	Queue *QueuePlace `json:"queue,omitempty"`
	// Latency is what its viewers' streams measured, as far as the replica that
	// was asked has heard; it is no part of the replicated state.
	Latency map[Stage]StageSummary `json:"latency,omitempty"`
}

// Takes is what the session holds of its node beside the pool, all viewers'.
func (s *Session) Takes() Parts {
	p := s.Parts
	p.UplinkKbps *= 1 + uint64(s.MoreViewers)
	return p
}

// Status is what the API shows.
func (s *Session) Status() Status { return StatusOf(s.Desired, s.Observed) }

// Overdue says whether the session must end at now for want of a viewer, and why.
func (s *Session) Overdue(now time.Time) (Reason, bool) {
	if s.Desired == DesiredStop || Final(s.Observed) {
		return ReasonNone, false
	}
	if s.ViewerAt.IsZero() {
		placed := s.CreatedAt
		if s.PlacedAt.After(placed) {
			placed = s.PlacedAt
		}
		return ReasonNeverConnected, now.Sub(placed) >= ConnectTimeout
	}
	if s.Connected {
		return ReasonNone, false
	}
	if !s.Joinable {
		return ReasonClientLeft, true
	}
	switch {
	case s.IdleMinutes == 0:
		return ReasonNone, false
	case s.IdleMinutes < 0:
		return ReasonIdle, now.Sub(s.ViewerAt) >= JoinableIdle
	default:
		return ReasonIdle, now.Sub(s.ViewerAt) >= time.Duration(s.IdleMinutes)*time.Minute
	}
}

// IdleUnset marks a session whose client gave no idle_time_min.
const IdleUnset = -1

// MaxIdleMinutes bounds idle_time_min: 30 days.
const MaxIdleMinutes = 30 * 24 * 60

// MaxExtraData bounds extra_data in bytes, as AMS bounds user data.
const MaxExtraData = 10 << 10

// CreateRequest asks for a new session. Client and Grant come from the
// gateway, the rest from the caller.
type CreateRequest struct {
	App        string `json:"app"`
	AppVersion int    `json:"app_version"` // 0 or -1: the newest
	Region     string `json:"region"`
	Screen     Screen `json:"screen"`
	// Asked is the screen with what the client left open as zero: there the
	// application's own defaults come before the general ones. nil = Screen.
	Asked       *Screen         `json:"asked,omitempty"`
	Joinable    bool            `json:"joinable"`
	Ephemeral   bool            `json:"ephemeral"`
	IdleMinutes int             `json:"idle_time_min"`
	ExtraData   json.RawMessage `json:"extra_data"`
	// Codecs the client wants, preferred first; empty leaves it to the application.
	Codecs []Codec `json:"codecs,omitempty"`
	// Probes are round trips that the client measured, at most MaxProbes.
	Probes []Probe `json:"probes,omitempty"`
	// WaitS is how long the session may wait in the queue when no node has room,
	// at most MaxWaitS; 0 = it is refused.
	WaitS int `json:"wait_s,omitempty"`
	// IdempotencyKey makes a retried create return the same session; at most 64 bytes,
	// no control characters.
	IdempotencyKey string `json:"idempotency_key,omitempty"`
	Client         Client `json:"client"`
	Grant          Grant  `json:"grant"`
}

// Client says where the user is, as well as the gateway knows.
type Client struct {
	Address  string   `json:"address"` // IP address, "" when unknown
	Location Location `json:"location"`
}

// Normalize checks a request and fills the defaults.
func (r CreateRequest) Normalize() (CreateRequest, error) {
	if err := ValidAppName(r.App); err != nil {
		return r, err
	}
	if r.AppVersion < -1 {
		return r, Invalidf("app_version", "must be a version, or -1 for the newest, got %d", r.AppVersion)
	}
	if r.IdleMinutes < IdleUnset || r.IdleMinutes > MaxIdleMinutes {
		return r, Invalidf("idle_time_min", "must be 0 to %d minutes, got %d", MaxIdleMinutes, r.IdleMinutes)
	}
	if len(r.Region) > maxIDLength {
		return r, Invalidf("region", "at most %d characters", maxIDLength)
	}
	if r.WaitS < 0 || r.WaitS > MaxWaitS {
		return r, Invalidf("perigee.wait_s", "must be 0 (do not wait) to %d seconds, got %d", MaxWaitS, r.WaitS)
	}
	if len(r.IdempotencyKey) > maxIDLength {
		return r, Invalidf("perigee.idempotency_key", "at most %d characters", maxIDLength)
	}
	if strings.ContainsFunc(r.IdempotencyKey, unicode.IsControl) { // keys of our own begin so
		return r, Invalidf("perigee.idempotency_key", "%q has control characters: use letters, digits and signs, as of a UUID", r.IdempotencyKey)
	}
	if len(r.ExtraData) > MaxExtraData {
		return r, Invalidf("extra_data", "at most %d bytes, got %d", MaxExtraData, len(r.ExtraData))
	}
	for i, c := range r.Codecs {
		known, err := ParseCodec(string(c))
		if err != nil {
			return r, err
		}
		r.Codecs[i] = known
	}
	var err error
	r.Screen, err = r.Screen.Normalize()
	return r, err
}

// JoinRequest asks for a running session to be handed to a new client. A
// screen of zero width keeps the present size.
type JoinRequest struct {
	Screen Screen `json:"screen"`
	Seat   Seat   `json:"seat,omitzero"` // what the new client may do
	Client Client `json:"client"`
	Grant  Grant  `json:"grant"`
}

// Admission is what a client needs to take part in a session's stream.
type Admission struct {
	Session    Session     `json:"session"`
	Ticket     string      `json:"ticket"` // for the slave websocket
	ICEServers []ICEServer `json:"ice_servers"`
}

// ICEServer is a STUN or TURN server as the wire contract shows it.
type ICEServer struct {
	URLs     []string `json:"urls"`
	Username string   `json:"username,omitempty"`
	Password string   `json:"password,omitempty"`
}

// SessionQuery selects a page of sessions. Limit 0 means all.
type SessionQuery struct {
	Account   string // "" = every account's
	Status    Status // "" = every status
	Limit     int
	Offset    int
	SortBy    string // "id", "app", "region", "status", "created_at"
	SortOrder string // "asc" or "desc"
}
