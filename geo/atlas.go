package geo

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// Bounds of the atlas.
const (
	// MaxLearned is how many nodes one network keeps.
	MaxLearned = 16
	// atlasHalfLife is when an old round trip counts half.
	atlasHalfLife = 72 * time.Hour
	// maxWeight bounds how much the past counts: the newest sample is at least
	// one part in so many.
	maxWeight = 50
	// leastWeight is the decayed weight below which an entry says nothing.
	leastWeight = 0.1
	// priorErrorMS is how far off a first sample may be.
	priorErrorMS = 8
)

// Learned is the round trip from a network to a node as sessions measured it.
type Learned struct {
	Node    api.NodeID
	MS      float64
	ErrorMS float64 // about one standard error
	Samples int
	// Shared says that it is the whole autonomous system's, not the network's own.
	Shared bool
}

// Route is what the atlas holds of one way, as it is kept elsewhere.
type Route struct {
	Node            api.NodeID
	MS, DeviationMS float64
	Weight          float64 // decayed count, as of At
	Samples         int
	At              time.Time
}

// Atlas learns round trips from networks to nodes. It holds at most a given
// number of networks; the one that was longest without a sample goes first. It
// reads no clock and is for one goroutine at a time.
type Atlas struct {
	limit    int
	networks map[string]*atlasNetwork
	// oldest and newest end a list in the order of the last samples.
	oldest, newest *atlasNetwork
}

type atlasNetwork struct {
	key          string
	nodes        []atlasEntry
	older, newer *atlasNetwork
}

type atlasEntry struct {
	node     api.NodeID
	mean     float64 // ms
	variance float64 // ms²
	weight   float64 // decayed count, as of at
	samples  int
	at       time.Time
}

// NewAtlas makes an atlas of at most limit networks.
func NewAtlas(limit int) *Atlas {
	return &Atlas{limit: max(limit, 1), networks: map[string]*atlasNetwork{}}
}

// NetworkOf gives the network that an address is learned under: its /24, or its
// /48 for IPv6. Such a network gives itself; "" when it is neither.
func NetworkOf(address string) string {
	if strings.Contains(address, "/") {
		if p, err := netip.ParsePrefix(address); err == nil {
			address = p.Addr().String()
		}
	}
	a, err := netip.ParseAddr(address)
	if err != nil {
		return ""
	}
	a = a.Unmap().WithZone("")
	bits := 24
	if a.Is6() {
		bits = 48
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return ""
	}
	return p.String()
}

// areaDegrees is the side of the squares within which an autonomous system's
// networks share what they learn, about 200 km: the error of a mobile prefix.
const areaDegrees = 2

// SharedNetworkOf gives the name that an autonomous system's round trips are
// learned under: with its number the client's area, where that is known, for one
// system may span a continent. "" when the system is unknown.
func SharedNetworkOf(asn uint32, at api.Location) string {
	switch {
	case asn == 0:
		return ""
	case !at.Known:
		return fmt.Sprintf("AS%d", asn)
	default:
		area := func(degrees float64) int { return int(math.Round(degrees/areaDegrees)) * areaDegrees }
		return fmt.Sprintf("AS%d@%d,%d", asn, area(at.Latitude), area(at.Longitude))
	}
}

// Len is how many networks the atlas holds.
func (a *Atlas) Len() int { return len(a.networks) }

// Learn takes in one round trip in ms. What is not finite, not above 0 or over a
// minute is no round trip and is ignored.
func (a *Atlas) Learn(network string, node api.NodeID, ms float64, at time.Time) {
	if network == "" || node == "" || !(ms > 0 && ms <= 60_000) {
		return
	}
	n := a.touch(network)
	i := slices.IndexFunc(n.nodes, func(e atlasEntry) bool { return e.node == node })
	if i < 0 {
		e := atlasEntry{node: node, mean: ms, variance: priorErrorMS * priorErrorMS, weight: 1, samples: 1, at: at}
		if len(n.nodes) < MaxLearned {
			n.nodes = append(n.nodes, e)
			return
		}
		least := 0
		for k := range n.nodes {
			if n.nodes[k].at.Before(n.nodes[least].at) {
				least = k
			}
		}
		n.nodes[least] = e
		return
	}
	e := &n.nodes[i]
	w := min(e.decayed(at), maxWeight-1)
	// A queue somewhere makes a round trip longer, nothing makes it shorter than
	// the way: what is far above the mean counts only a little.
	sample := min(ms, e.mean+4*math.Sqrt(e.variance)+priorErrorMS)
	delta := sample - e.mean
	e.weight = w + 1
	e.mean += delta / e.weight
	e.variance = (e.variance*w + delta*(sample-e.mean)) / e.weight
	e.samples++
	e.at = at
}

