package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// ProbeTarget is a node that a client may measure: by ICE connectivity checks
// to one of Addresses, with Ticket as the remote ufrag and Password as the
// remote password. Nothing else is answered there.
type ProbeTarget struct {
	Node      NodeID   `json:"node"`
	Region    string   `json:"region"`
	Addresses []string `json:"addresses"` // "ip:port", UDP
	Ticket    string   `json:"ticket"`
	Password  string   `json:"password"`
}

// ProbeTicket lets its holder measure the way to one node for a short time. Its
// text is an ICE ufrag; it proves nothing by itself: the proof is the password,
// which only those can make who hold the node's relay secret.
type ProbeTicket struct {
	Node    NodeID
	Nonce   [ProbeNonce]byte
	Expires int64 // Unix seconds
}

// Bounds of probing. A ticket's clocks may differ by TicketTolerance.
const (
	ProbeLife    = 60 * time.Second // of a ticket
	ProbeNonce   = 9                // random bytes of a ticket
	ProbeTargets = 4                // nodes offered at once, at most
	MaxProbeMS   = 60000            // of a round trip that a client says it measured
)

// A ticket is base64 of version, expiry, nonce and node: 42 to 110 characters,
// of the 4 to 256 that ICE allows. Its characters are those of a ufrag.
const (
	probeVersion = 1
	probeFixed   = 1 + 8 + ProbeNonce
)

var probeEncoding = base64.RawStdEncoding.Strict()

// ErrProbe says that a probe ticket is malformed or expired.
var ErrProbe = errors.New("probe ticket is not valid")

// Text is the ticket's text form.
func (t ProbeTicket) Text() string {
	b := make([]byte, 0, probeFixed+maxIDLength)
	b = append(b, probeVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(t.Expires))
	b = append(b, t.Nonce[:]...)
	return probeEncoding.EncodeToString(append(b, t.Node...))
}

// ParseProbeTicket reads a ticket and refuses an expired one, with
// TicketTolerance for two machines' clocks. Whether it was ever given out only
// its password says.
func ParseProbeTicket(text string, now time.Time) (ProbeTicket, error) {
	var t ProbeTicket
	if len(text) > probeEncoding.EncodedLen(probeFixed+maxIDLength) {
		return t, fmt.Errorf("read probe ticket of %d characters: %w", len(text), ErrProbe)
	}
	for i := range len(text) { // the decoder would skip line breaks
		if c := text[i]; c == '\n' || c == '\r' {
			return t, fmt.Errorf("read probe ticket: %w", ErrProbe)
		}
	}
	b, err := probeEncoding.DecodeString(text)
	if err != nil || len(b) <= probeFixed || b[0] != probeVersion || !ValidID(string(b[probeFixed:])) {
		return t, fmt.Errorf("read probe ticket: %w", ErrProbe)
	}
	t.Expires = int64(binary.BigEndian.Uint64(b[1:]))
	copy(t.Nonce[:], b[9:])
	t.Node = NodeID(b[probeFixed:])
	if t.Expires < now.Add(-TicketTolerance).Unix() {
		return t, fmt.Errorf("probe ticket expired: %w", ErrProbe)
	}
	return t, nil
}

// probePassword is how many bytes of the HMAC make a password: 32 characters,
// of the 22 to 256 that ICE allows.
const probePassword = 24

// ProbePassword gives the password of a ticket's text: an HMAC under the relay
// secret of the node.
func ProbePassword(secret []byte, ticket string) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("perigee-probe-1\x00")) // a hash never fails
	mac.Write([]byte(ticket))
	return probeEncoding.EncodeToString(mac.Sum(nil)[:probePassword])
}
