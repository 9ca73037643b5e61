// Package state is the replicated state machine of the schedulers: entries in,
// state out. It is pure: the leader stamps the time and draws the ids, so every
// replica that applies the same entries holds the same bytes.
//
// A State is an immutable root: Apply gives a new one and leaves the old one as
// it was, so a reader or a snapshot takes a root in O(1) and is never disturbed.
package state
