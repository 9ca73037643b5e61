package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

const (
	enterRetry = 2 * time.Millisecond // while the link is full
	enterStall = 30 * time.Second     // a client that sends or takes nothing for so long has gone
)

// visit is somebody's way into an instance.
type visit struct {
	link SignalLink
	i    api.Instance
}

// enter opens a way into the instance that the path names: its account's own,
// or any for an operator. A token of one application reaches no other's.
func (s *Server) enter(c *gin.Context, r api.EnterRequest) (*visit, error) {
	g := grantOf(c)
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.cfg.RequestTimeout)
	defer cancel()
	i, err := s.entered(ctx, c)
	if err != nil {
		return nil, err
	}
	link, err := s.cfg.Signals.OpenSignal(ctx, i.Session, api.Ticket{Session: i.Session.ID, Role: api.RoleEnter})
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(r)
	if err == nil {
		err = link.Send(b)
	}
	if err != nil {
		return nil, errors.Join(err, link.Close())
	}
	from, _ := s.clientAddress(c.Request)
	s.log.Info("instance is entered", "session", i.Session.ID, "op", r.Op, "command", r.Command, "path", r.Path,
		"account", g.Account, "token", g.TokenID, "client", from)
	return &visit{link: link, i: i}, nil
}

// entered finds the instance to enter and asks its node whether that can be.
func (s *Server) entered(ctx context.Context, c *gin.Context) (api.Instance, error) {
	i, err := s.instance(c)
	if err != nil {
		return i, err
	}
	return i, s.cfg.Instances.EnterInstance(ctx, i.Session)
}

// leave notes the end of a visit and frees its link.
func (s *Server) leave(v *visit, begun time.Time, last api.EnterControl) {
	if err := v.link.Close(); err != nil {
		s.log.Debug("link closed with an error", "session", v.i.Session.ID, "error", err)
	}
	s.log.Info("instance is left", "session", v.i.Session.ID, "exit", last.Exit, "size", last.Size, "error", last.Message, "after", s.now().Sub(begun))
}

// send waits while the link is full: whoever sends is slowed to what the
// instance takes.
func (v *visit) send(ctx context.Context, frame []byte) error {
	for {
		err := v.link.Send(frame)
		if !errors.Is(err, api.ErrLinkFull) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(enterRetry):
		}
	}
}

// receive waits for the next frame; a link that broke is an error that says so.
func (v *visit) receive(ctx context.Context) ([]byte, error) {
	f, err := v.link.Receive(ctx)
	switch {
	case err == nil || ctx.Err() != nil:
		return f, err
	case errors.Is(err, api.ErrSignalClosed):
		return nil, api.Errorf(api.CodeConflict, "the instance let go: %s", err)
	default:
		return nil, api.Errorf(api.CodeUnavailable, "the way to the instance broke; try again")
	}
}

// started waits until a file is open.
func (v *visit) started(ctx context.Context, limit time.Duration) (api.EnterControl, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, api.Errorf(api.CodeTimeout, "the instance does not answer"))
	defer cancel()
	for {
		f, err := v.receive(ctx)
		if ctx.Err() != nil {
			return api.EnterControl{}, context.Cause(ctx)
		}
		if err != nil {
			return api.EnterControl{}, err
		}
		c, ok := api.ParseEnterControl(f)
		switch {
		case ok && c.Type == api.EnterStarted:
			return c, nil
		case ok && c.Type == api.EnterEnded:
			return c, c.Err()
		}
	}
}
