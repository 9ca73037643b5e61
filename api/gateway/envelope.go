package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// reply is a handler's success; the zero one is an empty 200.
type reply struct {
	status   int // 0 = 200
	async    bool
	metadata any
	total    *int // lists
	// operation is the path of a long action; the answer is 202 and points there.
	operation string
}

// asError finds the *api.Error that a client is told; a fault that is not one
// becomes an internal error without its text.
func asError(err error) *api.Error {
	var e *api.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return api.Errorf(api.CodeTimeout, "the request was not done within its time; try again")
	case errors.Is(err, context.Canceled):
		return api.Errorf(api.CodeUnavailable, "the request was given up")
	default:
		return api.Errorf(api.CodeInternal, "a fault inside the scheduler")
	}
}

func (s *Server) answer(c *gin.Context, a reply) {
	e := api.Envelope{
		Type: api.EnvelopeSync, Status: api.EnvelopeSuccess, StatusCode: a.status,
		Metadata: a.metadata, TotalSize: a.total, Operation: a.operation,
	}
	if a.operation != "" {
		c.Header("Location", a.operation)
		a.async, e.StatusCode = true, http.StatusAccepted
	}
	if e.StatusCode == 0 {
		e.StatusCode = http.StatusOK
	}
	if a.async {
		e.Type = api.EnvelopeAsync
	}
	s.write(c, e)
}

// fail answers with an error's own status.
func (s *Server) fail(c *gin.Context, err error) {
	s.failStatus(c, api.HTTPStatus(asError(err).Code), err)
}

// failStatus answers an error with a status of the caller's choice.
func (s *Server) failStatus(c *gin.Context, status int, err error) {
	told := asError(err)
	e := api.Envelope{
		Type: api.EnvelopeError, Status: api.EnvelopeFailed, StatusCode: status, Error: told.Error(),
		Perigee: &api.ErrorDetail{Code: told.Code, Field: told.Field, Refusals: told.Refusals},
	}
	switch told.Code {
	case api.CodeUnauthorized:
		c.Header("WWW-Authenticate", "Macaroon")
	case api.CodeUnavailable, api.CodeRateLimited:
		c.Header("Retry-After", "1")
	case api.CodeInternal:
		// The cause may name paths and addresses: it is for the log alone.
		e.Perigee.Request = requestID()
		e.Error = "a fault inside the scheduler; its log has it as request " + e.Perigee.Request
		s.log.Error("request failed", "request", e.Perigee.Request, "handler", ofRequest(c).handler, "error", err)
	}
	c.Abort()
	s.write(c, e)
}

// answerBuffer holds an answer until it is written.
type answerBuffer struct {
	b    bytes.Buffer
	json *json.Encoder // into b
}

func (a *answerBuffer) put(e api.Envelope) error {
	if own, ok := e.Metadata.(appender); ok && e.Type == api.EnvelopeSync && e.Operation == "" && e.TotalSize == nil {
		a.b.Write(appendAnswer(a.b.AvailableBuffer(), e.StatusCode, own)) // never fails
		return nil
	}
	return a.json.Encode(e)
}

// keptBuffer is the largest that is kept for another answer, in bytes.
const keptBuffer = 64 << 10

func newAnswerBuffer() any {
	a := &answerBuffer{}
	a.json = json.NewEncoder(&a.b)
	a.json.SetEscapeHTML(false) // tokens in addresses stay readable
	return a
}

func (s *Server) write(c *gin.Context, e api.Envelope) {
	a := s.buffers.Get().(*answerBuffer)
	a.b.Reset()
	if err := a.put(e); err != nil {
		s.log.Error("answer cannot be written as JSON", "handler", ofRequest(c).handler, "error", err)
		c.Status(http.StatusInternalServerError)
		return
	}
	h := c.Writer.Header()
	h["Cache-Control"] = noStore
	h["Content-Length"] = []string{strconv.Itoa(a.b.Len())}
	c.Data(e.StatusCode, "application/json", a.b.Bytes())
	if a.b.Cap() <= keptBuffer {
		s.buffers.Put(a)
	}
}

func requestID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}
