package gateway

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// parsePrefixes reads addresses and networks.
func parsePrefixes(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range list {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("read trusted proxy %q: must be an address or a network like 10.0.0.0/8", text)
		}
		a = a.Unmap()
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out, nil
}

func (s *Server) isTrusted(a netip.Addr) bool {
	for _, p := range s.trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// parseAddress reads an address as headers and sockets give it: with or
// without port, brackets and zone.
func parseAddress(text string) (netip.Addr, bool) {
	text = strings.TrimSpace(text)
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	}
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return netip.Addr{}, false
	}
	return a.Unmap().WithZone(""), true
}

// clientAddress is the address a request came from: the socket's, and behind
// trusted proxies the nearest one that is not such a proxy. Read from the right:
// what stands left of the first untrusted address anybody can write.
func (s *Server) clientAddress(r *http.Request) (netip.Addr, bool) {
	addr, ok := parseAddress(r.RemoteAddr)
	if !ok || !s.isTrusted(addr) {
		return addr, ok
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, ok := parseAddress(hops[i])
		if !ok {
			break
		}
		addr = hop
		if !s.isTrusted(hop) {
			break
		}
	}
	return addr, true
}

// socketURL is the address of a session's websocket with its ticket.
func (s *Server) socketURL(c *gin.Context, id api.SessionID, role, ticket string) string {
	base := s.base(c)
	scheme := "ws"
	if base.Scheme == "https" {
		scheme = "wss"
	}
	if plainHost(base.Host) && base.Path == "" {
		return scheme + "://" + base.Host + "/1.0/sessions/" + string(id) + "/sockets/" + role + "?token=" + url.QueryEscape(ticket)
	}
	u := url.URL{
		Scheme: scheme, Host: base.Host,
		Path:     strings.TrimRight(base.Path, "/") + "/1.0/sessions/" + string(id) + "/sockets/" + role,
		RawQuery: "token=" + url.QueryEscape(ticket),
	}
	return u.String()
}

// plainHost says of a host that nothing of it is escaped in a URL.
func plainHost(h string) bool {
	for i := range len(h) {
		switch c := h[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == ':':
		default:
			return false
		}
	}
	return true
}

// base is the address under which the client reaches this gateway.
func (s *Server) base(c *gin.Context) url.URL {
	if s.public != nil {
		return *s.public
	}
	if ofRequest(c).admin && s.local != nil {
		return *s.local
	}
	r := c.Request
	u := url.URL{Scheme: "http", Host: r.Host}
	if r.TLS != nil {
		u.Scheme = "https"
	}
	if len(s.trusted) == 0 {
		return u
	}
	if peer, ok := parseAddress(r.RemoteAddr); !ok || !s.isTrusted(peer) {
		return u
	}
	if p := firstOf(r.Header.Get("X-Forwarded-Proto")); strings.EqualFold(p, "https") || strings.EqualFold(p, "http") {
		u.Scheme = strings.ToLower(p)
	}
	if h := firstOf(r.Header.Get("X-Forwarded-Host")); plausibleHost(h) {
		u.Host = h
	}
	return u
}

func firstOf(list string) string {
	first, _, _ := strings.Cut(list, ",")
	return strings.TrimSpace(first)
}

func plausibleHost(h string) bool {
	if h == "" || len(h) > 255 {
		return false
	}
	u, err := url.Parse("http://" + h)
	return err == nil && u.Host == h && u.User == nil
}

// whereabouts finds where the user is: what the caller says of the user, if it
// may, else the request's own address.
func (s *Server) whereabouts(c *gin.Context, extras *api.RequestExtras) (api.Client, error) {
	var out api.Client
	if extras != nil && (extras.ClientAddress != "" || extras.Location != nil) && !grantOf(c).Can(api.RightOnBehalf) {
		return out, api.Errorf(api.CodeForbidden,
			"perigee.client_address and perigee.location need a token with the right %q", api.RightOnBehalf)
	}
	if extras != nil && extras.ClientAddress != "" {
		a, err := netip.ParseAddr(extras.ClientAddress)
		if err != nil {
			return out, api.Invalidf("perigee.client_address", "%q is not an IP address", extras.ClientAddress)
		}
		out.Address = a.Unmap().WithZone("").String()
	} else if a, ok := s.clientAddress(c.Request); ok && !ofRequest(c).admin {
		out.Address = a.String()
	}
	if extras != nil && extras.Location != nil {
		loc, err := location(*extras.Location)
		out.Location = loc
		return out, err
	}
	if out.Address != "" {
		out.Location = s.cfg.Locator.Locate(out.Address)
	}
	return out, nil
}

func location(b api.LocationBody) (api.Location, error) {
	const field = "perigee.location"
	switch {
	case b.Latitude == nil || b.Longitude == nil:
		return api.Location{}, api.Invalidf(field, "needs both latitude and longitude, in degrees")
	case *b.Latitude < -90 || *b.Latitude > 90:
		return api.Location{}, api.Invalidf(field+".latitude", "must be -90 to 90 degrees, got %v", *b.Latitude)
	case *b.Longitude < -180 || *b.Longitude > 180:
		return api.Location{}, api.Invalidf(field+".longitude", "must be -180 to 180 degrees, got %v", *b.Longitude)
	case b.RadiusKM < 0 || b.RadiusKM > 20100:
		return api.Location{}, api.Invalidf(field+".radius_km", "must be 0 to 20100 km, got %v", b.RadiusKM)
	}
	return api.Location{Latitude: *b.Latitude, Longitude: *b.Longitude, RadiusKM: b.RadiusKM, Known: true, Source: "client"}, nil
}
