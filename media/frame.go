package media

import "time"

// Kind tells video from audio.
type Kind uint8

// Kinds of frame.
const (
	Video Kind = 1
	Audio Kind = 2
)

// Frame is one encoded picture or one Opus packet.
type Frame struct {
	Kind Kind
	// Key marks a picture that decodes without earlier ones.
	Key bool
	// PTS is the presentation time since the encode process started its stream.
	PTS time.Duration
	// Captured is when the picture was taken, Encoded when it was ready: host
	// monotonic clock in ns (CLOCK_MONOTONIC, comparable between processes).
	Captured, Encoded int64
	// Input is the id of the newest input that the picture may show; 0 = none.
	Input uint64
	// Drawn is when the application had drawn what the picture shows, on the same
	// clock; 0 = not told.
	Drawn int64
	Data  []byte
}

// SampleRate of all sound, in hertz; FrameDuration of one Opus packet.
const (
	SampleRate    = 48000
	Channels      = 2
	FrameDuration = 10 * time.Millisecond
)
