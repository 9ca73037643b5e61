package scheduler

import (
	"cmp"
	"context"
	"crypto/rand"
	"math"
	"net/netip"
	"slices"
	"strings"

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
	sites := s.probeSites(geo.VectorOf(c.Location), c.Location.RadiusKM)
	want := api.ProbeTargets
	if c.Location.Known && len(sites) > fewestProbes && sites[fewestProbes].leastMS() > sites[0].mostMS() {
		want = fewestProbes
	}
	expires := s.now().Add(api.ProbeLife).Unix()
	out := []api.ProbeTarget{}
	for rank := range api.ProbeTargets {
		for _, site := range sites {
			n := site.nodes[rank]
			if n == nil || len(out) == want || site.km >= 0 && rank >= sitePicks {
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

// siteKey tells sites apart: a square of the map, else a region.
type siteKey struct {
	region   string
	lat, lon float64
}

// probeSite is a place with its emptiest nodes.
type probeSite struct {
	km    float64 // from the client; negative when unknown
	errKM float64
	home  bool // of the default region
	nodes [api.ProbeTargets]*state.Node
	free  [api.ProbeTargets]uint64 // macroblocks per second
}

func (p *probeSite) leastMS() float64 { ms, e := geo.Estimate(p.km, p.errKM); return ms - e }
func (p *probeSite) mostMS() float64  { ms, e := geo.Estimate(p.km, p.errKM); return ms + e }

// probeSites groups the nodes that can be measured by site, nearest first; by
// region, the default one and then the emptiest first, where the client or the
// node is nowhere known.
func (s *Server) probeSites(client geo.Vector, radiusKM float64) []*probeSite {
	sites := map[siteKey]*probeSite{}
	now := s.cfg.Clock()
	for n := range s.root().Nodes() {
		if n.Drain || len(n.RelaySecret) == 0 || len(n.Relay) == 0 || !s.leases.alive(n, now, s.cfg.Lease) {
			continue
		}
		if len(relayAddresses(n)) == 0 {
			continue
		}
		km, key := client.KM(geo.VectorOf(n.Location)), siteKey{region: n.Region}
		if km >= 0 {
			key = siteKey{lat: math.Round(n.Location.Latitude / siteDegrees), lon: math.Round(n.Location.Longitude / siteDegrees)}
		}
		p := sites[key]
		if p == nil {
			p = &probeSite{km: km, errKM: radiusKM + n.Location.RadiusKM, home: n.Region == s.cfg.DefaultRegion}
			sites[key] = p
		}
		p.offer(n, freeRoom(n))
	}
	out := make([]*probeSite, 0, len(sites))
	for _, p := range sites {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *probeSite) int {
		return cmp.Or(cmp.Compare(a.order(), b.order()), cmp.Compare(b.free[0], a.free[0]), cmp.Compare(a.nodes[0].ID, b.nodes[0].ID))
	})
	return out
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

// order is small for a site to be measured first: its distance, and behind all
// known ones the default region before the others.
func (p *probeSite) order() float64 {
	switch {
	case p.km >= 0:
		return p.km
	case p.home:
		return math.MaxFloat64
	default:
		return math.Inf(1)
	}
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
		scheme, host, _ := strings.Cut(u, ":")
		host, transport, _ := strings.Cut(host, "?")
		if scheme != "stun" && scheme != "turn" || transport != "" && transport != "transport=udp" {
			continue
		}
		at, err := netip.ParseAddrPort(host)
		if err == nil && !slices.Contains(out, at.String()) && len(out) < probeAddresses {
			out = append(out, at.String())
		}
	}
	return out
}
