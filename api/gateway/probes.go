package gateway

import (
	"context"
	"fmt"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// Prober is what the gateway needs of the scheduler for probing.
type Prober interface {
	// Probes gives the nodes that a client may measure, the likeliest first, at
	// most api.ProbeTargets, each with a ticket of api.ProbeLife.
	Probes(ctx context.Context, c api.Client, g api.Grant) ([]api.ProbeTarget, error)
}

// probes answers which nodes the client may measure. It costs a page token no use.
func (s *Server) probes(c *gin.Context) (reply, error) {
	if s.cfg.Prober == nil {
		return reply{}, api.Errorf(api.CodeNotFound, "this gateway offers no probes")
	}
	where, err := s.whereabouts(c, &api.RequestExtras{ClientAddress: c.Query("client_address")})
	if err != nil {
		return reply{}, err
	}
	list, err := s.cfg.Prober.Probes(c.Request.Context(), where, grantOf(c))
	if err != nil {
		return reply{}, err
	}
	if list == nil {
		list = []api.ProbeTarget{}
	}
	n := len(list)
	return reply{metadata: list, total: &n}, nil
}

// measured checks the round trips that a client says it measured.
func measured(list []api.Probe) ([]api.Probe, error) {
	const field = "perigee.probes"
	if len(list) > api.MaxProbes {
		return nil, api.Invalidf(field, "at most %d nodes, got %d", api.MaxProbes, len(list))
	}
	seen := make(map[api.NodeID]bool, len(list))
	for i, p := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		if !api.ValidID(string(p.Node)) {
			return nil, api.Invalidf(at+".node", "%q is not a node's id", p.Node)
		}
		if seen[p.Node] {
			return nil, api.Invalidf(at+".node", "%q is there twice: send its smallest round trip", p.Node)
		}
		seen[p.Node] = true
		if !(p.RoundTripMS > 0 && p.RoundTripMS <= api.MaxProbeMS) {
			return nil, api.Invalidf(at+".round_trip_ms", "must be above 0 and at most %d ms, got %v", api.MaxProbeMS, p.RoundTripMS)
		}
	}
	return list, nil
}
