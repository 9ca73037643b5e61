package gateway

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

func (s *Server) shareSession(c *gin.Context) (reply, error) {
	id, err := sessionID(c)
	if err != nil {
		return reply{}, err
	}
	var body api.ShareBody
	if err := readBody(c, &body, true); err != nil {
		return reply{}, err
	}
	if err := shareType(body.Type); err != nil {
		return reply{}, err
	}
	r := api.ShareRequest{Description: body.Description, Grant: grantOf(c)}
	if body.Perigee != nil {
		r.Seat = *body.Perigee
	} else {
		r.Seat.Role = api.RoleViewer // who says nothing lets others watch
	}
	if r.Seat, err = r.Seat.Normalize(); err != nil {
		return reply{}, err
	}
	switch {
	case body.ExpiryAt < 0:
		return reply{}, api.Invalidf("expiry_at", "must be a time, in Unix seconds")
	case body.ExpiryMin < 0:
		return reply{}, api.Invalidf("expiry_min", "must be minutes from now, or 0 for the default")
	case body.ExpiryAt > 0:
		r.Expires = time.Unix(body.ExpiryAt, 0)
	case body.ExpiryMin > 0:
		r.Expires = s.now().Add(time.Duration(min(body.ExpiryMin, int(2*api.ShareLifeMost/time.Minute))) * time.Minute)
	}
	if _, err := s.find(c.Request.Context(), id, r.Grant); err != nil {
		return reply{}, err
	}
	x, err := s.cfg.Sessions.ShareSession(c.Request.Context(), id, r)
	if err != nil {
		return reply{}, err
	}
	v := s.openShare(c, x)
	v.ExpiryMin = int(x.Share.ExpiresAt.Sub(s.now()).Round(time.Minute) / time.Minute)
	return reply{metadata: v}, nil
}

// shareType checks the type of a share: ours has one.
func shareType(t string) error {
	if t != "" && t != api.ShareStream {
		return api.Invalidf("type", "%q cannot be shared here; use %q", t, api.ShareStream)
	}
	return nil
}

// shareView shows a share without its link.
func shareView(x api.Share) api.ShareView {
	return api.ShareView{ID: x.ID(), SessionID: x.Session, Type: api.ShareStream, Description: x.Description,
		CreatedAt: x.CreatedAt.Unix(), ExpiryAt: x.ExpiresAt.Unix(), Perigee: api.ShareDetail{Seat: x.Seat}}
}

// openShare shows a share with what lets people in. The player's token stands
// behind the #, which browsers send to nobody.
func (s *Server) openShare(c *gin.Context, x api.Shared) api.ShareView {
	v := shareView(x.Share)
	base := s.base(c)
	path := strings.TrimRight(base.Path, "/")
	v.URL = (&url.URL{Scheme: base.Scheme, Host: base.Host, Path: path + "/1.0/sessions/" + string(x.Share.Session) + "/connect",
		RawQuery: url.Values{"type": {api.ShareStream}, "token": {x.Token}}.Encode()}).String()
	v.Perigee.Link = (&url.URL{Scheme: base.Scheme, Host: base.Host, Path: path + "/",
		RawQuery: url.Values{"session": {string(x.Share.Session)}}.Encode(), Fragment: "share=" + x.Token}).String()
	return v
}

// connectShare answers like a join to whoever has a share's link.
func (s *Server) connectShare(c *gin.Context) (reply, error) {
	id, err := sessionID(c)
	if err != nil {
		return reply{}, err
	}
	if err := shareType(c.Query("type")); err != nil {
		return reply{}, err
	}
	token := c.Query("token")
	if token == "" {
		return reply{}, api.Errorf(api.CodeUnauthorized, "the address has no token; use the url that the share answered")
	}
	a, err := s.cfg.Sessions.ConnectShare(c.Request.Context(), id, token)
	if api.CodeOf(err) == api.CodeConflict {
		told := *asError(err)
		told.Code = api.CodeInvalid // as a join answers
		return reply{}, &told
	}
	if err != nil {
		return reply{}, err
	}
	return reply{metadata: api.JoinAnswer{
		URL: s.socketURL(c, id, "slave", a.Ticket), STUNServers: iceServers(a.ICEServers), Perigee: detail(&a.Session, api.Grant{}),
	}}, nil
}

func (s *Server) listShares(c *gin.Context) (reply, error) {
	recursion, err := queryBool(c, "recursion", "recursive")
	if err != nil {
		return reply{}, err
	}
	q := api.ShareQuery{Account: scope(grantOf(c)), Session: api.SessionID(c.Query("session_id"))}
	if q.Session != "" && !api.ValidID(string(q.Session)) {
		return reply{}, api.Invalidf("session_id", "%q is not a session's id", q.Session)
	}
	if q.Limit, err = queryCount(c, "limit"); err != nil {
		return reply{}, err
	}
	if q.Offset, err = queryCount(c, "offset"); err != nil {
		return reply{}, err
	}
	list, total, err := s.cfg.Sessions.ListShares(c.Request.Context(), q)
	if err != nil {
		return reply{}, err
	}
	views, ids := make([]api.ShareView, len(list)), make([]string, len(list))
	for i, x := range list {
		views[i], ids[i] = shareView(x), x.ID()
	}
	if !recursion {
		return reply{metadata: ids, total: &total}, nil
	}
	return reply{metadata: views, total: &total}, nil
}

// ofShare checks that the grant may know of a share's session.
func (s *Server) ofShare(ctx context.Context, id string, g api.Grant) error {
	session, _, err := api.ParseShareID(id)
	if err != nil {
		return err
	}
	if _, err = s.find(ctx, session, g); api.CodeOf(err) == api.CodeNotFound {
		return api.Errorf(api.CodeNotFound, "share %q does not exist", id)
	}
	return err
}

func (s *Server) getShare(c *gin.Context) (reply, error) {
	id, g := c.Param("id"), grantOf(c)
	if err := s.ofShare(c.Request.Context(), id, g); err != nil {
		return reply{}, err
	}
	x, err := s.cfg.Sessions.Share(c.Request.Context(), id, g)
	if err != nil {
		return reply{}, err
	}
	return reply{metadata: s.openShare(c, x)}, nil
}

func (s *Server) changeShare(c *gin.Context) (reply, error) {
	id, g := c.Param("id"), grantOf(c)
	var body api.ShareChangeBody
	if err := readBody(c, &body, false); err != nil {
		return reply{}, err
	}
	if err := s.ofShare(c.Request.Context(), id, g); err != nil {
		return reply{}, err
	}
	change := api.ShareChange{Description: body.Description, Grant: g}
	if body.ExpiryAt != nil {
		at := time.Unix(*body.ExpiryAt, 0)
		change.Expires = &at
	}
	x, err := s.cfg.Sessions.ChangeShare(c.Request.Context(), id, change)
	if err != nil {
		return reply{}, err
	}
	return reply{metadata: s.openShare(c, x)}, nil
}

// revokeShare answers when the share admits nobody any more; who came by it is
// cut by then or a moment later, as the accepted answer says.
func (s *Server) revokeShare(c *gin.Context) (reply, error) {
	id, g := c.Param("id"), grantOf(c)
	sync, err := queryBool(c, "sync")
	if err != nil {
		return reply{}, err
	}
	if err := s.ofShare(c.Request.Context(), id, g); err != nil {
		return reply{}, err
	}
	if err := s.cfg.Sessions.RevokeShare(c.Request.Context(), id, g); err != nil {
		return reply{}, err
	}
	if !sync {
		return reply{status: http.StatusAccepted, async: true}, nil
	}
	return reply{}, nil
}
