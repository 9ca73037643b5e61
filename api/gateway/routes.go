package gateway

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// route is one line of the API. The OpenAPI document has the same lines: a
// test holds them together.
type route struct {
	method, path string
	name         string      // label of the metrics
	rights       []api.Right // any one of them; none = no token needed
	sync         bool        // may wait for sessions to end
	limit        int64       // bytes of a body; 0 = MaxBody
	do           func(*gin.Context) (reply, error)
	raw          gin.HandlerFunc // instead of do: writes its own answer
}

// table lists every route. Paths under /1.0 are served with and without a
// trailing slash, never by a redirect: that would break a CORS preflight.
func (s *Server) table() []route {
	get, post, del := http.MethodGet, http.MethodPost, http.MethodDelete
	sessions := []api.Right{api.RightSessions}
	admin := []api.Right{api.RightAdmin}
	const socket = "/sockets/"
	return []route{
		{method: get, path: "/1.0/applications", name: "get_applications", rights: sessions, do: s.listApplications},
		{method: post, path: "/1.0/applications", name: "put_application", rights: admin, do: s.putApplication},
		{method: get, path: "/1.0/applications/:name", name: "get_application", rights: sessions, do: s.getApplication},
		{method: http.MethodPatch, path: "/1.0/applications/:name", name: "patch_application", rights: admin, do: s.patchApplication},
		{method: del, path: "/1.0/applications/:name", name: "delete_application", rights: admin, do: s.deleteApplication},
		{method: get, path: "/1.0/applications/:name/:version", name: "get_application_version", rights: admin, do: s.getVersion},
		{method: http.MethodPatch, path: "/1.0/applications/:name/:version", name: "patch_application_version", rights: admin, do: s.patchVersion},
		{method: del, path: "/1.0/applications/:name/:version", name: "delete_application_version", rights: admin, do: s.deleteVersion},
		{method: get, path: "/1.0/applications/:name/:version/manifest", name: "get_manifest", rights: admin, do: s.getManifest},
		{method: get, path: "/1.0/regions", name: "get_regions", rights: sessions, do: s.listRegions},
		{method: get, path: "/1.0/probes", name: "get_probes", rights: []api.Right{api.RightCreate}, do: s.probes},
		{method: get, path: "/1.0/status", name: "get_service_status", do: s.status},

		{method: get, path: "/1.0/sessions", name: "get_sessions", rights: sessions, do: s.listSessions},
		{method: post, path: "/1.0/sessions", name: "create_new_session", rights: []api.Right{api.RightCreate}, do: s.createSession},
		{method: del, path: "/1.0/sessions", name: "delete_sessions", rights: sessions, sync: true, do: s.deleteSessions},
		{method: get, path: "/1.0/sessions/:id", name: "get_session", rights: sessions, do: s.getSession},
		{method: get, path: "/1.0/sessions/:id/placement", name: "get_placement", rights: sessions, do: s.getPlacement},
		{method: del, path: "/1.0/sessions/:id", name: "delete_session", rights: sessions, sync: true, do: s.deleteSession},
		{method: post, path: "/1.0/sessions/:id/join", name: "join_session", rights: []api.Right{api.RightJoin}, do: s.joinSession},
		{method: post, path: "/1.0/sessions/:id/share", name: "share_session", rights: []api.Right{api.RightJoin}, do: s.shareSession},
		{method: get, path: "/1.0/sessions/:id/connect", name: "connect_share", do: s.connectShare},
		{method: get, path: "/1.0/shares", name: "get_shares", rights: sessions, do: s.listShares},
		{method: get, path: "/1.0/shares/:id", name: "get_share", rights: sessions, do: s.getShare},
		{method: http.MethodPatch, path: "/1.0/shares/:id", name: "change_share", rights: sessions, do: s.changeShare},
		{method: del, path: "/1.0/shares/:id", name: "revoke_share", rights: []api.Right{api.RightJoin}, do: s.revokeShare},
		{method: get, path: "/1.0/session/:id" + socket + "slave", name: "streaming_websocket_slave", raw: s.slave},
		{method: get, path: "/1.0/sessions/:id" + socket + "slave", name: "streaming_websocket_slave", raw: s.slave},
		{method: get, path: "/1.0/session/:id" + socket + "master", name: "streaming_websocket_master", raw: s.master},
		{method: get, path: "/1.0/sessions/:id" + socket + "master", name: "streaming_websocket_master", raw: s.master},

		{method: get, path: "/1.0/instances", name: "get_instances", rights: sessions, do: s.listInstances},
		{method: post, path: "/1.0/instances", name: "create_instance", rights: sessions, do: s.launchInstance},
		{method: get, path: "/1.0/instances/:id", name: "get_instance", rights: sessions, do: s.getInstance},
		{method: http.MethodPatch, path: "/1.0/instances/:id", name: "patch_instance", rights: sessions, do: s.patchInstance},
		{method: del, path: "/1.0/instances/:id", name: "delete_instance", rights: sessions, do: s.deleteInstance},
		{method: get, path: "/1.0/instances/:id/logs", name: "get_logs", rights: sessions, do: s.listLogs},
		{method: get, path: "/1.0/instances/:id/logs/:name", name: "get_log", raw: s.getLog},
		{method: get, path: "/1.0/instances/:id/exec", name: "exec_instance", raw: s.execInstance},
		{method: get, path: "/1.0/instances/:id/files", name: "pull_file", raw: s.pullFile},
		{method: http.MethodPut, path: "/1.0/instances/:id/files", name: "push_file", limit: api.MaxInstanceFile, raw: s.pushFile},
		{method: get, path: "/1.0/operations", name: "get_operations", rights: sessions, do: s.listOperations},
		{method: get, path: "/1.0/operations/:id", name: "get_operation", rights: sessions, do: s.getOperation},
		{method: get, path: "/1.0/operations/:id/wait", name: "wait_operation", rights: sessions, sync: true, do: s.waitOperation},
		{method: get, path: "/1.0/events", name: "get_events", raw: s.events},

		{method: get, path: "/1.0/perigee/pools", name: "get_warm_pools", rights: admin, do: s.listPools},
		{method: get, path: "/1.0/perigee/applications/:name/pools", name: "get_application_pools", rights: admin, do: s.listPools},
		{method: http.MethodPut, path: "/1.0/perigee/applications/:name/pools/:region", name: "put_warm_pool", rights: admin, do: s.putPool},
		{method: del, path: "/1.0/perigee/applications/:name/pools/:region", name: "delete_warm_pool", rights: admin, do: s.deletePool},
		{method: get, path: "/1.0/perigee/accounts", name: "get_accounts", rights: admin, do: s.listAccounts},
		{method: post, path: "/1.0/perigee/accounts", name: "create_account", rights: admin, do: s.createAccount},
		{method: del, path: "/1.0/perigee/accounts/:name", name: "delete_account", rights: admin, do: s.deleteAccount},
		{method: get, path: "/1.0/perigee/accounts/:name/policy", name: "get_account_policy", rights: admin, do: s.getPolicy},
		{method: http.MethodPut, path: "/1.0/perigee/accounts/:name/policy", name: "put_account_policy", rights: admin, do: s.putPolicy},
		{method: del, path: "/1.0/perigee/accounts/:name/policy", name: "delete_account_policy", rights: admin, do: s.deletePolicy},
		{method: post, path: "/1.0/perigee/accounts/:name/tokens", name: "create_token", rights: admin, do: s.createToken},
		{method: del, path: "/1.0/perigee/accounts/:name/tokens/:token", name: "revoke_token", rights: admin, do: s.revokeToken},
		{method: get, path: "/1.0/perigee/nodes", name: "get_nodes", rights: admin, do: s.listNodes},
		{method: post, path: "/1.0/perigee/nodes/join", name: "join_node", do: s.joinNode},
		{method: post, path: "/1.0/perigee/nodes/:id/drain", name: "drain_node", rights: admin, do: s.drainNode},
		{method: del, path: "/1.0/perigee/nodes/:id", name: "remove_node", rights: admin, do: s.removeNode},
		{method: get, path: "/1.0/perigee/refusals", name: "get_refusals", rights: admin, do: s.getRefusals},
		{method: get, path: "/1.0/perigee/demand", name: "get_demand", rights: admin, do: s.demand},
		{method: get, path: "/1.0/perigee/replicas", name: "get_replicas", rights: admin, do: s.listReplicas},
		{method: post, path: "/1.0/perigee/replicas", name: "add_replica", rights: admin, do: s.addReplica},
		{method: del, path: "/1.0/perigee/replicas/:id", name: "remove_replica", rights: admin, do: s.removeReplica},
		{method: post, path: "/1.0/perigee/leader", name: "set_leader", rights: admin, do: s.setLeader},
		{method: get, path: "/1.0/perigee/snapshot", name: "save_snapshot", raw: s.saveSnapshot},
		{method: post, path: "/1.0/perigee/snapshot", name: "restore_snapshot", limit: maxSnapshot, raw: s.restoreSnapshot},
		{method: get, path: "/1.0/perigee/manifest.schema.json", name: "get_schema", raw: s.manifestSchema},
		{method: get, path: "/1.0/perigee/openapi.yaml", name: "get_openapi", raw: s.openAPI},

		{method: get, path: "/metrics", name: "metrics", raw: gin.WrapH(s.metrics.handler())},
		{method: get, path: "/", name: "player", raw: s.web},
		{method: get, path: "/static/*file", name: "player", raw: s.web},
	}
}

