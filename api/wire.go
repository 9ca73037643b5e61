package api

import (
	"encoding/json"
	"time"
)

// Words of the envelope. The status is lower case: clients compare it exactly.
const (
	EnvelopeSync  = "sync"
	EnvelopeAsync = "async"
	EnvelopeError = "error"

	EnvelopeSuccess = "success"
	EnvelopeFailed  = "failed"
)

// Envelope wraps every JSON answer of the HTTP API. To decode, put a pointer to
// the expected object into Metadata first.
type Envelope struct {
	Type       string       `json:"type"`
	Status     string       `json:"status"`
	StatusCode int          `json:"status_code"`
	Operation  string       `json:"operation,omitempty"` // path of what goes on, where type is async
	Metadata   any          `json:"metadata,omitempty"`
	TotalSize  *int         `json:"total_size,omitempty"` // lists only: how many there are in all
	Error      string       `json:"error,omitempty"`
	Perigee    *ErrorDetail `json:"perigee,omitempty"` // errors only
}

// ErrorDetail is what an error envelope says beyond its text.
type ErrorDetail struct {
	Code     Code      `json:"code"`
	Field    string    `json:"field,omitempty"`
	Refusals []Refusal `json:"refusals,omitempty"`
	// Request finds the request in the scheduler's log; with CodeInternal only.
	Request string `json:"request,omitempty"`
}

// ScreenBody is a screen in a request: what is left out keeps its default, or
// at a join its present value.
type ScreenBody struct {
	Width   *int `json:"width,omitempty"`
	Height  *int `json:"height,omitempty"`
	FPS     *int `json:"fps,omitempty"`
	Density *int `json:"density,omitempty"`
}

// LocationBody is a place in a request: degrees, kilometres.
type LocationBody struct {
	Latitude  *float64 `json:"latitude,omitempty"`
	Longitude *float64 `json:"longitude,omitempty"`
	RadiusKM  float64  `json:"radius_km,omitempty"`
}

// RequestExtras are our additions to the bodies of create and join.
// ClientAddress and Location need RightOnBehalf.
type RequestExtras struct {
	ClientAddress  string        `json:"client_address,omitempty"`
	Location       *LocationBody `json:"location,omitempty"`
	Codecs         []string      `json:"codecs,omitempty"`          // create only, preferred first
	IdempotencyKey string        `json:"idempotency_key,omitempty"` // create only
	Probes         []Probe       `json:"probes,omitempty"`          // create only, at most MaxProbes
	WaitS          int           `json:"wait_s,omitempty"`          // create only: seconds to wait for room, at most MaxWaitS
}

// CreateBody is the body of POST /1.0/sessions.
type CreateBody struct {
	App         string          `json:"app"`
	AppVersion  int             `json:"app_version,omitempty"` // 0 or -1: the newest
	Region      string          `json:"region,omitempty"`
	Screen      *ScreenBody     `json:"screen,omitempty"`
	Joinable    bool            `json:"joinable"`
	Ephemeral   *bool           `json:"ephemeral,omitempty"` // default true
	IdleMinutes *int            `json:"idle_time_min,omitempty"`
	ExtraData   json.RawMessage `json:"extra_data,omitempty"`
	Perigee     *RequestExtras  `json:"perigee,omitempty"`
}

// JoinBody is the body of POST /1.0/sessions/{id}/join; it may be empty.
type JoinBody struct {
	Screen  *ScreenBody `json:"screen,omitempty"`
	Perigee *JoinExtras `json:"perigee,omitempty"`
}

// JoinExtras are our additions to JoinBody: what the new client may do.
type JoinExtras struct {
	RequestExtras
	Seat
}

// SessionDetail is what we add to the session objects of the wire contract.
// Distances and estimates are null when a location is unknown.
type SessionDetail struct {
	Node       NodeID   `json:"node"`
	Region     string   `json:"region"`
	DistanceKM *float64 `json:"distance_km"`
	EstimateMS *float64 `json:"estimate_ms"`
	Rank       int      `json:"rank"` // 1 = the nearest node
	// ExtraMS is what a farther node costs against the best one; Step what the
	// session came down to for want of room, "" = nothing.
	ExtraMS float64 `json:"extra_ms"`
	Step    string  `json:"step,omitempty"`
	Preset  Preset  `json:"preset,omitempty"`
	// Queue is there while the session waits for room.
	Queue      *QueuePlace `json:"queue,omitempty"`
	Generation Generation  `json:"generation"`
	Codec      Codec       `json:"codec"`
	Pool       Pool        `json:"pool,omitempty"`
	AppVersion int         `json:"app_version"`
	Screen     Screen      `json:"screen"`
	Reason     Reason      `json:"reason,omitempty"`
	Connected  bool        `json:"connected"` // a viewer is there
	CreatedAt  time.Time   `json:"created_at"`
	EndedAt    time.Time   `json:"ended_at,omitzero"`
	Account    string      `json:"account,omitempty"` // to administrators
	// Warm marks an instance that a pool keeps for a session to come, FromPool a
	// session that was given one.
	Warm     bool `json:"warm,omitempty"`
	FromPool bool `json:"from_pool,omitempty"`
	// Latency says where the time from input to picture goes; absent before anything was measured.
	Latency map[Stage]StageSummary `json:"latency,omitempty"`
}

// SessionView is a session as the API shows it.
type SessionView struct {
	ID            SessionID     `json:"id"`
	App           string        `json:"app"`
	Region        string        `json:"region"`
	ClusterID     string        `json:"cluster_id"`
	ContainerID   string        `json:"container_id"` // "" before the instance starts
	Joinable      bool          `json:"joinable"`
	Status        Status        `json:"status"`
	StatusMessage string        `json:"status_message"`
	Perigee       SessionDetail `json:"perigee"`
}

