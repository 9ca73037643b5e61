package gateway

import (
	"context"
	"errors"

	"github.com/coder/websocket"
	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// slave is the client's side of signalling. A wrong ticket is refused before
// the upgrade; a session that is over is told of by an error frame, which
// clients show.
func (s *Server) slave(c *gin.Context) {
	ticket, sess, app, err := s.admit(c, api.RoleControl, api.RoleViewer)
	if err != nil {
		s.fail(c, err)
		return
	}
	p := &pump{s: s, session: sess, discover: true, hold: s.timing.hold}
	if app.Kind == api.AppExternal {
		// Somebody else's provider knows what it can do: discover is for it.
		p.discover = false
		p.open = func(context.Context) (SignalLink, error) { return s.hub.attach(sess.ID, api.RoleControl) }
	} else {
		p.open = func(ctx context.Context) (SignalLink, error) { return s.cfg.Signals.OpenSignal(ctx, sess, ticket) }
		if sess.Queue != nil {
			p.placed = make(chan struct{})
			p.open = func(ctx context.Context) (SignalLink, error) {
				if err := p.wait(ctx, &sess); err != nil {
					return nil, err
				}
				return s.cfg.Signals.OpenSignal(ctx, sess, ticket)
			}
		}
	}
	s.carry(c, p)
}

// master is the provider's side, for applications that somebody else provides.
// A provider comes with a master ticket, or with the token of the session's account.
func (s *Server) master(c *gin.Context) {
	_, sess, app, err := s.admitMaster(c)
	if err != nil {
		s.fail(c, err)
		return
	}
	if app.Kind != api.AppExternal {
		s.fail(c, api.Errorf(api.CodeConflict, "the session has its provider already: its application runs on node %s", sess.Node))
		return
	}
	link, err := s.hub.attach(sess.ID, api.RoleMaster)
	if err != nil {
		s.fail(c, err)
		return
	}
	defer func() { _ = link.Close() }() // closing twice does no harm
	s.carry(c, &pump{s: s, session: sess, open: func(context.Context) (SignalLink, error) { return link, nil }})
}

// carry upgrades and runs a pump to its end.
func (s *Server) carry(c *gin.Context, p *pump) {
	k, release, err := s.open(c)
	if errors.Is(err, errAnswered) {
		return
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	defer release()
	p.k = k
	if why := endedText(&p.session); why != "" {
		k.finish(ending{websocket.StatusNormalClosure, why})
		return
	}
	p.run()
}

// admit checks a websocket's ticket: the cluster's own, for this session and
// one of the roles.
func (s *Server) admit(c *gin.Context, roles ...api.Role) (api.Ticket, api.Session, api.App, error) {
	var app api.App
	ticket, sess, err := s.checkTicket(c)
	if err != nil {
		return ticket, sess, app, err
	}
	allowed := false
	for _, r := range roles {
		allowed = allowed || ticket.Role == r
	}
	if !allowed {
		return ticket, sess, app, api.Errorf(api.CodeUnauthorized, "this ticket is for the role %q", ticket.Role)
	}
	app, err = s.sessionApp(c, sess)
	return ticket, sess, app, err
}

func (s *Server) admitMaster(c *gin.Context) (api.Ticket, api.Session, api.App, error) {
	if g, ok, err := s.authenticate(c); err != nil {
		return api.Ticket{}, api.Session{}, api.App{}, err
	} else if ok && g.Can(api.RightSessions) {
		id, err := sessionID(c)
		if err != nil {
			return api.Ticket{}, api.Session{}, api.App{}, err
		}
		ctx, cancel := context.WithTimeout(c.Request.Context(), s.cfg.RequestTimeout)
		defer cancel()
		sess, err := s.find(ctx, id, g)
		if err != nil {
			return api.Ticket{}, sess, api.App{}, err
		}
		app, err := s.sessionApp(c, sess)
		return api.Ticket{}, sess, app, err
	}
	ticket, sess, err := s.checkTicket(c)
	if err != nil {
		return ticket, sess, api.App{}, err
	}
	app, err := s.sessionApp(c, sess)
	if err == nil && app.Kind == api.AppExternal && ticket.Role != api.RoleMaster {
		err = api.Errorf(api.CodeUnauthorized, "this ticket is for the role %q", ticket.Role)
	}
	return ticket, sess, app, err
}

func (s *Server) checkTicket(c *gin.Context) (api.Ticket, api.Session, error) {
	id, err := sessionID(c)
	if err != nil {
		return api.Ticket{}, api.Session{}, err
	}
	text := c.Query("token")
	if text == "" {
		return api.Ticket{}, api.Session{}, api.Errorf(api.CodeUnauthorized,
			"the address has no token; use the url that create or join answered")
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.cfg.RequestTimeout)
	defer cancel()
	ticket, sess, err := s.cfg.Cluster.CheckTicket(ctx, text)
	switch {
	case err != nil:
		return ticket, sess, err
	case ticket.Session != id || sess.ID != id:
		return ticket, sess, api.Errorf(api.CodeUnauthorized, "this ticket is for another session")
	}
	return ticket, sess, nil
}

func (s *Server) sessionApp(c *gin.Context, sess api.Session) (api.App, error) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.cfg.RequestTimeout)
	defer cancel()
	app, err := s.application(ctx, sess.App)
	if api.CodeOf(err) == api.CodeNotFound {
		// Deleted since: a session on a node goes on to the end.
		return api.App{Name: sess.App, Kind: api.AppProgram}, nil
	}
	return app, err
}
