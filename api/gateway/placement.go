package gateway

import (
	"github.com/gin-gonic/gin"
)

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