// CreateAnswer answers a create.
type CreateAnswer struct {
	ID          SessionID     `json:"id"`
	Region      string        `json:"region"`
	Status      Status        `json:"status"`
	Joinable    bool          `json:"joinable"`
	URL         string        `json:"url"` // ws or wss, with a ticket
	STUNServers []ICEServer   `json:"stun_servers"`
	Perigee     SessionDetail `json:"perigee"`
}

// JoinAnswer answers a join.
type JoinAnswer struct {
	URL         string        `json:"url"`
	STUNServers []ICEServer   `json:"stun_servers"`
	Perigee     SessionDetail `json:"perigee"`
}

// DeleteAnswer answers a batch delete.
type DeleteAnswer struct {
	Deleted []SessionID   `json:"deleted_sessions"`
	Errors  []DeleteError `json:"errors"`
}

// DeleteError is one session that could not be deleted.
type DeleteError struct {
	Session    SessionID `json:"session_id"`
	Message    string    `json:"error_message"`
	StatusCode int       `json:"status_code"`
}

// AppView is an application as the API shows it.
type AppView struct {
	Name    string    `json:"name"`
	Perigee AppDetail `json:"perigee"`
}

// AppDetail is what we add to an application. App is shown to administrators only.
type AppDetail struct {
	Version int     `json:"version"`
	Title   string  `json:"title,omitempty"`
	Kind    AppKind `json:"kind"`
	Codecs  []Codec `json:"codecs"`
	App     *App    `json:"app,omitempty"`
	// Versions, oldest first, where one application is shown to an administrator.
	Versions []VersionView `json:"versions,omitempty"`
}

// VersionView is a version of an application as the API shows it.
type VersionView struct {
	Version   int  `json:"version"`
	Published bool `json:"published"`
	Default   bool `json:"default"` // what a session gets that asks for no version
	App       *App `json:"app,omitempty"`
}

// PublishBody is the body of PATCH /1.0/applications/{name}/{version}.
type PublishBody struct {
	Published *bool `json:"published"`
}

// ManifestView is a version of an application as YAML.
type ManifestView struct {
	Manifest string `json:"manifest"`
}

// RegionView is a region as the API shows it.
type RegionView struct {
	Name string `json:"name"`
}

// StatusView is the gateway's health; all but Status needs a token.
type StatusView struct {
	Status  string        `json:"status"` // "healthy" or "unhealthy"
	Agents  *int          `json:"agents,omitempty"`
	DBNodes *int          `json:"database_nodes,omitempty"`
	Perigee *StatusDetail `json:"perigee,omitempty"`
}

// StatusDetail is what we add to the status.
type StatusDetail struct {
	Leader   string `json:"leader"`
	Sessions int    `json:"sessions"`
	Version  string `json:"version,omitempty"`
}

// TokenAnswer shows a new token's secret, for the only time.
type TokenAnswer struct {
	Token string `json:"token"`
	Grant Grant  `json:"grant"`
}

// InstanceView is an instance as the API shows it, in AMS's words.
type InstanceView struct {
	ID           SessionID      `json:"id"`
	Name         string         `json:"name"`
	Type         string         `json:"type"` // "program", "container"
	Status       string         `json:"status"`
	StatusCode   InstanceState  `json:"status_code"`
	StatusText   string         `json:"status_message"`
	ErrorMessage string         `json:"error_message"`
	Node         NodeID         `json:"node"`
	AppID        string         `json:"app_id"`
	AppName      string         `json:"app_name"`
	AppVersion   int            `json:"app_version"`
	CreatedAt    int64          `json:"created_at"` // Unix seconds
	StoredLogs   []string       `json:"stored_logs"`
	Config       InstanceConfig `json:"config"`
	Tags         []string       `json:"tags"` // "session=<id>" on a streamed one
	Perigee      InstanceDetail `json:"perigee"`
}

// InstanceDetail is what our additions say of an instance.
type InstanceDetail struct {
	SessionDetail
	Joinable    bool `json:"joinable"`
	Protected   bool `json:"delete_protected"`
	IdleMinutes int  `json:"idle_time_min"` // 0 = for ever
}

// InstanceConfig is how an instance was launched.
type InstanceConfig struct {
	Platform        string      `json:"platform,omitempty"` // "webrtc" when streamed, else "null"
	EnableStreaming bool        `json:"enable_streaming"`
	Display         *ScreenBody `json:"display,omitempty"`
}

// LaunchBody is the body of POST /1.0/instances.
type LaunchBody struct {
	Name       string          `json:"name,omitempty"`
	AppID      string          `json:"app_id"`
	AppVersion int             `json:"app_version,omitempty"` // 0 or -1: the default one
	Node       NodeID          `json:"node,omitempty"`
	UserData   json.RawMessage `json:"user_data,omitempty"` // any JSON, at most 10 KiB
	Tags       []string        `json:"tags,omitempty"`
	NoStart    bool            `json:"no_start,omitempty"` // refused when true
	Config     InstanceConfig  `json:"config"`
	Perigee    *LaunchExtras   `json:"perigee,omitempty"`
}

// LaunchExtras are our additions to LaunchBody.
type LaunchExtras struct {
	RequestExtras
	Region      string `json:"region,omitempty"`
	IdleMinutes int    `json:"idle_time_min,omitempty"` // 0 = for ever
}

// EventView is one message of the events websocket.
type EventView struct {
	Type      string    `json:"type"` // "lifecycle" or "operation"
	Timestamp time.Time `json:"timestamp"`
	Metadata  any       `json:"metadata"`
}

// LifecycleEvent says what happened to an instance.
type LifecycleEvent struct {
	Action string `json:"action"` // "instance-running" and so on
	Source string `json:"source"` // the instance's path
}
