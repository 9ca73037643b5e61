package api

// HeartbeatAnswer is the leader's answer to a Heartbeat.
type HeartbeatAnswer struct {
	OK bool `json:"ok"`
	// Refused says why the node must not go on: another daemon with its key is
	// alive, or it was removed.
	Refused string `json:"refused,omitempty"`
	// Unwanted lists what the node runs and must stop: ended or given away.
	Unwanted []Running `json:"unwanted,omitempty"`
}
