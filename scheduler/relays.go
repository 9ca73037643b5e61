package scheduler

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
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

// relaysBeside lists the other relays of a session for one of its sides, by
// UDP: who needs TCP has it at the session's own node.
func (s *Server) relaysBeside(v api.Session, mint func([]byte, api.SessionID, api.Generation, time.Time) (string, string), life time.Duration) []api.ICEServer {
	var out []api.ICEServer
	own, ok := s.root().Node(v.Node)
	if !ok {
		return nil
	}
	for _, n := range s.probing.atlas(s).relays[own.Region].beside(own, v.ID) {
		c := api.ICEServer{}
		for _, at := range relayAddresses(n) {
			c.URLs = append(c.URLs, "turn:"+at+"?transport=udp")
		}
		c.Username, c.Password = mint(n.RelaySecret, v.ID, v.Generation, s.now().Add(life))
		out = append(out, c)
	}
	return out
}

// relayRing is the relays of a region by a hash of their nodes' ids.
type relayRing []relayPlace

type relayPlace struct {
	at   uint64
	node *state.Node
}

func placeOf(id string) uint64 {
	h := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint64(h[:])
}

// beside chooses the relays that come after the session's place in the ring, so
// that it finds the same ones, on any replica, for as long as they are alive.
// Those in a private network are of use only where the session's node is in one too.
func (r relayRing) beside(own *state.Node, id api.SessionID) []*state.Node {
	var out []*state.Node
	from, _ := slices.BinarySearchFunc(r, placeOf(string(id)), func(p relayPlace, at uint64) int { return cmp.Compare(p.at, at) })
	public := isPublic(own)
	for i := range r {
		n := r[(from+i)%len(r)].node
		if n.ID == own.ID || public && !isPublic(n) {
			continue
		}
		if out = append(out, n); len(out) == otherRelays {
			break
		}
	}
	return out
}

// isPublic says whether a node's relay has an address outside private networks.
func isPublic(n *state.Node) bool {
	return slices.ContainsFunc(relayAddresses(n), func(at string) bool {
		a, err := netip.ParseAddrPort(at)
		return err == nil && !a.Addr().IsPrivate() && !a.Addr().IsLoopback() && !a.Addr().IsLinkLocalUnicast()
	})
}
