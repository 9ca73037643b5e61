package place

import (
	"fmt"
	"math"
	"slices"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// Fleet is every node with all that decides about it, kept so that a placement
// looks only at near nodes with room. It follows the state's roots by their
// differences. It is for one goroutine at a time.
type Fleet struct {
	root  *state.State
	hosts []host
	byID  map[api.NodeID]int32
	sites map[uint64]api.NodeID // a node of each site that stands for it
	// index holds the hosts [0, indexed); later ones are looked at one by one
	// until there are enough of them to build it anew.
	index     *geo.Index
	room      *geo.Room
	vectors   []geo.Vector
	indexed   int
	left      []geo.Vector                 // where hosts of the index were that left or moved since
	adrift    *geo.Room                    // hosts of unknown place, all as if at one
	kept      map[api.SessionID]api.NodeID // the nodes whose room is left to one that waits
	smallest  amounts                      // the least of each part that anybody has asked for, about
	partMarks [amountsLen]uint64
	// cheapest is the least cost factor that any node has had, in thousandths.
	cheapest uint64
}

// host is one node, flat: what a search reads lies together.
type host struct {
	node   *state.Node // nil in a replay
	id     api.NodeID
	region string
	labels map[string]string
	place  api.Location
	marks  uint64
	site   uint64 // hosts of one site share it; 0 = stands alone
	pools  [len(poolOrder)]pool
	beside *beside // nil = nothing is known of it, and not limited
	held   amounts // of that; placed and not in the ledger yet
	left   amounts
	flags  hostFlags
}

type hostFlags struct{ gone, lost, drain, kept bool }

// pool is what one of a host's pools may carry, holds and is about to hold.
type pool struct {
	capacity, used, held uint64 // macroblocks per second; held: placed and not in the ledger yet
	limit, running, soon int    // encoder sessions; limit 0 = none
	codecs               uint8  // a bit for each of api.Codecs
	there                bool
	factors              *factors // nil = what api.Cost says
}

// factors are what a macroblock costs, in thousandths, by preset and codec; 0 =
// what api.Cost says, or that the preset is not offered.
type factors [2][len(codecOrder)]uint32

func presetBit(p api.Preset) int {
	if p == api.PresetFast {
		return 1
	}
	return 0
}

// poolOrder is the order in which pools are tried: hardware before software.
var poolOrder = [...]api.Pool{api.PoolNVENC, api.PoolVAAPI, api.PoolCPU}

// NewFleet makes an empty fleet.
func NewFleet() *Fleet {
	none := geo.NewIndex(nil)
	f := &Fleet{byID: map[api.NodeID]int32{}, sites: map[uint64]api.NodeID{}, index: none, room: geo.NewRoom(none, 0), adrift: geo.NewRoom(none, 0), cheapest: 1000}
	for i, p := range partOrder {
		f.smallest[i], f.partMarks[i] = unlimited, markOf("perigee/part", string(p))
	}
	return f
}

// Len is how many nodes there are.
func (f *Fleet) Len() int { return len(f.byID) }

// Sync takes in a root of the state: its nodes and what the ledger holds of them.
func (f *Fleet) Sync(root *state.State) {
	if root == f.root {
		return
	}
	root.NodesSince(f.root, func(id api.NodeID, n *state.Node) {
		if n == nil {
			f.remove(id)
			return
		}
		h := host{node: n, id: n.ID, region: n.Region, labels: n.Labels, place: n.Location, flags: hostFlags{lost: n.Lost, drain: n.Drain}, beside: besideOf(n)}
		for i, name := range poolOrder {
			if c, ok := n.Capacity(name); ok {
				used, running := n.Reserved(name)
				h.pools[i] = poolOf(c, used, running)
			}
		}
		f.put(h)
	})
	f.root = root
}

func poolOf(c api.Capacity, used uint64, running int) pool {
	p := pool{capacity: c.Macroblocks, used: used, limit: c.Sessions, running: running, there: true}
	for _, codec := range c.Codecs {
		p.codecs |= codecBit(codec)
	}
	for _, f := range c.Factors {
		for i, name := range codecOrder {
			if f.Codec == name {
				if p.factors == nil {
					p.factors = &factors{}
				}
				p.factors[presetBit(f.Preset)][i] = f.Thousandths
			}
		}
	}
	return p
}

// codecs in the order of their bits.
var codecOrder = [...]api.Codec{api.H264, api.VP8, api.VP9, api.AV1, api.H265}

func codecBit(c api.Codec) uint8 {
	for i, known := range codecOrder {
		if c == known {
			return 1 << i
		}
	}
	return 0
}

// Hold takes what a placement chose, before the ledger shows it.
func (f *Fleet) Hold(node api.NodeID, name api.Pool, cost uint64, parts api.Parts) {
	if p, i := f.pool(node, name); p != nil {
		p.held += cost
		p.soon++
		f.hosts[i].take(parts, false)
		f.mark(i)
	}
}

// Drop gives back what Hold took.
func (f *Fleet) Drop(node api.NodeID, name api.Pool, cost uint64, parts api.Parts) {
	if p, i := f.pool(node, name); p != nil {
		f.hosts[i].take(parts, true)
		p.held -= min(cost, p.held) // a node that was removed and came back holds nothing
		p.soon = max(p.soon-1, 0)
		f.mark(i)
	}
}

func (f *Fleet) pool(node api.NodeID, name api.Pool) (*pool, int32) {
	i, ok := f.byID[node]
	k := slices.Index(poolOrder[:], name)
	if !ok || k < 0 {
		return nil, 0
	}
	return &f.hosts[i].pools[k], i
}

func (f *Fleet) remove(id api.NodeID) {
	i, ok := f.byID[id]
	if !ok {
		return
	}
	delete(f.byID, id)
	if site := f.hosts[i].site; f.sites[site] == id {
		delete(f.sites, site)
	}
	f.hosts[i] = host{flags: hostFlags{gone: true}}
	f.room.Set(int(i), 0, 0)
	f.adrift.Set(int(i), 0, 0)
	if int(i) < f.indexed {
		f.left = append(f.left, f.vectors[i])
	}
}

// put adds a host or changes it in place; one that moved gets a new place.
func (f *Fleet) put(h host) {
	h.marks, h.site = marksOf(h.region, h.labels), siteOf(h.region, h.place)
	h.settle()
	for k := range h.pools {
		p := &h.pools[k]
		if p.there && hardware&(1<<k) != 0 {
			h.marks |= hardwareMark()
		}
		if p.factors == nil {
			continue
		}
		for _, list := range p.factors {
			for _, v := range list {
				if v > 0 {
					f.cheapest = min(f.cheapest, uint64(v))
				}
			}
		}
	}
	if i, ok := f.byID[h.id]; ok {
		old := &f.hosts[i]
		for k := range h.pools {
			h.pools[k].held, h.pools[k].soon = old.pools[k].held, old.pools[k].soon
		}
		h.keep(old)
		h.flags.kept = old.flags.kept
		if geo.VectorOf(old.place) == geo.VectorOf(h.place) {
			f.hosts[i] = h
			f.mark(i)
			return
		}
		f.remove(h.id)
	}
	for _, node := range f.kept {
		h.flags.kept = h.flags.kept || node == h.id
	}
	i := int32(len(f.hosts))
	f.hosts = append(f.hosts, h)
	f.vectors = append(f.vectors, geo.VectorOf(h.place))
	f.byID[h.id] = i
	if _, ok := f.sites[h.site]; !ok && h.site != 0 {
		f.sites[h.site] = h.id
	}
}

const (
	// siteDegrees: nodes of one region within it stand at one site, 11 km, and
	// share the ways to it.
	siteDegrees = 0.1
	siteKM      = 16
	// siteRadiusKM is how well a node's place must be known for that.
	siteRadiusKM = 10
)

func siteOf(region string, l api.Location) uint64 {
	if !l.Known || l.RadiusKM > siteRadiusKM {
		return 0
	}
	return hashOf(region, "@", fmt.Sprint(math.Round(l.Latitude/siteDegrees), math.Round(l.Longitude/siteDegrees)))
}

// Site gives the node that stands for a node's site: what is learned of one is
// learned of all.
func (f *Fleet) Site(id api.NodeID) api.NodeID {
	if i, ok := f.byID[id]; ok && f.hosts[i].site != 0 {
		if first, ok := f.sites[f.hosts[i].site]; ok {
			return first
		}
		f.sites[f.hosts[i].site] = id
	}
	return id
}

// mark tells the index how much room a host has; 0 leaves it out of searches.
func (f *Fleet) mark(i int32) {
	h := &f.hosts[i]
	var most uint64
	if !h.flags.gone && !h.flags.lost && !h.flags.drain && !h.flags.kept {
		for k := range h.pools {
			most = max(most, h.pools[k].free())
		}
	}
	marks := h.marks | f.roomMarks(h)
	f.room.Set(int(i), most, marks)
	f.adrift.Set(int(i), most, marks)
}

// free is what neither the ledger nor a placement under way holds.
func (p *pool) free() uint64 {
	taken := p.used + p.held
	if !p.there || taken >= p.capacity || p.limit > 0 && p.running+p.soon >= p.limit {
		return 0
	}
	return p.capacity - taken
}

// ready builds the index anew when too much of the fleet is not in it.
func (f *Fleet) ready() {
	if behind := len(f.hosts) - f.indexed + len(f.left); behind <= freshHosts+len(f.hosts)/freshShare {
		return
	}
	kept := f.hosts[:0]
	for i := range f.hosts {
		if !f.hosts[i].flags.gone {
			kept = append(kept, f.hosts[i])
		}
	}
	clear(f.hosts[len(kept):])
	f.hosts, f.vectors, f.left = kept, make([]geo.Vector, len(kept)), nil
	somewhere := make([]geo.Vector, len(kept))
	for i := range f.hosts {
		h := &f.hosts[i]
		f.byID[h.id] = int32(i)
		f.vectors[i] = geo.VectorOf(h.place)
		if !f.vectors[i].Known() {
			somewhere[i] = geo.Point(0, 0)
		}
	}
	f.index = geo.NewIndex(f.vectors)
	f.room = geo.NewRoom(f.index, len(f.vectors))
	f.adrift = geo.NewRoom(geo.NewIndex(somewhere), len(somewhere))
	f.indexed = len(f.hosts)
	for i := range f.hosts {
		f.mark(int32(i))
	}
}

const (
	// freshHosts and one in freshShare may stand outside the index: building it
	// anew takes 7 ms for 10,000 nodes, looking at 32 hosts half a microsecond.
	freshHosts = 32
	freshShare = 256
)

// marksOf gives a region's and labels' bits. Two may share one: a search that
// wants bits finds all that it should, and sometimes more.
func marksOf(region string, labels map[string]string) uint64 {
	m := markOf("region", region)
	for k, v := range labels {
		m |= markOf(k, v)
	}
	return m
}

// hardwareMark is borne by nodes with an encoder in hardware.
func hardwareMark() uint64 { return markOf("perigee/encoder", "hardware") }

func markOf(key, value string) uint64 { return 1 << (hashOf(key, "=", value) >> 58) }

func hashOf(parts ...string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for _, s := range parts {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	return h
}
