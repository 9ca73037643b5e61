package api

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Instance is a session seen from the side of what runs: the application with
// its screen, streamed or not.
type Instance struct {
	Session   Session  `json:"session"`
	Name      string   `json:"name"`
	Tags      []string `json:"tags,omitempty"`      // the operator's own
	Streaming bool     `json:"streaming"`           // it has a stream; that cannot change
	Protected bool     `json:"protected,omitempty"` // from being deleted
}

// InstanceName is the name of an instance that was given none.
func InstanceName(id SessionID) string { return "ams-" + string(id) }

// Bounds of an instance.
const (
	maxTags = 32
)

// InstanceState is where an instance is, with AMS's numbers.
type InstanceState int

// States of an instance.
const (
	InstanceError    InstanceState = -1
	InstanceUnknown  InstanceState = 0
	InstanceCreated  InstanceState = 1 // known, no node yet
	InstancePrepared InstanceState = 2 // a node is chosen
	InstanceStarted  InstanceState = 3 // its node starts it and runs its hooks
	InstanceRunning  InstanceState = 4
	InstanceStopped  InstanceState = 5
	InstanceDeleted  InstanceState = 6
)

// String is the state's word on the wire.
func (s InstanceState) String() string {
	words := []string{"error", "unknown", "created", "prepared", "started", "running", "stopped", "deleted"}
	if i := int(s) + 1; i >= 0 && i < len(words) {
		return words[i]
	}
	return "unknown"
}

// ParseInstanceState reads a state's word or number.
func ParseInstanceState(s string) (InstanceState, error) {
	for v := InstanceError; v <= InstanceDeleted; v++ {
		if strings.EqualFold(s, v.String()) || s == strconv.Itoa(int(v)) {
			return v, nil
		}
	}
	return InstanceUnknown, Invalidf("status", "%q is no state; use error, created, prepared, started, running, stopped or deleted", s)
}

// State is a pure function of the session's desired and observed state.
func (i *Instance) State() InstanceState {
	v := &i.Session
	switch v.Observed {
	case ObservedFailed, ObservedLost:
		return InstanceError
	case ObservedStopped:
		if v.Reason == ReasonDeleted {
			return InstanceDeleted
		}
		return InstanceStopped
	case ObservedRunning:
		return InstanceRunning
	case ObservedStarting:
		return InstanceStarted
	}
	if v.Node != "" {
		return InstancePrepared
	}
	return InstanceCreated
}

// AllTags are the operator's tags and those of ours: a streamed instance bears
// the session that it can be joined by.
func (i *Instance) AllTags() []string {
	out := slices.Clone(i.Tags)
	if i.Streaming {
		out = append(out, "session="+string(i.Session.ID))
	}
	return out
}

// LaunchRequest asks for an instance. Screen fields of zero are left to the application.
type LaunchRequest struct {
	Name       string          `json:"name,omitempty"`
	App        string          `json:"app"`
	AppVersion int             `json:"app_version,omitempty"` // 0 or -1: the default one
	Node       NodeID          `json:"node,omitempty"`        // on this node, else the best one
	Region     string          `json:"region,omitempty"`
	Screen     Screen          `json:"screen"`
	Streaming  bool            `json:"streaming"`
	Tags       []string        `json:"tags,omitempty"`
	UserData   json.RawMessage `json:"user_data,omitempty"`
	// IdleMinutes without a client end a streamed one; 0 never does.
	IdleMinutes int    `json:"idle_time_min"`
	Client      Client `json:"client"`
	Grant       Grant  `json:"grant"`
}

// Normalize checks a request.
func (r LaunchRequest) Normalize() (LaunchRequest, error) {
	if err := ValidAppName(r.App); err != nil {
		e := err.(*Error) //nolint:errorlint,forcetypeassert // ValidAppName's own
		return r, Invalidf("app_id", "%s", e.Message)
	}
	if r.Name != "" && !ValidID(r.Name) {
		return r, Invalidf("name", "%q must have 1 to %d characters of [a-zA-Z0-9-_:]", r.Name, maxIDLength)
	}
	if strings.HasPrefix(r.Name, "ams-") {
		return r, Invalidf("name", "%q: names that begin with ams- are given by us", r.Name)
	}
	if r.Node != "" && !ValidID(string(r.Node)) {
		return r, Invalidf("node", "%q is not a node's id", r.Node)
	}
	if err := checkTags(r.Tags); err != nil {
		return r, err
	}
	return r, nil
}

// InstanceQuery selects instances; empty fields select all.
type InstanceQuery struct {
	Account string // "" = every account's
	Status  *InstanceState
	App     string
	Node    NodeID
	Tag     string
	Limit   int // 0 = all
	Offset  int
}

// Fits says whether an instance is selected, but for the page.
func (q InstanceQuery) Fits(i *Instance) bool {
	return (q.Account == "" || i.Session.Account == q.Account) && (q.Status == nil || i.State() == *q.Status) &&
		(q.App == "" || i.Session.App == q.App) && (q.Node == "" || i.Session.Node == q.Node) &&
		(q.Tag == "" || slices.Contains(i.AllTags(), q.Tag))
}

// OperationView is a long action as the API shows it, with AMS's words and numbers.
type OperationView struct {
	ID         string              `json:"id"`
	Class      string              `json:"class"` // "task"
	CreatedAt  time.Time           `json:"created_at"`
	UpdatedAt  time.Time           `json:"updated_at"`
	Status     string              `json:"status"`
	StatusCode int                 `json:"status_code"`
	Resources  map[string][]string `json:"resources"`
	MayCancel  bool                `json:"may_cancel"`
	Err        string              `json:"err"`
}

// Codes of operations.
const (
	OperationRunning = 103
	OperationSuccess = 200
	OperationFailure = 400
)

// Actions of operations.
const (
	OperationStart = "start"
	OperationStop  = "stop"
)

// OperationID names the operation that starts or stops an instance. There is
// nothing behind it but the instance's own state, so it outlives every scheduler.
func OperationID(action string, id SessionID) string { return action + "-" + string(id) }

// ParseOperation reads an operation's id.
func ParseOperation(s string) (action string, id SessionID, err error) {
	action, rest, _ := strings.Cut(s, "-")
	if action != OperationStart && action != OperationStop || !ValidID(rest) {
		return "", "", Errorf(CodeNotFound, "no operation %q", s)
	}
	return action, SessionID(rest), nil
}

// Operation shows how far an action on the instance is.
func (i *Instance) Operation(action string) OperationView {
	v := &i.Session
	o := OperationView{
		ID: OperationID(action, v.ID), Class: "task", CreatedAt: v.CreatedAt, UpdatedAt: v.CreatedAt,
		Resources: map[string][]string{"instances": {"/1.0/instances/" + string(v.ID)}},
	}
	if !v.EndedAt.IsZero() {
		o.UpdatedAt = v.EndedAt
	}
	st := i.State()
	o.Status, o.StatusCode = "Running", OperationRunning
	switch {
	case action == OperationStop && !Final(v.Observed):
		return o
	case action == OperationStop, st == InstanceRunning, st == InstanceStopped, st == InstanceDeleted:
		o.Status, o.StatusCode = "Success", OperationSuccess
	case st == InstanceError:
		o.Status, o.StatusCode, o.Err = "Failure", OperationFailure, string(v.Reason)
		if v.Message != "" {
			o.Err += ": " + v.Message
		}
	}
	return o
}
