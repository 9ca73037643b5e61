package scheduler

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media/turn"
)

// admission is what the client with this number needs to take part.
func (s *Server) admission(v api.Session, viewer uint32) api.Admission {
	return s.admissionFor(v, api.Ticket{Role: api.RoleControl, Viewer: viewer})
}

// admissionFor completes a ticket for the session as it is now.
func (s *Server) admissionFor(v api.Session, t api.Ticket) api.Admission {
	t.Session, t.Generation, t.Expires = v.ID, v.Generation, s.now().Add(s.cfg.TicketLife).Unix()
	a := api.Admission{Session: v, ICEServers: s.iceServers(v)}
	if s.root().EntryVersion() < ticketsSince {
		a.Ticket = t.Sign(s.signer())
	} else {
		a.Ticket = s.tickets.sign(s.signer(), t)
	}
	return a
}

// Relays lists the STUN and TURN servers of a session's node; none before it
// has one.
func (s *Server) Relays(v api.Session) []api.ICEServer {
	if s.serving() != nil {
		return []api.ICEServer{}
	}
	return s.iceServers(v)
}

// iceServers lists the relay of the session's node, its STUN address free for
// all, its TURN addresses with a credential that reaches this session only, and
// two other relays of its region, where its stream process can be met.
func (s *Server) iceServers(v api.Session) []api.ICEServer {
	out := make([]api.ICEServer, 0, 2+otherRelays)
	n, ok := s.root().Node(v.Node)
	if !ok {
		return out
	}
	isSTUN := func(u string) bool { return strings.HasPrefix(u, "stun:") }
	relay := n.Relay // read only
	var stun []string
	if slices.ContainsFunc(relay, isSTUN) {
		relay = slices.DeleteFunc(slices.Clone(relay), isSTUN)
		stun = slices.DeleteFunc(slices.Clone(n.Relay), func(u string) bool { return !isSTUN(u) })
	}
	if len(relay) > 0 && len(stun) == 0 {
		if host, ok := strings.CutPrefix(relay[0], "turn:"); ok {
			host, _, _ = strings.Cut(host, "?")
			stun = []string{"stun:" + host} // a TURN server answers STUN at the same address
		}
	}
	if len(stun) > 0 {
		out = append(out, api.ICEServer{URLs: stun})
	}
	if len(relay) > 0 && len(n.RelaySecret) > 0 {
		user, pass := turn.Credentials(n.RelaySecret, v.ID, v.Generation, s.now().Add(s.cfg.TicketLife))
		out = append(out, api.ICEServer{URLs: relay, Username: user, Password: pass})
	}
	return s.relaysBeside(out, v, turn.Credentials, s.cfg.TicketLife)
}

// CheckTicket checks a websocket's ticket and finds the session's node. A session
// that has ended is no error: its status says so.
func (s *Server) CheckTicket(ctx context.Context, text string) (api.Ticket, api.Session, error) {
	if err := s.serving(); err != nil {
		return api.Ticket{}, api.Session{}, err
	}
	public := s.signer().Public().(ed25519Public)
	t, err := api.ParseTicket(text, public, s.now())
	if err != nil {
		if !errors.Is(err, api.ErrTicket) {
			return t, api.Session{}, err
		}
		return t, api.Session{}, &api.Error{Code: api.CodeUnauthorized, Field: "token", Message: "the ticket does not admit", Err: err}
	}
	s.sure(ctx, func() bool {
		v, ok := s.root().Session(t.Session)
		return ok && v.Generation >= t.Generation
	})
	root := s.root()
	live, ok := root.Live(t.Session)
	if !ok {
		if old, ended := root.Session(t.Session); ended {
			return t, old, nil // the caller says why it ended
		}
		return t, api.Session{}, noSession(t.Session)
	}
	switch {
	case t.Generation == 0:
		return t, live.Session, api.Errorf(api.CodeUnauthorized, "this is a share's link: open it in a page, or ask its url")
	case t.Generation != live.Generation:
		return t, live.Session, api.Errorf(api.CodeUnauthorized, "the ticket is of an earlier placement of the session: join it again")
	case t.Share > 0:
		x, there := root.Share(t.Session, t.Share)
		if !there || !s.now().Before(x.ExpiresAt) {
			return t, live.Session, api.Errorf(api.CodeUnauthorized, "the share was revoked or has expired")
		}
	case t.Viewer < live.Viewer:
		return t, live.Session, api.Errorf(api.CodeConflict, "another client has joined the session since")
	}
	return t, root.Shown(live), nil
}
