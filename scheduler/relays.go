package scheduler

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// otherRelays is how many relays of its region a session has beside its node's.
const otherRelays = 2

// streamRelayLife is how long a stream process may make new allocations on
// other nodes' relays: it gets its credentials once.
const streamRelayLife = 30 * 24 * time.Hour

// relaysBeside adds the other relays of a session for one of its sides, by
// UDP: who needs TCP has it at the session's own node.
func (s *Server) relaysBeside(out []api.ICEServer, v api.Session, mint func([]byte, api.SessionID, api.Generation, time.Time) (string, string), life time.Duration) []api.ICEServer {
	own, ok := s.root().Node(v.Node)
	if !ok {
		return out
	}
	expires := s.now().Add(life)
	for _, p := range s.probing.atlas(s).relays[own.Region].beside(own, v.ID) {
		if p == nil {
			break
		}
		c := api.ICEServer{URLs: p.urls}
		c.Username, c.Password = mint(p.node.RelaySecret, v.ID, v.Generation, expires)
		out = append(out, c)
	}
	return out
}

// relayRing is the relays of a region by a hash of their nodes' ids.
type relayRing []relayPlace

type relayPlace struct {
	at     uint64
	node   *state.Node
	urls   []string // by UDP; read only
	public bool
}

func newRelayPlace(n *state.Node, addresses []string) relayPlace {
	p := relayPlace{at: placeOf(string(n.ID)), node: n, urls: make([]string, len(addresses)), public: isPublic(n)}
	for i, at := range addresses {
		p.urls[i] = "turn:" + at + "?transport=udp"
	}
	return p
}

func placeOf(id string) uint64 {
	h := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint64(h[:])
}

// beside chooses the relays that come after the session's place in the ring, so
// that it finds the same ones, on any replica, for as long as they are alive.
// Those in a private network are of use only where the session's node is in one too.
func (r relayRing) beside(own *state.Node, id api.SessionID) (out [otherRelays]*relayPlace) {
	n := 0
	from, _ := slices.BinarySearchFunc(r, placeOf(string(id)), func(p relayPlace, at uint64) int { return cmp.Compare(p.at, at) })
	public := isPublic(own)
	for i := range r {
		p := &r[(from+i)%len(r)]
		if p.node.ID == own.ID || public && !p.public {
			continue
		}
		out[n] = p
		if n++; n == otherRelays {
			break
		}
	}
	return out
}

// isPublic says whether a node's relay has an address outside private networks.
func isPublic(n *state.Node) bool {
	return slices.ContainsFunc(n.Relay, func(u string) bool {
		at, ok := relayAddress(u)
		a := at.Addr()
		return ok && !a.IsPrivate() && !a.IsLoopback() && !a.IsLinkLocalUnicast()
	})
}
