package scheduler

import (
	"cmp"
	"context"
	"crypto/rand"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

const (
	// fewestProbes are offered to a client whose place is known; it measures
	// one more where the estimates do not tell which node is nearest.
	fewestProbes = 3
	// probeAddresses bounds the addresses of one node: a client opens a pair of
	// candidates for each.
	probeAddresses = 4
	// sitePicks bounds the nodes of one site; a region may have several sites.
	sitePicks = 2
	// siteDegrees: nodes within it stand at one site, 11 km. Another node of a site
	// that is measured already tells a client nothing new.
	siteDegrees = 0.1
)

// Probes gives the nodes that a client may measure: the best of each of the
// nearest sites, then their second best; of each region, the default one first,
// for a client whose place is unknown. At most api.ProbeTargets; none when no
// node can be measured. Every ticket is drawn anew and ends after api.ProbeLife.
func (s *Server) Probes(_ context.Context, c api.Client, _ api.Grant) ([]api.ProbeTarget, error) {
	if err := s.serving(); err != nil {
		return nil, err
	}
	sites, want := s.probing.atlas(s).near(c.Location)
	expires := s.now().Add(api.ProbeLife).Unix()
	out := []api.ProbeTarget{}
	for rank := range api.ProbeTargets {
		for _, site := range sites {
			n := site.nodes[rank]
			if n == nil || len(out) == want || site.location.Known && rank >= sitePicks {
				continue
			}
			t := api.ProbeTicket{Node: n.ID, Expires: expires}
			_, _ = rand.Read(t.Nonce[:]) // never fails
			text := t.Text()
			out = append(out, api.ProbeTarget{Node: n.ID, Region: n.Region, Addresses: relayAddresses(n),
				Ticket: text, Password: api.ProbePassword(n.RelaySecret, text)})
		}
	}
	return out, nil
}

// probeSite is a place, or a region, with its emptiest nodes.
type probeSite struct {
	location api.Location // of one of them; unknown for a region
	home     bool         // the default region
	nodes    [api.ProbeTargets]*state.Node
	free     [api.ProbeTargets]uint64 // macroblocks per second
}

// offer keeps a node when it is among the emptiest of its site.
func (p *probeSite) offer(n *state.Node, free uint64) {
	for i := range p.nodes {
		if have := p.nodes[i]; have == nil || free > p.free[i] || free == p.free[i] && n.ID < have.ID {
			p.nodes[i], n = n, have
			p.free[i], free = free, p.free[i]
		}
		if n == nil {
			return
		}
	}
}

// probeAtlas is the fleet as those see it who look for nodes to measure.
type probeAtlas struct {
	sites   []*probeSite // of known places
	index   *geo.Index   // over sites
	adrift  []*probeSite // regions of the nodes of unknown place
	regions []*probeSite // of all nodes
	relays  map[string]relayRing
}

// near gives the sites to measure, the likeliest first, and how many nodes.
func (a *probeAtlas) near(client api.Location) ([]*probeSite, int) {
	if !client.Known {
		return a.regions, api.ProbeTargets
	}
	var out []*probeSite
	var most float64 // ms that the nearest may at most be away
	want := api.ProbeTargets
	a.index.Nearest(geo.VectorOf(client), func(i int, km float64) bool {
		ms, err := geo.Estimate(km, client.RadiusKM+a.sites[i].location.RadiusKM)
		switch len(out) {
		case 0:
			most = ms + err
		case fewestProbes:
			if ms-err > most {
				want = fewestProbes
				return false
			}
		}
		out = append(out, a.sites[i])
		return len(out) < api.ProbeTargets
	})
	return append(out, a.adrift...), want
}

// siteKey tells sites apart: a square of the map, else a region.
type siteKey struct {
	region   string
	lat, lon float64
}

// probing keeps the atlas for as long as building it took two hundred times:
// probes and relays then cost half a percent of a core at most (10,000 nodes:
// 4 s). That of a small fleet is kept for up to a second, for a tenth of a percent.
type probing struct {
	mu    sync.Mutex
	known *probeAtlas
	until time.Time
}

const (
	atlasShare = 200
	atlasRests = time.Second
)

func (p *probing) atlas(s *Server) *probeAtlas {
	p.mu.Lock()
	defer p.mu.Unlock()
	began := s.cfg.Clock()
	if p.known == nil || !began.Before(p.until) {
		p.known = s.probeAtlas(began)
		now := s.cfg.Clock()
		took := now.Sub(began)
		p.until = now.Add(max(atlasShare*took, min(5*atlasShare*took, atlasRests)))
	}
	return p.known
}

// probeAtlas groups the nodes that can be measured now.
func (s *Server) probeAtlas(now time.Time) *probeAtlas {
	a := probeAtlas{relays: map[string]relayRing{}}
	sites, adrift, regions := map[siteKey]*probeSite{}, map[siteKey]*probeSite{}, map[siteKey]*probeSite{}
	put := func(into map[siteKey]*probeSite, key siteKey, n *state.Node, free uint64) {
		p := into[key]
		if p == nil {
			p = &probeSite{home: n.Region == s.cfg.DefaultRegion}
			if key.region == "" {
				p.location = n.Location
			}
			into[key] = p
		}
		p.offer(n, free)
	}
	for n := range s.root().Nodes() {
		if n.Drain || len(n.RelaySecret) == 0 || !s.leases.alive(n, now, s.cfg.Lease) {
			continue
		}
		addresses := relayAddresses(n)
		if len(addresses) == 0 {
			continue
		}
		a.relays[n.Region] = append(a.relays[n.Region], newRelayPlace(n, addresses))
		free, region := freeRoom(n), siteKey{region: "region " + n.Region}
		put(regions, region, n, free)
		if l := n.Location; l.Known {
			put(sites, siteKey{lat: math.Round(l.Latitude / siteDegrees), lon: math.Round(l.Longitude / siteDegrees)}, n, free)
		} else {
			put(adrift, region, n, free)
		}
	}
	for _, r := range a.relays {
		slices.SortFunc(r, func(a, b relayPlace) int { return cmp.Compare(a.at, b.at) })
	}
	a.sites, a.adrift, a.regions = emptiest(sites), emptiest(adrift), emptiest(regions)
	places := make([]geo.Vector, len(a.sites))
	for i, p := range a.sites {
		places[i] = geo.VectorOf(p.location)
	}
	a.index = geo.NewIndex(places)
	return &a
}

// emptiest orders sites: the default region first, then those with most room.
func emptiest(sites map[siteKey]*probeSite) []*probeSite {
	return slices.SortedFunc(maps.Values(sites), func(a, b *probeSite) int {
		if a.home != b.home {
			if a.home {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.free[0], a.free[0]), cmp.Compare(a.nodes[0].ID, b.nodes[0].ID))
	})
}

// freeRoom is what the ledger has left on a node, macroblocks per second.
func freeRoom(n *state.Node) (free uint64) {
	for _, p := range n.Pools {
		used, _ := n.Reserved(p.Pool)
		free += p.Macroblocks - min(used, p.Macroblocks)
	}
	return free
}

// relayAddresses are the UDP addresses of a node's relay, as its URLs have them.
// A host name is none: a candidate needs an address.
func relayAddresses(n *state.Node) []string {
	var out []string
	for _, u := range n.Relay {
		if at, ok := relayAddress(u); ok && !slices.Contains(out, at.String()) && len(out) < probeAddresses {
			out = append(out, at.String())
		}
	}
	return out
}

// relayAddress is the UDP address of one of a relay's URLs, if it has one.
func relayAddress(u string) (netip.AddrPort, bool) {
	scheme, host, _ := strings.Cut(u, ":")
	host, transport, _ := strings.Cut(host, "?")
	if scheme != "stun" && scheme != "turn" || transport != "" && transport != "transport=udp" {
		return netip.AddrPort{}, false
	}
	at, err := netip.ParseAddrPort(host)
	return at, err == nil
}
