package gateway

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// WarmPools is what the gateway needs of the scheduler for instances that are
// started before anybody asks.
type WarmPools interface {
	// WarmPools gives every pool as it is, by application and region.
	WarmPools(ctx context.Context) ([]api.WarmPoolState, error)
	SetWarmPool(ctx context.Context, p api.WarmPool) error
	DropWarmPool(ctx context.Context, app, region string) error
}

// poolBody is a pool, read strictly: a misspelt count would be none.
type poolBody struct{ pool api.WarmPool }

// UnmarshalJSON refuses fields that a pool does not have.
func (b *poolBody) UnmarshalJSON(text []byte) error {
	if err := json.Unmarshal(text, &b.pool); err != nil {
		return err
	}
	if why := strict(text, &api.WarmPool{}); why != "" {
		return api.Invalidf("pool", "%s: it has always_on, target_idle, max, within_ms, time_zone and schedule", strings.TrimPrefix(why, "json: "))
	}
	return nil
}

var errNoPools = api.Errorf(api.CodeNotFound, "this gateway keeps no pools")

func (s *Server) listPools(c *gin.Context) (reply, error) {
	if s.cfg.WarmPools == nil {
		return reply{}, errNoPools
	}
	all, err := s.cfg.WarmPools.WarmPools(c.Request.Context())
	if err != nil {
		return reply{}, err
	}
	list := []api.WarmPoolState{}
	for _, p := range all {
		if app := c.Param("name"); app == "" || p.App == app {
			list = append(list, p)
		}
	}
	n := len(list)
	return reply{metadata: list, total: &n}, nil
}

func (s *Server) putPool(c *gin.Context) (reply, error) {
	if s.cfg.WarmPools == nil {
		return reply{}, errNoPools
	}
	var b poolBody
	if err := readBody(c, &b, false); err != nil {
		return reply{}, err
	}
	for _, f := range []struct {
		field string
		v     *string
		path  string
	}{{"app", &b.pool.App, c.Param("name")}, {"region", &b.pool.Region, c.Param("region")}} {
		if *f.v != "" && *f.v != f.path {
			return reply{}, api.Invalidf(f.field, "%q is another one than the path's, %q: leave it out", *f.v, f.path)
		}
		*f.v = f.path
	}
	p, err := b.pool.Normalize()
	if err != nil {
		return reply{}, err
	}
	return reply{metadata: p}, s.cfg.WarmPools.SetWarmPool(c.Request.Context(), p)
}

func (s *Server) deletePool(c *gin.Context) (reply, error) {
	if s.cfg.WarmPools == nil {
		return reply{}, errNoPools
	}
	return reply{}, s.cfg.WarmPools.DropWarmPool(c.Request.Context(), c.Param("name"), c.Param("region"))
}
