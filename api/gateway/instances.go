package gateway

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

const (
	logName     = "app.log"
	waitEvery   = 50 * time.Millisecond  // between two looks at an operation
	followEvery = 250 * time.Millisecond // between two looks at a log
)

// instance finds the one that the path names, by id or name.
func (s *Server) instance(c *gin.Context) (api.Instance, error) {
	id, err := sessionID(c)
	if err != nil {
		return api.Instance{}, err
	}
	return s.seen(c.Request.Context(), grantOf(c), string(id))
}

// seen finds an instance of the grant's account, or any for an operator. A token
// of one application reaches no other's.
func (s *Server) seen(ctx context.Context, g api.Grant, name string) (api.Instance, error) {
	if s.cfg.Instances == nil {
		return api.Instance{}, errNoInstances
	}
	i, err := s.cfg.Instances.Instance(ctx, scope(g), name)
	if err == nil && !sees(g, i.Session) {
		return api.Instance{}, api.Errorf(api.CodeForbidden, "this token is for the application %q alone", g.App)
	}
	return i, err
}

var errNoInstances = api.Errorf(api.CodeNotFound, "this gateway serves no instances")

func instanceView(i *api.Instance, g api.Grant) api.InstanceView {
	v := &i.Session
	size, idle := v.Screen, v.IdleMinutes
	if idle < 0 {
		idle = int(api.JoinableIdle.Minutes())
	}
	out := api.InstanceView{
		ID: v.ID, Name: i.Name, Type: string(api.AppProgram), Status: i.State().String(), StatusCode: i.State(), StatusText: statusMessage(v),
		Node: v.Node, AppID: v.App, AppName: v.App, AppVersion: v.AppVersion, CreatedAt: v.CreatedAt.Unix(), StoredLogs: []string{logName},
		Config: api.InstanceConfig{
			Platform: "null", EnableStreaming: i.Streaming,
			Display: &api.ScreenBody{Width: &size.Width, Height: &size.Height, FPS: &size.FPS, Density: &size.Density},
		},
		Tags:    append([]string{}, i.AllTags()...),
		Perigee: api.InstanceDetail{SessionDetail: detail(v, g), Joinable: v.Joinable, Protected: i.Protected, IdleMinutes: idle},
	}
	if i.Streaming {
		out.Config.Platform = "webrtc"
	}
	if i.State() == api.InstanceError {
		out.ErrorMessage = out.StatusText
	}
	return out
}

func (s *Server) launchInstance(c *gin.Context) (reply, error) {
	if s.cfg.Instances == nil {
		return reply{}, errNoInstances
	}
	var b api.LaunchBody
	if err := readBody(c, &b, false); err != nil {
		return reply{}, err
	}
	if b.NoStart {
		return reply{}, api.Invalidf("no_start", "is not offered: an instance starts when it is launched")
	}
	r := api.LaunchRequest{
		Name: b.Name, App: b.AppID, AppVersion: b.AppVersion, Node: b.Node, Streaming: b.Config.EnableStreaming, Tags: b.Tags,
		UserData: b.UserData, Grant: grantOf(c),
	}
	if r.Grant.App != "" && r.Grant.App != r.App {
		return reply{}, api.Errorf(api.CodeForbidden, "this token is for the application %q alone", r.Grant.App)
	}
	var err error
	if r.Screen, err = screen(b.Config.Display); err != nil {
		return reply{}, err
	}
	var extras *api.RequestExtras
	if b.Perigee != nil {
		r.Region, r.IdleMinutes, extras = b.Perigee.Region, b.Perigee.IdleMinutes, &b.Perigee.RequestExtras
	}
	if r.Client, err = s.whereabouts(c, extras); err != nil {
		return reply{}, err
	}
	if r, err = r.Normalize(); err != nil {
		return reply{}, err
	}
	i, err := s.cfg.Instances.LaunchInstance(c.Request.Context(), r)
	if err != nil {
		return reply{}, err
	}
	return started(&i, api.OperationStart), nil
}

// started answers with the operation that goes on.
func started(i *api.Instance, action string) reply {
	o := i.Operation(action)
	return reply{operation: "/1.0/operations/" + o.ID, metadata: o}
}

