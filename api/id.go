package api

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// SessionID names a session: 20 characters of [0-9a-v], unique, no capability.
type SessionID string

// NodeID names a node: 16 characters of [0-9a-v], a hash of its public key.
type NodeID string

// Generation counts the placements of a session, from 1. Commands, reports,
// tickets and run directories carry it; an older one is answered with stop.
type Generation uint32

// SessionIDBytes is how many random bytes make a SessionID.
const SessionIDBytes = 12

const maxIDLength = 64

var idEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// NewSessionID formats 12 random bytes as an id.
func NewSessionID(random [SessionIDBytes]byte) SessionID {
	return SessionID(strings.ToLower(idEncoding.EncodeToString(random[:])))
}

// NodeIDFromKey derives the id of a node from its Ed25519 public key.
func NodeIDFromKey(public []byte) NodeID {
	sum := sha256.Sum256(public)
	return NodeID(strings.ToLower(idEncoding.EncodeToString(sum[:10])))
}

// ValidID says whether s can be an id: 1 to 64 characters of [a-zA-Z0-9-_:],
// the form that clients of the wire contract accept.
func ValidID(s string) bool {
	if s == "" || len(s) > maxIDLength {
		return false
	}
	for _, c := range s {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == ':':
		default:
			return false
		}
	}
	return true
}
