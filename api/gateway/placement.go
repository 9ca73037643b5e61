package gateway

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
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

// appBody is an application as an operator gives it. Its placement is read
// strictly: a misspelt rule would be none.
type appBody struct{ app api.App }

// UnmarshalJSON refuses fields that a policy does not have.
func (b *appBody) UnmarshalJSON(text []byte) error {
	if err := json.Unmarshal(text, &b.app); err != nil {
		return err
	}
	var only struct {
		Placement json.RawMessage `json:"placement"`
	}
	if b.app.Placement == nil {
		return nil
	}
	if err := json.Unmarshal(text, &only); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(only.Placement))
	d.DisallowUnknownFields()
	if err := d.Decode(&api.PlacementPolicy{}); err != nil {
		return api.Invalidf("placement", "%s: it has max_round_trip_ms, relax_ms_per_s, relax_to_ms, order, min_fps, regions, labels and preferred_within_ms",
			strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}
