package api

import "time"

// Replica is one scheduler of the cluster as it describes itself.
type Replica struct {
	ID      string            `json:"id"`
	Raft    string            `json:"raft"`             // host:port for the other replicas
	API     string            `json:"api,omitempty"`    // base URL
	NATS    string            `json:"nats,omitempty"`   // URL for edges
	Route   string            `json:"route,omitempty"`  // host:port of its NATS for the other replicas'
	Bus     string            `json:"bus,omitempty"`    // id of this start of its NATS
	STUN    string            `json:"stun,omitempty"`   // host:port where it tells edges their address
	Gossip  map[string]string `json:"gossip,omitempty"` // host:port by region
	Version string            `json:"version,omitempty"`
	// Entry is the highest version of log entries that it reads.
	Entry int `json:"entry"`
}

// ReplicaView is a replica with what is known of it now.
type ReplicaView struct {
	Replica Replica `json:"replica"`
	Leader  bool    `json:"leader"`
	Voter   bool    `json:"voter"` // its vote counts: a new one listens first
	Self    bool    `json:"self"`  // it is the one that answers
	// Reached says whether it answered the one that answers.
	Reached bool   `json:"reached"`
	Index   uint64 `json:"index"` // last entry it has applied
}

// ReplicaJoin asks the leader to let a replica in.
type ReplicaJoin struct {
	Replica Replica `json:"replica"`
}

// SnapshotInfo says what a snapshot of the state holds.
type SnapshotInfo struct {
	At           time.Time `json:"at"` // latest time the state had seen
	Entry        int       `json:"entry"`
	Applications int       `json:"applications"`
	Accounts     int       `json:"accounts"`
	Nodes        int       `json:"nodes"`
	Sessions     int       `json:"sessions"` // live ones
	Finished     int       `json:"finished"`
	Replicas     []Replica `json:"replicas"`
}
