package api

// Bounds of the bitrate of a session's picture, in kb/s.
const (
	MinKbps = 150
	MaxKbps = 100_000
)
