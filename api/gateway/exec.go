package gateway

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// execInstance runs a command in an instance over one websocket: its first
// message is the request, then messages of data and of control go both ways.
func (s *Server) execInstance(c *gin.Context) {
	if err := s.authorize(c, []api.Right{api.RightSessions}); err != nil {
		s.fail(c, err)
		return
	}
	if !strings.EqualFold(c.GetHeader("Upgrade"), "websocket") {
		s.failStatus(c, http.StatusUpgradeRequired, api.Errorf(api.CodeInvalid, "a command runs over a websocket: open one here, or use \"perigee instance exec\""))
		return
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.cfg.RequestTimeout)
	_, err := s.entered(ctx, c) // said as an answer while there can be one
	cancel()
	if err != nil {
		s.fail(c, err)
		return
	}
	k, release, err := s.open(c)
	if errors.Is(err, errAnswered) {
		return
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	defer release()
	k.conn.SetReadLimit(api.MaxFrame)
	begun := s.now()
	r, err := s.readExec(k)
	var v *visit
	if err == nil {
		c.Request = c.Request.WithContext(k.ctx)
		v, err = s.enter(c, r)
	}
	if err != nil {
		k.bye(api.EnterFailed(asError(err)))
		return
	}
	s.leave(v, begun, s.carryExec(k, v))
}

// readExec reads what to run.
func (s *Server) readExec(k *socket) (r api.EnterRequest, err error) {
	ctx, cancel := context.WithTimeout(k.ctx, s.cfg.RequestTimeout)
	defer cancel()
	kind, b, err := k.conn.Read(ctx)
	switch {
	case err != nil:
		return r, api.Errorf(api.CodeTimeout, "the first message did not come: it says what to run")
	case kind != websocket.MessageText:
		return r, api.Invalidf("body", "the first message must be text: what to run, in JSON")
	}
	if err := decode(b, &r); err != nil {
		return r, err
	}
	r.Op = api.EnterExec
	return r.Normalize()
}

// bye tells a client how it ended and closes. Who has gone is not told.
func (k *socket) bye(last api.EnterControl) {
	defer k.cut()
	if k.send(last.Frame()) == nil {
		_ = k.conn.Close(websocket.StatusNormalClosure, "") // the message has said all
		return
	}
	_ = k.conn.CloseNow()
}

// carryExec carries frames both ways until the command has ended or its client
// has gone, and says goodbye.
func (s *Server) carryExec(k *socket, v *visit) (last api.EnterControl) {
	ctx, cancel := context.WithCancel(k.ctx)
	var done sync.WaitGroup
	defer done.Wait()
	defer cancel()
	ends := make(chan api.EnterControl, 3)
	gone := api.EnterFailed(api.Errorf(api.CodeUnavailable, "the client has gone"))
	var sending atomic.Int64 // odd while what the client sent waits for the instance
	done.Go(func() {
		for {
			kind, b, err := k.conn.Read(k.ctx)
			if err == nil && kind == websocket.MessageText != (len(b) > 0 && b[0] == '{') {
				ends <- api.EnterFailed(api.Invalidf("body", "a text message holds control in JSON, a binary one its channel and data"))
				return
			}
			if err == nil {
				sending.Add(1)
				err = v.send(ctx, b)
				sending.Add(1)
			}
			if err != nil {
				ends <- gone
				return
			}
		}
	})
	done.Go(func() {
		for {
			b, err := v.receive(ctx)
			if err != nil {
				ends <- api.EnterFailed(asError(err))
				return
			}
			m, control := api.ParseEnterControl(b)
			if control && m.Type == api.EnterEnded {
				ends <- m
				return
			}
			if k.pass(b, control) != nil {
				ends <- gone
				return
			}
		}
	})
	done.Go(func() { s.keepVisit(ctx, k, v, &sending, func() { ends <- gone }) })
	select {
	case last = <-ends:
	case <-s.drain:
		last = api.EnterFailed(api.Errorf(api.CodeUnavailable, "this gateway is going away; run it again"))
	case <-k.ctx.Done():
		last = gone
	}
	k.bye(last) // before the readers end: a reader that is cut cuts the socket
	return last
}

// pass hands a frame of the instance to the client.
func (k *socket) pass(b []byte, control bool) error {
	ctx, cancel := context.WithTimeout(k.ctx, enterStall)
	defer cancel()
	if control {
		return k.conn.Write(ctx, websocket.MessageText, b)
	}
	return k.conn.Write(ctx, websocket.MessageBinary, b)
}

// keepVisit tells the instance that its client is there, as long as it is. An
// answer that nobody read is not missed: while the command does not take its
// input, the client is not heard, and only a ping that cannot be sent tells.
func (s *Server) keepVisit(ctx context.Context, k *socket, v *visit, sending *atomic.Int64, gone func()) {
	tick := time.NewTicker(s.timing.ping)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		pctx, cancel := context.WithTimeout(ctx, s.timing.write)
		before := sending.Load()
		err := k.conn.Ping(pctx)
		cancel()
		if unread := before%2 == 1 || sending.Load() != before; unread && errors.Is(err, context.DeadlineExceeded) {
			err = nil
		}
		if err == nil {
			err = v.link.Send(api.EnterControl{Type: api.EnterPing}.Frame())
		}
		if errors.Is(err, api.ErrLinkFull) {
			err = nil // what waits is a sign of life, too
		}
		if err != nil {
			gone()
			return
		}
	}
}