// engine builds the handler of one listener.
func (s *Server) engine(admin bool) http.Handler {
	e := gin.New()
	e.RedirectTrailingSlash = false
	e.RedirectFixedPath = false
	e.HandleMethodNotAllowed = true
	e.Use(s.observe, s.recovered, s.cors)
	if !admin {
		e.Use(s.limitRate)
	}
	e.NoRoute(func(c *gin.Context) {
		s.fail(c, api.Errorf(api.CodeNotFound, "%s is not served here", c.Request.URL.Path))
	})
	e.NoMethod(func(c *gin.Context) {
		s.failStatus(c, http.StatusMethodNotAllowed, api.Errorf(api.CodeInvalid, "%s is not a method of %s; it has %s",
			c.Request.Method, c.Request.URL.Path, c.Writer.Header().Get("Allow")))
	})
	for _, r := range s.routes {
		h := s.serve(r, admin)
		e.Handle(r.method, r.path, h)
		if len(r.path) > 5 && r.path[:5] == "/1.0/" {
			e.Handle(r.method, r.path+"/", h)
		}
	}
	return e
}

// serve wraps a route: label, deadline, body limit, token, envelope.
func (s *Server) serve(r route, admin bool) gin.HandlerFunc {
	return func(c *gin.Context) {
		known := ofRequest(c)
		known.handler, known.admin = r.name, admin
		c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, cmp.Or(r.limit, MaxBody))
		if r.raw != nil {
			r.raw(c)
			return
		}
		ctx, cancel := context.WithTimeout(c.Request.Context(), s.deadline(r))
		defer cancel()
		c.Request = c.Request.WithContext(ctx)
		if len(r.rights) > 0 {
			if err := s.authorize(c, r.rights); err != nil {
				s.fail(c, err)
				return
			}
			if err := s.fresh(c); err != nil {
				s.fail(c, err)
				return
			}
		}
		a, err := r.do(c)
		if err != nil {
			s.fail(c, err)
			return
		}
		s.answer(c, a)
	}
}

func (s *Server) deadline(r route) time.Duration {
	if r.sync {
		return s.cfg.SyncTimeout
	}
	return s.cfg.RequestTimeout
}

// ofCall is what a request's handlers hand on: one value, as each key of gin's
// costs an entry of a map.
type ofCall struct {
	handler string // label of the metrics; "" = none of ours
	admin   bool
	grant   api.Grant
}

const keyCall = "call"

// ofRequest gives what observe has laid out.
func ofRequest(c *gin.Context) *ofCall {
	k, _ := c.MustGet(keyCall).(*ofCall)
	return k
}

func (s *Server) openAPI(c *gin.Context) {
	c.Data(http.StatusOK, "application/yaml", []byte(api.OpenAPI()))
}

func (s *Server) web(c *gin.Context) {
	if s.cfg.Web == nil {
		s.fail(c, api.Errorf(api.CodeNotFound, "this gateway serves no player"))
		return
	}
	s.cfg.Web.ServeHTTP(c.Writer, c.Request)
}
