package scheduler

import (
	"context"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

type shareCall struct {
	ID      api.SessionID
	Request api.ShareRequest
}

// ShareSession makes a share: who has its token takes part beside the client.
func (s *Server) ShareSession(ctx context.Context, id api.SessionID, r api.ShareRequest) (api.Shared, error) {
	return onLeader(ctx, s, "share", shareCall{ID: id, Request: r}, s.share)
}

func (s *Server) share(ctx context.Context, c shareCall) (api.Shared, error) {
	r := c.Request
	if err := s.may(c.ID, r.Grant); err != nil {
		return api.Shared{}, err
	}
	seat, err := r.Seat.Normalize()
	if err != nil {
		return api.Shared{}, err
	}
	if r.Expires.IsZero() {
		r.Expires = s.now().Add(api.ShareLifeDefault)
	}
	if err := s.checkShare(r.Description, r.Expires, s.now()); err != nil {
		return api.Shared{}, err
	}
	res, err := s.proposeNew(ctx, &state.PutShare{ID: c.ID, Seat: seat, Description: r.Description, Expires: r.Expires})
	if err != nil {
		return api.Shared{}, err
	}
	s.cfg.Log.Info("session shared", "session", c.ID, "share", res.Share.Number, "role", seat.Role)
	return s.shared(res.Share), nil
}

// checkShare bounds what a share says; its life counts from when it was made.
func (s *Server) checkShare(description string, expires, made time.Time) error {
	if len(description) > api.MaxDescription {
		return api.Invalidf("description", "at most %d bytes, got %d", api.MaxDescription, len(description))
	}
	if !expires.After(s.now()) {
		return api.Invalidf("expiry_at", "%s has passed", expires.UTC().Format(time.RFC3339))
	}
	if expires.After(made.Add(api.ShareLifeMost + time.Minute)) {
		return api.Invalidf("expiry_at", "a share lives %d days at most", int(api.ShareLifeMost/(24*time.Hour)))
	}
	return nil
}

// shared adds the link's token, which is good for the longest life: what
// counts is the expiry in the state, which can be changed.
func (s *Server) shared(x api.Share) api.Shared {
	t := api.Ticket{Session: x.Session, Share: x.Number, Role: x.Seat.Role, Expires: x.CreatedAt.Add(api.ShareLifeMost + time.Minute).Unix()}
	return api.Shared{Share: x, Token: t.Sign(s.signer())}
}

// Share finds a share, of a session that the grant reaches.
func (s *Server) Share(ctx context.Context, id string, g api.Grant) (api.Shared, error) {
	if err := s.serving(); err != nil {
		return api.Shared{}, err
	}
	session, number, err := api.ParseShareID(id)
	if err != nil {
		return api.Shared{}, err
	}
	var x api.Share
	if !s.sure(ctx, func() (ok bool) { x, ok = s.root().Share(session, number); return ok }) || s.may(session, g) != nil {
		return api.Shared{}, noShare(id)
	}
	return s.shared(x), nil
}

func noShare(id string) error { return api.Errorf(api.CodeNotFound, "share %q does not exist", id) }

// ListShares gives one page of shares, and how many there are in all.
func (s *Server) ListShares(ctx context.Context, q api.ShareQuery) ([]api.Share, int, error) {
	if err := s.Consistent(ctx); err != nil {
		return nil, 0, err
	}
	root := s.root()
	all := root.AllShares()
	if q.Session != "" {
		all, _ = root.Shares(q.Session)
	}
	out := []api.Share{}
	for _, x := range all {
		if v, ok := root.Session(x.Session); ok && (q.Account == "" || v.Account == q.Account) {
			out = append(out, x)
		}
	}
	total := len(out)
	out = out[min(q.Offset, total):]
	if q.Limit > 0 {
		out = out[:min(q.Limit, len(out))]
	}
	return out, total, nil
}

type changeShareCall struct {
	ID     string
	Change api.ShareChange
}

// ChangeShare changes a share's description or expiry.
func (s *Server) ChangeShare(ctx context.Context, id string, c api.ShareChange) (api.Shared, error) {
	return onLeader(ctx, s, "share.change", changeShareCall{ID: id, Change: c}, s.changeShare)
}

func (s *Server) changeShare(ctx context.Context, c changeShareCall) (api.Shared, error) {
	old, err := s.Share(ctx, c.ID, c.Change.Grant)
	if err != nil {
		return api.Shared{}, err
	}
	x := old.Share
	if c.Change.Description != nil {
		x.Description = *c.Change.Description
	}
	if c.Change.Expires != nil {
		x.ExpiresAt = *c.Change.Expires
	}
	if err := s.checkShare(x.Description, x.ExpiresAt, x.CreatedAt); err != nil {
		return api.Shared{}, err
	}
	res, err := s.proposeNew(ctx, &state.PutShare{ID: x.Session, Number: x.Number, Description: x.Description, Expires: x.ExpiresAt})
	if err != nil {
		return api.Shared{}, err
	}
	return s.shared(res.Share), nil
}

type revokeShareCall struct {
	ID    string
	Grant api.Grant
}

// RevokeShare takes a share back; who came by it is cut off.
func (s *Server) RevokeShare(ctx context.Context, id string, g api.Grant) error {
	_, err := onLeader(ctx, s, "share.revoke", revokeShareCall{ID: id, Grant: g}, s.revokeShare)
	return err
}

func (s *Server) revokeShare(ctx context.Context, c revokeShareCall) (nothing, error) {
	x, err := s.Share(ctx, c.ID, c.Grant)
	if err != nil {
		return nothing{}, err
	}
	if _, err := s.proposeNew(ctx, &state.DropShare{ID: x.Share.Session, Number: x.Share.Number}); err != nil {
		return nothing{}, err
	}
	s.cfg.Log.Info("share revoked", "session", x.Share.Session, "share", x.Share.Number)
	return nothing{}, nil
}

// ConnectShare admits whoever has a share's token to its session.
func (s *Server) ConnectShare(ctx context.Context, id api.SessionID, token string) (api.Admission, error) {
	if err := s.serving(); err != nil {
		return api.Admission{}, err
	}
	unauthorized := func(format string, args ...any) (api.Admission, error) {
		return api.Admission{}, api.Errorf(api.CodeUnauthorized, format, args...)
	}
	t, err := api.ParseTicket(token, s.signer().Public().(ed25519Public), s.now())
	if err != nil || t.Share == 0 || t.Generation != 0 {
		return unauthorized("the token is no share's: use the link as it was given")
	}
	if t.Session != id {
		return unauthorized("the token is for another session")
	}
	var x api.Share
	switch there := s.sure(ctx, func() (ok bool) { x, ok = s.root().Share(id, t.Share); return ok }); {
	case !there:
		return unauthorized("the share was revoked, or its session has ended")
	case !s.now().Before(x.ExpiresAt):
		return unauthorized("the share has expired: ask for a new one")
	}
	live, ok := s.root().Live(id)
	if !ok {
		return api.Admission{}, noSession(id)
	}
	v := s.root().Shown(live)
	if v.Status() != api.StatusActive {
		return api.Admission{}, api.Errorf(api.CodeConflict, "the session is %s: only an active one can be joined", v.Status())
	}
	a := s.admissionFor(v, api.Ticket{Role: x.Seat.Role, Rights: x.Seat.Rights, Share: x.Number})
	return a, nil
}

// dropExpiredShares has the shares taken back whose time is over.
func (s *Server) dropExpiredShares(now time.Time) (out []state.Command) {
	for _, x := range s.root().AllShares() {
		if !now.Before(x.ExpiresAt) {
			out = append(out, &state.DropShare{ID: x.Session, Number: x.Number})
		}
	}
	return out
}
