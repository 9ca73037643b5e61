package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/coder/websocket"
	"github.com/gin-gonic/gin"

	"github.com/perigee-cloud/perigee/api"
)

// socket is one signalling websocket.
type socket struct {
	conn  *websocket.Conn
	write time.Duration
	ctx   context.Context // ends when the websocket is to be cut
	cut   context.CancelFunc
}

// ending is why a websocket ends. An empty message means that the other side
// has gone: nobody is left to be told.
type ending struct {
	code    websocket.StatusCode
	message string
}

// errEnding carries an ending out of the reading loop.
type errEnding struct{ ending }

func (e errEnding) Error() string { return e.message }

// errAnswered says that the request has its answer already.
var errAnswered = errors.New("answered by the websocket library")

// open upgrades a request and keeps the socket in the server's books; the
// caller must call the returned release.
func (s *Server) open(c *gin.Context) (*socket, func(), error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.Request.Context()))
	k := &socket{write: s.timing.write, ctx: ctx, cut: cancel}
	if err := s.enlist(k); err != nil {
		cancel()
		return nil, nil, err
	}
	release := func() {
		cancel()
		s.discharge(k)
	}
	opts := &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled}
	if s.origins == nil {
		opts.InsecureSkipVerify = true // the ticket in the address is the proof, not a cookie
	}
	for o := range s.origins {
		if u, err := url.Parse(o); err == nil {
			opts.OriginPatterns = append(opts.OriginPatterns, u.Host)
		}
	}
	conn, err := websocket.Accept(c.Writer, c.Request, opts)
	if err != nil {
		release()
		return nil, nil, errors.Join(errAnswered, err)
	}
	conn.SetReadLimit(-1) // read keeps the limit itself, to say why before it closes
	k.conn = conn
	return k, release, nil
}

func (s *Server) enlist(k *socket) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return api.Errorf(api.CodeUnavailable, "this gateway is going away; connect again")
	case len(s.sockets) >= s.cfg.MaxSockets:
		return api.Errorf(api.CodeUnavailable, "this gateway has %d websockets open, its limit; connect again later", len(s.sockets))
	}
	s.sockets[k] = struct{}{}
	s.metrics.sockets.Set(float64(len(s.sockets)))
	return nil
}

func (s *Server) discharge(k *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sockets, k)
	s.metrics.sockets.Set(float64(len(s.sockets)))
	if s.draining && len(s.sockets) == 0 {
		close(s.idle)
	}
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// read waits for one text frame of at most api.MaxFrame bytes.
func (k *socket) read() ([]byte, error) {
	kind, r, err := k.conn.Reader(k.ctx)
	if err != nil {
		return nil, fmt.Errorf("read frame: %w", err)
	}
	if kind != websocket.MessageText {
		return nil, errEnding{ending{websocket.StatusUnsupportedData, "a binary frame came; signalling is text"}}
	}
	frame, err := io.ReadAll(io.LimitReader(r, api.MaxFrame+1))
	if err != nil {
		return nil, fmt.Errorf("read frame: %w", err)
	}
	if len(frame) > api.MaxFrame {
		return nil, errEnding{ending{websocket.StatusMessageTooBig, fmt.Sprintf("a frame is over %d bytes", api.MaxFrame)}}
	}
	return frame, nil
}

func (k *socket) send(frame []byte) error {
	ctx, cancel := context.WithTimeout(k.ctx, k.write)
	defer cancel()
	if err := k.conn.Write(ctx, websocket.MessageText, frame); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// finish tells the client why, closes and frees everything. A close alone
// would leave the SDK waiting for five minutes.
func (k *socket) finish(e ending) {
	defer k.cut()
	if e.message == "" {
		_ = k.conn.CloseNow() // the client has gone
		return
	}
	if k.send(errorFrame(e.message)) == nil {
		reason := e.message[:min(len(e.message), 120)]
		_ = k.conn.Close(e.code, reason) // the frame before it has said all
		return
	}
	_ = k.conn.CloseNow()
}

func errorFrame(message string) []byte {
	b, _ := json.Marshal(struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}{"error", message}) // plain strings: cannot fail
	return b
}

// discoverAnswer is sent by the gateway itself, at once: old clients wait
// 500 ms for it.
func discoverAnswer(fps int) []byte {
	b, _ := json.Marshal(struct {
		Type         string   `json:"type"`
		MaxVersion   int      `json:"max_api_version"`
		FPS          int      `json:"fps"`
		Capabilities []string `json:"capabilities"`
	}{"resp:discover", 2, fps, []string{}}) // plain fields: cannot fail
	return b
}

// isDiscover says whether a frame asks what the server can do.
func isDiscover(frame []byte) bool {
	if len(frame) > 1024 { // a discover is short, an offer is not: spare the parsing
		return false
	}
	var f struct {
		Type string `json:"type"`
	}
	return json.Unmarshal(frame, &f) == nil && f.Type == "discover"
}

// asEnding finds what a client is told about an error of reading.
func asEnding(err error) ending {
	var e errEnding
	if errors.As(err, &e) {
		return e.ending
	}
	return ending{} // closed or broken: the client has gone
}
