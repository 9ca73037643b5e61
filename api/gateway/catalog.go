package gateway

import (
	"context"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

func (s *Server) listApplications(c *gin.Context) (reply, error) {
	apps, err := s.cfg.Catalog.Applications(c.Request.Context())
	if err != nil {
		return reply{}, err
	}
	admin := grantOf(c).Can(api.RightAdmin)
	out := make([]api.AppView, len(apps))
	for i, a := range apps {
		out[i] = appView(a, admin)
	}
	n := len(out)
	return reply{metadata: out, total: &n}, nil
}

// appView shows an application; what it runs is for administrators only.
func appView(a api.App, admin bool) api.AppView {
	v := api.AppView{Name: a.Name, Perigee: api.AppDetail{
		Version: a.Version, Title: a.Title, Kind: a.Kind, Codecs: a.AllowedCodecs(),
	}}
	if admin {
		v.Perigee.App = &a
	}
	return v
}

func (s *Server) deleteApplication(c *gin.Context) (reply, error) {
	name := c.Param("name")
	if err := api.ValidAppName(name); err != nil {
		return reply{}, err
	}
	return reply{}, s.cfg.Catalog.DeleteApplication(c.Request.Context(), name)
}

// application finds one application by name.
func (s *Server) application(ctx context.Context, name string) (api.App, error) {
	apps, err := s.cfg.Catalog.Applications(ctx)
	if err != nil {
		return api.App{}, err
	}
	for _, a := range apps {
		if a.Name == name {
			return a, nil
		}
	}
	return api.App{}, api.Errorf(api.CodeNotFound, "application %q does not exist", name)
}

func (s *Server) listRegions(c *gin.Context) (reply, error) {
	names, err := s.cfg.Cluster.Regions(c.Request.Context())
	if err != nil {
		return reply{}, err
	}
	out := make([]api.RegionView, len(names))
	for i, n := range names {
		out[i] = api.RegionView{Name: n}
	}
	n := len(out)
	return reply{metadata: out, total: &n}, nil
}

// status needs no token; a caller who sends a good one is told more, one who
// sends a bad one is told that.
func (s *Server) status(c *gin.Context) (reply, error) {
	g, ok, err := s.authenticate(c)
	if err != nil {
		return reply{}, err
	}
	st, err := s.cfg.Cluster.Status(c.Request.Context())
	if err != nil {
		return reply{}, err
	}
	v := api.StatusView{Status: "healthy"}
	if !st.Healthy || s.isDraining() {
		v.Status = "unhealthy"
	}
	if ok && g.Can(api.RightSessions) {
		v.Agents, v.DBNodes = &st.Nodes, &st.Replicas
		v.Perigee = &api.StatusDetail{Leader: st.Leader, Sessions: st.Sessions, Version: s.cfg.Version}
	}
	return reply{metadata: v}, nil
}
