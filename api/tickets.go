package api

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
)

// Tickets that are asked for together share one Ed25519 signature, which costs
// as much as all else of a ticket ten times: it signs the root of a tree of
// SHA-256 hashes over them, and each carries the hashes on its way to the root.
// Leaves and inner nodes are hashed apart (as in RFC 6962, 2.1), and what is
// signed begins otherwise than a ticket, which is JSON. A pair is hashed in its
// own order, so that a way needs no directions.

// MaxTickets is how many tickets one signature is for.
const MaxTickets = 16

const (
	maxTicketWay  = 4 // hashes: of MaxTickets leaves
	ticketLeaf    = 0
	ticketInner   = 1
	ticketsSigned = "perigee tickets 1\n"
)

type ticketHash = [sha256.Size]byte

// SignTickets makes the text forms of 1 to MaxTickets tickets by one signature.
func SignTickets(key ed25519.PrivateKey, tickets []Ticket) []string {
	if len(tickets) == 1 {
		return []string{tickets[0].Sign(key)}
	}
	payloads, row, at := make([][]byte, len(tickets)), make([]ticketHash, len(tickets)), make([]int, len(tickets))
	ways := make([][]byte, len(tickets))
	for i, t := range tickets {
		payloads[i], _ = json.Marshal(t) // plain fields: cannot fail
		row[i], at[i], ways[i] = leafHash(payloads[i]), i, make([]byte, 0, maxTicketWay*sha256.Size)
	}
	for len(row) > 1 {
		for i, k := range at {
			if other := k ^ 1; other < len(row) {
				ways[i] = append(ways[i], row[other][:]...)
			}
			at[i] = k / 2
		}
		up := row[:0]
		for k := 0; k < len(row); k += 2 {
			if k+1 < len(row) {
				up = append(up, innerHash(row[k], row[k+1]))
			} else {
				up = append(up, row[k])
			}
		}
		row = up
	}
	sig := ticketEncoding.EncodeToString(ed25519.Sign(key, append([]byte(ticketsSigned), row[0][:]...)))
	out := make([]string, len(tickets))
	for i := range out {
		b := make([]byte, 0, ticketEncoding.EncodedLen(len(payloads[i]))+ticketEncoding.EncodedLen(len(ways[i]))+len(sig)+2)
		b = append(ticketEncoding.AppendEncode(b, payloads[i]), '.')
		b = append(ticketEncoding.AppendEncode(b, ways[i]), '.')
		out[i] = string(append(b, sig...))
	}
	return out
}

// ticketRoot gives what was signed for a ticket of many, by its way to the root.
func ticketRoot(payload []byte, way string) ([]byte, error) {
	b, err := ticketEncoding.DecodeString(way)
	if err != nil || len(b)%sha256.Size != 0 || len(b) > maxTicketWay*sha256.Size {
		return nil, fmt.Errorf("read a ticket's way to its root: %w", ErrTicket)
	}
	h := leafHash(payload)
	for ; len(b) > 0; b = b[sha256.Size:] {
		h = innerHash(h, ticketHash(b))
	}
	return append([]byte(ticketsSigned), h[:]...), nil
}

func leafHash(payload []byte) ticketHash {
	return sha256.Sum256(append(append(make([]byte, 0, 256), ticketLeaf), payload...))
}

func innerHash(a, b ticketHash) ticketHash {
	if bytes.Compare(a[:], b[:]) > 0 {
		a, b = b, a
	}
	var both [1 + 2*sha256.Size]byte
	both[0] = ticketInner
	copy(both[1:], a[:])
	copy(both[1+sha256.Size:], b[:])
	return sha256.Sum256(both[:])
}
