package gateway

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// observe counts and logs each request. The query is left out of the log: it
// holds tokens and tickets.
func (s *Server) observe(c *gin.Context) {
	start := s.now()
	known := &ofCall{}
	c.Set(keyCall, known)
	s.metrics.inFlight.Inc()
	defer func() {
		s.metrics.inFlight.Dec()
		took := s.now().Sub(start)
		handler, status := cmp.Or(known.handler, "other"), c.Writer.Status()
		s.metrics.observe(handler, c.Request, status, took, c.Writer.Size())
		if s.log.Enabled(context.Background(), slog.LevelDebug) {
			client, _ := s.clientAddress(c.Request)
			s.log.Debug("request served", "handler", handler, "method", c.Request.Method,
				"path", c.Request.URL.Path, "status", status, "took", took, "client", client)
		}
	}()
	c.Next()
}

// recovered turns a panic of one request into its error.
func (s *Server) recovered(c *gin.Context) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if v == http.ErrAbortHandler { //nolint:errorlint // the very value net/http compares with
			panic(v)
		}
		s.log.Error("request panicked", "handler", ofRequest(c).handler, "panic", v, "stack", string(debug.Stack()))
		if !c.Writer.Written() {
			s.fail(c, fmt.Errorf("serve request: panic: %v", v))
		}
		c.Abort()
	}()
	c.Next()
}

// Headers of every answer, never written to: setting them by name costs a slice each.
var (
	anyOrigin    = []string{"*"}
	exposedHeads = []string{"Retry-After, Perigee-File-Mode, Perigee-Log-From, " + stalenessHead}
	noStore      = []string{"no-store"}
)

// cors lets pages of the allowed origins call the API, on errors too, and
// answers preflights, which carry no token.
func (s *Server) cors(c *gin.Context) {
	h := c.Writer.Header()
	origin := c.GetHeader("Origin")
	switch {
	case s.origins == nil:
		h["Access-Control-Allow-Origin"] = anyOrigin
	case s.origins[strings.ToLower(origin)]:
		h.Set("Access-Control-Allow-Origin", origin)
		fallthrough
	default:
		h.Add("Vary", "Origin")
	}
	h["Access-Control-Expose-Headers"] = exposedHeads
	if c.Request.Method != http.MethodOptions {
		c.Next()
		return
	}
	ofRequest(c).handler = "preflight"
	h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Accept")
	h.Set("Access-Control-Max-Age", "600")
	c.AbortWithStatus(http.StatusNoContent)
}

// limitRate refuses what comes faster than the operator allows.
func (s *Server) limitRate(c *gin.Context) {
	if s.limiter != nil && !s.limiter.AllowN(s.now(), 1) {
		s.fail(c, api.Errorf(api.CodeRateLimited, "over %d requests a second; try again after a second", s.cfg.MaxRequestsPerSecond))
		return
	}
	c.Next()
}