func (s *Server) listInstances(c *gin.Context) (reply, error) {
	if s.cfg.Instances == nil {
		return reply{}, errNoInstances
	}
	g := grantOf(c)
	q := api.InstanceQuery{Account: scope(g), App: c.Query("app_name"), Node: api.NodeID(c.Query("node")), Tag: c.Query("tags")}
	if q.App == "" {
		q.App = c.Query("app_id")
	}
	var err error
	if q.Limit, err = queryCount(c, "limit"); err != nil {
		return reply{}, err
	}
	if q.Offset, err = queryCount(c, "offset"); err != nil {
		return reply{}, err
	}
	if text := c.Query("status"); text != "" {
		st, err := api.ParseInstanceState(text)
		if err != nil {
			return reply{}, err
		}
		q.Status = &st
	}
	whole, err := queryBool(c, "recursion")
	if err != nil {
		return reply{}, err
	}
	list, n, err := s.cfg.Instances.ListInstances(c.Request.Context(), q)
	if err != nil {
		return reply{}, err
	}
	if !whole {
		paths := make([]string, len(list))
		for k := range list {
			paths[k] = instancePath(list[k].Session.ID)
		}
		return reply{metadata: paths, total: &n}, nil
	}
	views := make([]api.InstanceView, len(list))
	for k := range list {
		views[k] = instanceView(&list[k], g)
	}
	return reply{metadata: views, total: &n}, nil
}

func instancePath(id api.SessionID) string { return "/1.0/instances/" + string(id) }

func (s *Server) getInstance(c *gin.Context) (reply, error) {
	i, err := s.instance(c)
	if err != nil {
		return reply{}, err
	}
	return reply{metadata: instanceView(&i, grantOf(c))}, nil
}

// patchInstance changes an instance; what the body does not say stays.
func (s *Server) patchInstance(c *gin.Context) (reply, error) {
	i, err := s.instance(c)
	if err != nil {
		return reply{}, err
	}
	var b api.InstanceChangeBody
	if err := readBody(c, &b, false); err != nil {
		return reply{}, err
	}
	q := api.InstanceChange{Tags: b.Tags, Grant: grantOf(c)}
	if p := b.Perigee; p != nil {
		q.Joinable, q.Protected, q.IdleMinutes = p.Joinable, p.Protected, p.IdleMinutes
	}
	if q, err = q.Normalize(); err != nil {
		return reply{}, err
	}
	if i, err = s.cfg.Instances.ChangeInstance(c.Request.Context(), i.Session.ID, q); err != nil {
		return reply{}, err
	}
	return reply{metadata: instanceView(&i, grantOf(c))}, nil
}

func (s *Server) deleteInstance(c *gin.Context) (reply, error) {
	i, err := s.instance(c)
	if err != nil {
		return reply{}, err
	}
	force, err := queryBool(c, "force")
	if err != nil {
		return reply{}, err
	}
	if err := s.cfg.Sessions.EndSession(c.Request.Context(), i.Session.ID, api.EndRequest{Force: force, Grant: grantOf(c)}); err != nil {
		return reply{}, err
	}
	return started(&i, api.OperationStop), nil
}

func (s *Server) listLogs(c *gin.Context) (reply, error) {
	i, err := s.instance(c)
	if err != nil {
		return reply{}, err
	}
	return reply{metadata: []string{instancePath(i.Session.ID) + "/logs/" + logName}}, nil
}

// operation finds the one that the path names.
func (s *Server) operation(ctx context.Context, c *gin.Context) (api.OperationView, error) {
	action, id, err := api.ParseOperation(c.Param("id"))
	if err != nil {
		return api.OperationView{}, err
	}
	i, err := s.seen(ctx, grantOf(c), string(id))
	if err != nil {
		return api.OperationView{}, err
	}
	if action == api.OperationStop && i.Session.Desired != api.DesiredStop && !api.Final(i.Session.Observed) {
		return api.OperationView{}, api.Errorf(api.CodeNotFound, "no operation %q: nobody has asked for the instance's end", c.Param("id"))
	}
	return i.Operation(action), nil
}

func (s *Server) getOperation(c *gin.Context) (reply, error) {
	o, err := s.operation(c.Request.Context(), c)
	return reply{metadata: o}, err
}

