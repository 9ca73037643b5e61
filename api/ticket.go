package api

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Role is what a websocket ticket lets its holder be.
type Role string

// Roles.
const (
	RoleViewer  Role = "viewer"  // watches only
	RoleControl Role = "control" // watches and drives
	RoleMaster  Role = "master"  // provides the stream (external applications)
)

// Ticket is a capability for one session's websocket, signed by the cluster;
// any replica, or the edge alone, can check one. Sign signs one, SignTickets
// many by one signature.
type Ticket struct {
	Session    SessionID  `json:"s"`
	Generation Generation `json:"g"`
	Role       Role       `json:"r"`
	// Viewer numbers the client within the session: a later join has a higher one.
	Viewer  uint32 `json:"v"`
	Expires int64  `json:"e"` // Unix seconds
	// Rights of one in control; none = all.
	Rights []ViewerRight `json:"p,omitempty"`
	// Share is the number of the share that its holder came by, 0 = none. With
	// the generation 0 it is the share's own link, which opens no websocket.
	Share uint32 `json:"h,omitempty"`
}

// Seat is what the holder may do.
func (t Ticket) Seat() Seat { return Seat{Role: t.Role, Rights: t.Rights} }

// TicketTolerance is how far two machines' clocks may differ when an expiry is checked.
const TicketTolerance = 60 * time.Second

// ErrTicket says that a ticket is malformed, forged or expired.
var ErrTicket = errors.New("ticket is not valid")

var ticketEncoding = base64.RawURLEncoding

// Sign makes the ticket's text form: payload and Ed25519 signature, URL safe.
func (t Ticket) Sign(key ed25519.PrivateKey) string {
	payload, _ := json.Marshal(t) // plain fields: cannot fail
	return ticketEncoding.EncodeToString(payload) + "." + ticketEncoding.EncodeToString(ed25519.Sign(key, payload))
}

// ParseTicket checks a ticket's signature and expiry, whether it was signed
// alone or with others.
func ParseTicket(text string, key ed25519.PublicKey, now time.Time) (Ticket, error) {
	var t Ticket
	head, tail, ok := strings.Cut(text, ".")
	if !ok {
		return t, fmt.Errorf("split ticket: %w", ErrTicket)
	}
	payload, err := ticketEncoding.DecodeString(head)
	signed := payload
	if way, rest, together := strings.Cut(tail, "."); together && err == nil {
		tail = rest
		signed, err = ticketRoot(payload, way)
	}
	sig, err2 := ticketEncoding.DecodeString(tail)
	if err != nil || err2 != nil || len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, signed, sig) {
		return t, fmt.Errorf("check ticket: %w", ErrTicket)
	}
	if err := json.Unmarshal(payload, &t); err != nil {
		return t, fmt.Errorf("read ticket: %w", ErrTicket)
	}
	if now.After(time.Unix(t.Expires, 0).Add(TicketTolerance)) {
		return t, fmt.Errorf("ticket expired at %s: %w", time.Unix(t.Expires, 0).UTC().Format(time.RFC3339), ErrTicket)
	}
	return t, nil
}
