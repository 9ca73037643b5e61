package gateway

import (
	"cmp"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// usualRefusals are listed where no limit is asked for.
const usualRefusals = 100

// getRefusals lists the requests that were turned away, as a replay reads them.
func (s *Server) getRefusals(c *gin.Context) (reply, error) {
	limit, err := queryCount(c, "limit")
	if err != nil {
		return reply{}, err
	}
	if limit > api.MaxRefusals {
		return reply{}, api.Invalidf("limit", "at most %d, got %d", api.MaxRefusals, limit)
	}
	list, err := s.cfg.Nodes.Refusals(c.Request.Context(), cmp.Or(limit, usualRefusals))
	if err != nil {
		return reply{}, err
	}
	n := len(list)
	return reply{metadata: list, total: &n}, nil
}

// getPlacement says why a session runs where it does.
func (s *Server) getPlacement(c *gin.Context) (reply, error) {
	id, err := sessionID(c)
	if err != nil {
		return reply{}, err
	}
	if _, err := s.find(c.Request.Context(), id, grantOf(c)); err != nil {
		return reply{}, err
	}
	x, err := s.cfg.Sessions.Placement(c.Request.Context(), id)
	if err != nil {
		return reply{}, err
	}
	return reply{metadata: x}, nil
}
