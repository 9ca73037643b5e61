package gateway

import (
	"context"
	"net/http"
	"slices"

	"github.com/gin-gonic/gin"
	"golang.org/x/sync/errgroup"

	"github.com/perigee-cloud/perigee/api"
)

func (s *Server) createSession(c *gin.Context) (reply, error) {
	var body api.CreateBody
	if err := readCreate(c, &body); err != nil {
		return reply{}, err
	}
	r, err := createRequest(body)
	if err != nil {
		return reply{}, err
	}
	r.Grant = grantOf(c)
	if r.Grant.App != "" && r.Grant.App != r.App {
		return reply{}, api.Errorf(api.CodeForbidden, "this token is for the application %q alone", r.Grant.App)
	}
	if r.Client, err = s.whereabouts(c, body.Perigee); err != nil {
		return reply{}, err
	}
	a, err := s.cfg.Sessions.CreateSession(c.Request.Context(), r)
	if err != nil {
		return reply{}, err
	}
	sess := &a.Session
	return reply{status: http.StatusCreated, metadata: &created{
		ID: sess.ID, Region: sess.Region, Status: sess.Status(), Joinable: sess.Joinable,
		URL: s.socketURL(c, sess.ID, "slave", a.Ticket), STUNServers: iceServers(a.ICEServers),
		Perigee: detail(sess, r.Grant),
	}}, nil
}

func (s *Server) joinSession(c *gin.Context) (reply, error) {
	id, err := sessionID(c)
	if err != nil {
		return reply{}, err
	}
	var body api.JoinBody
	if err := readBody(c, &body, true); err != nil {
		return reply{}, err
	}
	r := api.JoinRequest{Grant: grantOf(c)}
	if r.Screen, err = joinScreen(body.Screen); err != nil {
		return reply{}, err
	}
	var extras *api.RequestExtras
	if body.Perigee != nil {
		extras = &body.Perigee.RequestExtras
		if r.Seat, err = body.Perigee.Normalize(); err != nil {
			return reply{}, err
		}
	}
	if r.Client, err = s.whereabouts(c, extras); err != nil {
		return reply{}, err
	}
	if _, err := s.find(c.Request.Context(), id, r.Grant); err != nil {
		return reply{}, err
	}
	a, err := s.cfg.Sessions.JoinSession(c.Request.Context(), id, r)
	if api.CodeOf(err) == api.CodeConflict {
		// The contract's answer to a session that is not active.
		told := *asError(err)
		told.Code = api.CodeInvalid
		return reply{}, &told
	}
	if err != nil {
		return reply{}, err
	}
	return reply{metadata: api.JoinAnswer{
		URL: s.socketURL(c, id, "slave", a.Ticket), STUNServers: iceServers(a.ICEServers),
		Perigee: detail(&a.Session, r.Grant),
	}}, nil
}

// find reads a session that the grant may know of.
func (s *Server) find(ctx context.Context, id api.SessionID, g api.Grant) (api.Session, error) {
	sess, err := s.cfg.Sessions.Session(ctx, id)
	if err != nil {
		return sess, err
	}
	if !sees(g, sess) {
		return api.Session{}, api.Errorf(api.CodeNotFound, "session %s does not exist", id)
	}
	return sess, nil
}

func (s *Server) getSession(c *gin.Context) (reply, error) {
	id, err := sessionID(c)
	if err != nil {
		return reply{}, err
	}
	g := grantOf(c)
	sess, err := s.find(c.Request.Context(), id, g)
	if err != nil {
		return reply{}, err
	}
	return reply{metadata: view(&sess, g)}, nil
}

func (s *Server) listSessions(c *gin.Context) (reply, error) {
	g := grantOf(c)
	q, recursion, err := sessionQuery(c)
	if err != nil {
		return reply{}, err
	}
	q.Account = scope(g)
	list, total, err := s.cfg.Sessions.ListSessions(c.Request.Context(), q)
	if err != nil {
		return reply{}, err
	}
	if !recursion {
		ids := make([]api.SessionID, len(list))
		for i := range list {
			ids[i] = list[i].ID
		}
		return reply{metadata: ids, total: &total}, nil
	}
	views := make([]api.SessionView, len(list))
	for i := range list {
		views[i] = view(&list[i], g)
	}
	return reply{metadata: views, total: &total}, nil
}