// touch finds or makes a network and puts it last in the order of leaving.
func (a *Atlas) touch(key string) *atlasNetwork {
	n := a.networks[key]
	if n != nil {
		a.unlink(n)
	} else {
		if len(a.networks) >= a.limit {
			delete(a.networks, a.oldest.key)
			a.unlink(a.oldest)
		}
		n = &atlasNetwork{key: key}
		a.networks[key] = n
	}
	n.older = a.newest
	if a.newest != nil {
		a.newest.newer = n
	} else {
		a.oldest = n
	}
	a.newest = n
	return n
}

func (a *Atlas) unlink(n *atlasNetwork) {
	if n.older != nil {
		n.older.newer = n.newer
	} else {
		a.oldest = n.newer
	}
	if n.newer != nil {
		n.newer.older = n.older
	} else {
		a.newest = n.older
	}
	n.older, n.newer = nil, nil
}

func (e *atlasEntry) decayed(at time.Time) float64 {
	age := max(at.Sub(e.at), 0)
	return e.weight * math.Exp2(-age.Hours()/atlasHalfLife.Hours())
}

// Nodes appends what is known of a network, the shortest round trip first. What
// has decayed to nothing is left out.
func (a *Atlas) Nodes(out []Learned, network string, at time.Time) []Learned {
	n := a.networks[network]
	if n == nil {
		return out
	}
	from := len(out)
	for k := range n.nodes {
		e := &n.nodes[k]
		if w := e.decayed(at); w >= leastWeight {
			out = append(out, Learned{Node: e.node, MS: e.mean, ErrorMS: math.Sqrt((e.variance*w + priorErrorMS*priorErrorMS) / (w + 1) / max(w, 1)), Samples: e.samples})
		}
	}
	slices.SortFunc(out[from:], func(x, y Learned) int { return cmp.Or(cmp.Compare(x.MS, y.MS), cmp.Compare(x.Node, y.Node)) })
	return out
}

// Has says whether anything is known of a network.
func (a *Atlas) Has(network string) bool { return a.networks[network] != nil }

// Restore takes in what was kept of a network of which nothing is known.
func (a *Atlas) Restore(network string, routes []Route) {
	if network == "" || len(routes) == 0 || a.Has(network) {
		return
	}
	n := a.touch(network)
	for _, r := range routes[:min(len(routes), MaxLearned)] {
		n.nodes = append(n.nodes, atlasEntry{
			node: r.Node, mean: r.MS, variance: r.DeviationMS * r.DeviationMS, weight: min(r.Weight, maxWeight), samples: r.Samples, at: r.At,
		})
	}
}

// Route gives what is known of one way, to keep it elsewhere.
func (a *Atlas) Route(network string, node api.NodeID) (Route, bool) {
	n := a.networks[network]
	if n == nil {
		return Route{}, false
	}
	for _, e := range n.nodes {
		if e.node == node {
			return Route{Node: e.node, MS: e.mean, DeviationMS: math.Sqrt(e.variance), Weight: e.weight, Samples: e.samples, At: e.at}, true
		}
	}
	return Route{}, false
}

// Forget leaves out a node that was removed.
func (a *Atlas) Forget(node api.NodeID) {
	for _, n := range a.networks {
		n.nodes = slices.DeleteFunc(n.nodes, func(e atlasEntry) bool { return e.node == node })
	}
}
