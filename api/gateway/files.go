package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// fileRequest reads which file of the instance is meant.
func fileRequest(c *gin.Context, op api.EnterOp) (api.EnterRequest, error) {
	r := api.EnterRequest{Op: op, Path: c.Query("path"), Size: -1}
	if op == api.EnterPush && c.Request.ContentLength >= 0 {
		r.Size = c.Request.ContentLength
	}
	if text := c.Query("mode"); text != "" {
		n, err := strconv.ParseUint(text, 8, 32)
		if err != nil {
			return r, api.Invalidf("mode", "%q is not a file's mode: 0 to 777, in octal", text)
		}
		r.Mode = uint32(n)
	}
	return r.Normalize()
}

// visitFile enters an instance for a file and waits until it is open.
func (s *Server) visitFile(c *gin.Context, op api.EnterOp) (*visit, api.EnterControl, error) {
	var opened api.EnterControl
	if err := s.authorize(c, []api.Right{api.RightSessions}); err != nil {
		return nil, opened, err
	}
	r, err := fileRequest(c, op)
	if err != nil {
		return nil, opened, err
	}
	begun := s.now()
	v, err := s.enter(c, r)
	if err != nil {
		return nil, opened, err
	}
	if opened, err = v.started(c.Request.Context(), s.cfg.RequestTimeout); err != nil {
		s.leave(v, begun, api.EnterFailed(err))
		return nil, opened, err
	}
	return v, opened, nil
}

// pullFile sends a file of an instance.
func (s *Server) pullFile(c *gin.Context) {
	begun := s.now()
	v, opened, err := s.visitFile(c, api.EnterPull)
	if err != nil {
		s.fail(c, err)
		return
	}
	c.Header("Content-Type", "application/octet-stream")
	c.Header("X-Content-Type-Options", "nosniff")
	c.Header("Content-Length", strconv.FormatInt(opened.Size, 10))
	c.Header("Perigee-File-Mode", fmt.Sprintf("%04o", opened.Mode))
	c.Status(http.StatusOK)
	last := s.pourFile(c, v)
	s.leave(v, begun, last)
	if last.Code != "" {
		panic(http.ErrAbortHandler) // too late for an answer: the client sees a cut
	}
}

func (s *Server) pourFile(c *gin.Context, v *visit) api.EnterControl {
	ctx, out := c.Request.Context(), http.NewResponseController(c.Writer)
	beat := time.NewTicker(s.timing.ping)
	defer beat.Stop()
	for {
		wait, cancel := context.WithTimeoutCause(ctx, enterStall, api.Errorf(api.CodeTimeout, "the instance sends no more"))
		b, err := v.receive(wait)
		if wait.Err() != nil {
			err = context.Cause(wait)
		}
		cancel()
		if err != nil {
			return api.EnterFailed(asError(err))
		}
		if m, ok := api.ParseEnterControl(b); ok && m.Type == api.EnterEnded {
			return m
		} else if ok || len(b) == 0 || b[0] != api.EnterOutput {
			continue
		}
		_ = out.SetWriteDeadline(time.Now().Add(enterStall)) // at worst the server's own holds
		if _, err := c.Writer.Write(b[1:]); err != nil {
			return api.EnterFailed(api.Errorf(api.CodeUnavailable, "the client has gone"))
		}
		select {
		case <-beat.C:
			_ = v.link.Send(api.EnterControl{Type: api.EnterPing}.Frame()) // a full link is a sign of life, too
		default:
		}
	}
}

// pushFile writes a file into an instance.
func (s *Server) pushFile(c *gin.Context) {
	begun := s.now()
	v, _, err := s.visitFile(c, api.EnterPush)
	if err != nil {
		s.fail(c, err)
		return
	}
	last, err := s.fillFile(c, v)
	if err != nil {
		last = api.EnterFailed(asError(err))
	}
	s.leave(v, begun, last)
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Now().Add(s.timing.write)) // at worst the server's own holds
	if err != nil {
		s.fail(c, err)
		return
	}
	mode := c.Query("mode")
	if mode == "" {
		mode = "0644"
	}
	s.answer(c, reply{metadata: api.FileView{Path: c.Query("path"), Size: last.Size, Mode: mode}})
}

// fillFile carries the body into the instance and waits until it is written.
func (s *Server) fillFile(c *gin.Context, v *visit) (api.EnterControl, error) {
	ctx, cancel := context.WithCancelCause(c.Request.Context())
	defer cancel(nil)
	type ending struct {
		last api.EnterControl
		err  error
	}
	over := make(chan ending, 1)
	go func() { // ends with ctx
		for {
			b, err := v.receive(ctx)
			m, ok := api.ParseEnterControl(b)
			if err == nil && (!ok || m.Type != api.EnterEnded) {
				continue
			}
			if err == nil {
				err = m.Err()
			}
			over <- ending{m, err}
			cancel(errFileOver)
			return
		}
	}()
	err := s.copyFile(ctx, c, v)
	if err != nil && !errors.Is(err, errFileOver) {
		return api.EnterControl{}, err
	}
	late := time.NewTimer(enterStall)
	defer late.Stop()
	select {
	case e := <-over:
		return e.last, e.err
	case <-late.C:
		return api.EnterControl{}, api.Errorf(api.CodeTimeout, "the instance does not say that it has the file")
	}
}

// errFileOver says that the instance has ended the transfer.
var errFileOver = errors.New("the instance has ended it")

func (s *Server) copyFile(ctx context.Context, c *gin.Context, v *visit) error {
	in := http.NewResponseController(c.Writer)
	for {
		b := make([]byte, 1+api.EnterPiece)
		_ = in.SetReadDeadline(time.Now().Add(enterStall)) // at worst the server's own holds
		n, err := io.ReadFull(c.Request.Body, b[1:])
		if n > 0 {
			b[0] = api.EnterInput
			if err := v.send(ctx, b[:1+n]); err != nil {
				return err
			}
		}
		var tooBig *http.MaxBytesError
		switch {
		case errors.As(err, &tooBig):
			return api.Errorf(api.CodeTooLarge, "the file is over %d GiB, the most that goes into an instance at once", api.MaxInstanceFile>>30)
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return v.send(ctx, api.EnterControl{Type: api.EnterEnd}.Frame())
		case err != nil:
			return api.Errorf(api.CodeTimeout, "the file's content did not come in time")
		}
	}
}