// sessionQuery reads what a list of sessions is asked for. "recursive" is the
// name that old clients use.
func sessionQuery(c *gin.Context) (q api.SessionQuery, recursion bool, err error) {
	if recursion, err = queryBool(c, "recursion", "recursive"); err != nil {
		return q, false, err
	}
	if q.Limit, err = queryCount(c, "limit"); err != nil {
		return q, false, err
	}
	if q.Offset, err = queryCount(c, "offset"); err != nil {
		return q, false, err
	}
	q.Status = api.Status(c.Query("status"))
	if q.Status != "" && !slices.Contains(statuses(), q.Status) {
		return q, false, api.Invalidf("status", "%q is not a status; use one of %v", q.Status, statuses())
	}
	q.SortBy, q.SortOrder = c.DefaultQuery("sort_by", "created_at"), c.DefaultQuery("sort_order", "asc")
	keys := []string{"id", "app", "region", "status", "created_at"}
	if !slices.Contains(keys, q.SortBy) {
		return q, false, api.Invalidf("sort_by", "%q is no key to sort by; use one of %v", q.SortBy, keys)
	}
	if q.SortOrder != "asc" && q.SortOrder != "desc" {
		return q, false, api.Invalidf("sort_order", "%q must be asc or desc", q.SortOrder)
	}
	return q, recursion, nil
}

func statuses() []api.Status {
	return []api.Status{api.StatusCreated, api.StatusActive, api.StatusError, api.StatusTerminating, api.StatusTerminated}
}

// endRequest reads how a delete is to be done.
func endRequest(c *gin.Context) (e api.EndRequest, err error) {
	e.Reason, e.Grant = api.ReasonDeleted, grantOf(c)
	if e.Force, err = queryBool(c, "force"); err != nil {
		return e, err
	}
	e.Wait, err = queryBool(c, "sync")
	return e, err
}

func (s *Server) deleteSession(c *gin.Context) (reply, error) {
	id, err := sessionID(c)
	if err != nil {
		return reply{}, err
	}
	e, err := endRequest(c)
	if err != nil {
		return reply{}, err
	}
	return reply{}, s.end(c.Request.Context(), id, e)
}

func (s *Server) end(ctx context.Context, id api.SessionID, e api.EndRequest) error {
	if _, err := s.find(ctx, id, e.Grant); err != nil {
		return err
	}
	return s.cfg.Sessions.EndSession(ctx, id, e)
}

// deleteSessions ends many: 200 when all have ended, 202 when all will, 207
// when some could not be.
func (s *Server) deleteSessions(c *gin.Context) (reply, error) {
	e, err := endRequest(c)
	if err != nil {
		return reply{}, err
	}
	var body struct {
		IDs []string `json:"ids"`
	}
	if err := readBody(c, &body, false); err != nil {
		return reply{}, err
	}
	ids, err := batch(body.IDs)
	if err != nil {
		return reply{}, err
	}
	failed := make([]error, len(ids))
	var g errgroup.Group
	g.SetLimit(batchAtOnce)
	for i, id := range ids {
		g.Go(func() error {
			failed[i] = s.end(c.Request.Context(), id, e)
			return nil
		})
	}
	_ = g.Wait() // each error is kept in failed
	a := api.DeleteAnswer{Deleted: []api.SessionID{}, Errors: []api.DeleteError{}}
	for i, id := range ids {
		if failed[i] == nil {
			a.Deleted = append(a.Deleted, id)
			continue
		}
		told := asError(failed[i])
		if told.Code == api.CodeInternal {
			s.log.Error("session could not be deleted", "session", id, "error", failed[i])
			told = api.Errorf(api.CodeInternal, "a fault inside the scheduler")
		}
		a.Errors = append(a.Errors, api.DeleteError{Session: id, Message: told.Error(), StatusCode: api.HTTPStatus(told.Code)})
	}
	switch {
	case len(a.Errors) > 0:
		return reply{status: http.StatusMultiStatus, metadata: a}, nil
	case !e.Wait:
		return reply{status: http.StatusAccepted, async: true, metadata: a}, nil
	default:
		return reply{metadata: a}, nil
	}
}

// batch checks the ids of a batch; one named twice counts once.
func batch(list []string) ([]api.SessionID, error) {
	if len(list) == 0 {
		return nil, api.Invalidf("ids", "is missing: name the sessions to delete")
	}
	if len(list) > maxBatch {
		return nil, api.Invalidf("ids", "at most %d sessions at once, got %d", maxBatch, len(list))
	}
	seen := make(map[string]bool, len(list))
	var out []api.SessionID
	for _, id := range list {
		if !api.ValidID(id) {
			return nil, api.Invalidf("ids", "%q is not a session's id", id)
		}
		if !seen[id] {
			seen[id] = true
			out = append(out, api.SessionID(id))
		}
	}
	return out, nil
}
