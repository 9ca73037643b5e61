package gossip

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// view is what one member knows of every node's headroom, its own included.
type view struct {
	self api.NodeID

	mu      sync.Mutex
	entries map[api.NodeID]heard
	alive   map[string]Member  // live members by name
	starts  map[api.NodeID]int // live members of each node
	era     uint64             // of this member
}

type heard struct {
	entry
	at time.Time // this machine's clock
}

func newView(self api.NodeID, era uint64) *view {
	return &view{self: self, era: era, entries: map[api.NodeID]heard{}, alive: map[string]Member{}, starts: map[api.NodeID]int{}}
}

// publish sets this member's own headroom and gives the entry to spread.
func (v *view) publish(h api.Headroom, now time.Time) entry {
	v.mu.Lock()
	defer v.mu.Unlock()
	e := entry{id: v.self, era: v.era, headroom: h}
	v.entries[v.self] = heard{e, now}
	return e
}

// merge takes an entry heard at a time, when it is newer than what is known.
// What must be spread now comes back: the entry itself, or, when somebody
// spreads something of this member that would win over the truth, the truth
// with a later era.
func (v *view) merge(e entry, at time.Time) (spread entry, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	old, known := v.entries[e.id]
	if e.id == v.self {
		if e.era < v.era || known && e.era == v.era && e.headroom.Boot == old.headroom.Boot && e.headroom.Seq <= old.headroom.Seq {
			return entry{}, false
		}
		v.era = e.era + 1
		if !known {
			return entry{}, false // the first publish has the later era
		}
		old.era = v.era
		v.entries[v.self] = old
		return old.entry, true
	}
	if known && !e.newer(old.entry) || !known && len(v.entries) >= maxEntries {
		return entry{}, false
	}
	v.entries[e.id] = heard{e, at}
	return e, true
}

// latest gives what is known of a node with a live member. What others still
// tell of one that has left is kept until it is stale, but not given.
func (v *view) latest(id api.NodeID) (heard, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	h, ok := v.entries[id]
	return h, ok && v.lives(id)
}

// lives says whether a live member belongs to the node. v.mu is held.
func (v *view) lives(id api.NodeID) bool { return id == v.self || v.starts[id] > 0 }

// state lists what is fresh and of live members, and forgets what is stale.
func (v *view) state(now time.Time) []aged {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []aged
	for id, h := range v.entries {
		age := now.Sub(h.at)
		if age >= staleAfter {
			if id != v.self {
				delete(v.entries, id)
			}
		} else if v.lives(id) {
			out = append(out, aged{h.entry, age})
		}
	}
	return out
}

// joined notes that a member of this name is alive, or has changed its meta.
func (v *view) joined(name string, m Member) {
	v.mu.Lock()
	defer v.mu.Unlock()
	old, known := v.alive[name]
	v.alive[name] = m
	v.starts[m.Meta.ID]++
	if known {
		v.ended(old.Meta.ID)
	}
}

// left notes that a member is gone: its node has no headroom then, unless it
// has started again under another name.
func (v *view) left(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if old, known := v.alive[name]; known {
		delete(v.alive, name)
		v.ended(old.Meta.ID)
	}
}

// ended counts one live member of a node less. v.mu is held.
func (v *view) ended(id api.NodeID) {
	if v.starts[id]--; v.starts[id] > 0 {
		return
	}
	delete(v.starts, id)
	if id != v.self {
		delete(v.entries, id)
	}
}

func (v *view) members() []Member {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Collect(maps.Values(v.alive))
}
