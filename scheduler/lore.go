package scheduler

import (
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
)

const (
	// loreNetworks bounds the atlas: about 40 MiB when each knows four nodes.
	loreNetworks = 100_000
	// loreSessions bounds how many sessions' networks are remembered.
	loreSessions = 1 << 16
)

// lore is what live sessions taught of the ways from networks to nodes. It is in
// this replica's memory alone: after a change of leaders it is learned again.
type lore struct {
	mu       sync.Mutex
	atlas    *geo.Atlas
	networks map[api.SessionID]string
	order    []api.SessionID // of networks; a ring once it is full
	next     int
}

// nodes gives what is known of an address's network.
func (l *lore) nodes(address string, now time.Time) []geo.Learned {
	network := geo.NetworkOf(address)
	if network == "" {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.atlas == nil {
		return nil
	}
	return l.atlas.Nodes(nil, network, now)
}

// remember notes whose session it is, so that its round trips teach something.
func (l *lore) remember(id api.SessionID, address string) {
	network := geo.NetworkOf(address)
	if network == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.networks == nil {
		l.networks = map[api.SessionID]string{}
	}
	if _, known := l.networks[id]; known {
		return
	}
	if len(l.order) < loreSessions {
		l.order = append(l.order, id)
	} else {
		delete(l.networks, l.order[l.next])
		l.order[l.next] = id
		l.next = (l.next + 1) % loreSessions
	}
	l.networks[id] = network
}

// learn takes in what an edge measured of a session's viewer.
// Site is the node that stands for the edge's.
func (l *lore) learn(r api.Report, site api.NodeID, now time.Time) {
	if !(r.RoundTripMS > 0) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	network, ok := l.networks[r.Session]
	if !ok {
		return
	}
	if l.atlas == nil {
		l.atlas = geo.NewAtlas(loreNetworks)
	}
	l.atlas.Learn(network, site, r.RoundTripMS, now)
}
