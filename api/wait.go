package api

import "time"

// QueuePlace is where a session stands that waits for room.
type QueuePlace struct {
	Position int `json:"position"` // 1 = the next one
	Length   int `json:"length"`   // how many wait
	// EtaS estimates in seconds when it is placed, by how often sessions end; 0 =
	// nothing is known.
	EtaS  int64     `json:"eta_s,omitempty"`
	Until time.Time `json:"until"` // then it ends without a place
}

// Bounds of waiting.
const (
	MaxWaitS = 3600 // seconds that a client may ask to wait
	// WaitAlive is how long a waiting session may go unasked for before its client
	// counts as gone.
	WaitAlive = 60 * time.Second
)

// Preset is how an encoder weighs time against quality: PresetDefault, or
// PresetFast for less time where the node offers it.
type Preset string

// The presets.
const (
	PresetDefault Preset = ""
	PresetFast    Preset = "fast"
)

// Steps of the ladder that a session came down for want of room; "" is none.
// A wait is told by the session's queue.
const (
	StepFPS      = "fps"      // a lower frame rate
	StepPreset   = "preset"   // a cheaper preset of the encoder, at the lowest frame rate
	StepSoftware = "software" // a software encoder, where the policy takes one last
)
