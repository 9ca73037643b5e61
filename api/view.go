package api

import (
	"errors"
	"time"
)

// ErrSignalClosed says that the other side ended a signalling link.
var ErrSignalClosed = errors.New("signalling was closed")

// EndRequest says how a session is to end.
type EndRequest struct {
	Reason Reason
	Force  bool // do not wait for the application
	Wait   bool // answer when it has ended
	Grant  Grant
}

// NodeView is a node with what is known of it now.
type NodeView struct {
	Node     Node     `json:"node"`
	Headroom Headroom `json:"headroom"`
	// Reserved is what the ledger holds per pool, macroblocks per second.
	Reserved map[Pool]uint64 `json:"reserved"`
	// Running counts the encoder sessions per pool, Parts what it holds beside the
	// pools, those without a known bound too.
	Running  map[Pool]int `json:"running,omitempty"`
	Parts    []PartUse    `json:"parts,omitempty"`
	Sessions int          `json:"sessions"`
	HeardAt  time.Time    `json:"heard_at,omitzero"`
	Alive    bool         `json:"alive"` // its lease holds
	// Alarms are what an operator has to see to, as the node last said.
	Alarms []Alarm `json:"alarms,omitempty"`
	// OwnLatency is how the node's own stages fare, as far as the replica that
	// answers heard of them.
	OwnLatency map[Stage]StageDrift `json:"own_latency,omitempty"`
}