// waitOperation answers when the operation is over, or with what it is when
// the time is up.
func (s *Server) waitOperation(c *gin.Context) (reply, error) {
	limit := s.cfg.SyncTimeout
	if text := c.Query("timeout"); text != "" && text != "-1" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return reply{}, api.Invalidf("timeout", "must be seconds, got %q", text)
		}
		limit = min(limit, time.Duration(n)*time.Second)
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), limit)
	defer cancel()
	tick := time.NewTicker(waitEvery)
	defer tick.Stop()
	for {
		o, err := s.operation(c.Request.Context(), c)
		if err != nil || o.StatusCode != api.OperationRunning {
			return reply{metadata: o}, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return reply{metadata: o}, nil
		}
	}
}

// listOperations lists what goes on: starts and ends of instances.
func (s *Server) listOperations(c *gin.Context) (reply, error) {
	if s.cfg.Instances == nil {
		return reply{}, errNoInstances
	}
	list, _, err := s.cfg.Instances.ListInstances(c.Request.Context(), api.InstanceQuery{Account: scope(grantOf(c))})
	if err != nil {
		return reply{}, err
	}
	out := []api.OperationView{}
	for k := range list {
		if o, on := goesOn(&list[k]); on {
			out = append(out, o)
		}
	}
	n := len(out)
	return reply{metadata: out, total: &n}, nil
}

// goesOn gives the operation on an instance that is not over yet.
func goesOn(i *api.Instance) (api.OperationView, bool) {
	action := api.OperationStart
	if i.Session.Desired == api.DesiredStop {
		action = api.OperationStop
	}
	o := i.Operation(action)
	return o, o.StatusCode == api.OperationRunning
}

// getLog writes an instance's log as text: from an offset, its tail, or with
// follow all that comes until the instance has ended.
func (s *Server) getLog(c *gin.Context) {
	if err := s.authorize(c, []api.Right{api.RightSessions}); err != nil {
		s.fail(c, err)
		return
	}
	q, follow, err := logQuery(c)
	var i api.Instance
	if err == nil {
		i, err = s.instance(c)
	}
	var p api.LogPart
	if err == nil {
		p, err = s.logPart(c, i, q)
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	c.Header("Content-Type", "text/plain; charset=utf-8")
	c.Header("X-Content-Type-Options", "nosniff")
	c.Header("Perigee-Log-From", strconv.FormatInt(p.From, 10))
	c.Status(http.StatusOK)
	s.pour(c, i, p, follow)
}

func logQuery(c *gin.Context) (q api.LogQuery, follow bool, err error) {
	if c.Param("name") != logName {
		return q, false, api.Errorf(api.CodeNotFound, "no log %q: there is %s", c.Param("name"), logName)
	}
	if text := c.Query("offset"); text != "" {
		if q.Offset, err = strconv.ParseInt(text, 10, 64); err != nil || q.Offset < 0 {
			return q, false, api.Invalidf("offset", "%q must be a number of bytes", text)
		}
	}
	tail, err := queryCount(c, "tail")
	if err != nil {
		return q, false, err
	}
	follow, err = queryBool(c, "follow")
	q.Tail = tail
	return q, follow, err
}

// pour writes parts until there is no more, or the client has gone.
func (s *Server) pour(c *gin.Context, i api.Instance, p api.LogPart, follow bool) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	out := http.NewResponseController(c.Writer)
	for {
		_ = out.SetWriteDeadline(time.Now().Add(enterStall)) // the server's own would cut who follows
		if _, err := c.Writer.WriteString(p.Text); err != nil {
			return
		}
		if err := out.Flush(); err != nil || p.Ended || !follow && len(p.Text) < api.MaxLogPart {
			return
		}
		if len(p.Text) < api.MaxLogPart { // that was all so far
			select {
			case <-c.Request.Context().Done():
				return
			case <-tick.C:
			}
			if s.isDraining() {
				return
			}
		}
		next, err := s.logPart(c, i, api.LogQuery{Offset: p.Next})
		if err != nil {
			return // its log went, or its node: the text ends here
		}
		p = next
	}
}

func (s *Server) logPart(c *gin.Context, i api.Instance, q api.LogQuery) (api.LogPart, error) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.cfg.RequestTimeout)
	defer cancel()
	return s.cfg.Instances.InstanceLog(ctx, i.Session, q)
}
