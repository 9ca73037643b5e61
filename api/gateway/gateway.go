package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"golang.org/x/time/rate"

	"github.com/perigee-cloud/perigee/api"
)

// Config is what a Server is made of. The interfaces and Log are required.
type Config struct {
	Sessions Sessions
	Catalog  Catalog
	Accounts Accounts
	Nodes    Nodes
	Cluster  Cluster
	Signals  Signals
	Locator  Locator
	Log      *slog.Logger

	// Replicas is the cluster of schedulers; nil when there is none to tell of.
	Replicas Replicas
	// WarmPools keeps instances started; nil when there is nobody to ask.
	WarmPools WarmPools
	// Instances serves the instances; nil when there is nobody to ask.
	Instances Instances
	// Prober names nodes that clients may measure; nil offers none.
	Prober Prober
	// Latencies of the nodes for /metrics; nil shows none.
	Latencies Latencies
	// Web serves the player at / and /static; nil serves none.
	Web http.Handler
	// Version is shown in /1.0/status to those with a token.
	Version string
	// PublicURL is the base of the websocket addresses in answers, http or https;
	// "" takes each request's own Host and scheme.
	PublicURL string
	// LocalURL is the base for answers on the admin socket where PublicURL is "".
	LocalURL string
	// TrustedProxies lists addresses and networks whose X-Forwarded-* are believed.
	TrustedProxies []string
	// CORSOrigins lists the origins a page may call from; empty allows any: what
	// gives access is a token that a page must already hold.
	CORSOrigins []string
	// MaxRequestsPerSecond over all clients; 0 = no limit.
	MaxRequestsPerSecond int
	// MaxSockets bounds the open signalling websockets; 0 = 4096.
	MaxSockets int
	// RequestTimeout bounds one request, 0 = 10 s; SyncTimeout one that waits for
	// sessions to end, 0 = 30 s.
	RequestTimeout time.Duration
	SyncTimeout    time.Duration
}

// Limits of what a client may send.
const (
	MaxBody       = 1 << 20 // bytes of a request's body
	maxBatch      = 1000    // sessions of one batch delete
	batchAtOnce   = 16
	maxSockets    = 4096
	maxQueue      = 512     // frames held for one direction of one websocket
	maxQueueBytes = 2 << 20 // and their bytes
)

// timing holds the waits of a websocket; tests shorten them.
type timing struct {
	hold    time.Duration // for the stream's first frame
	watch   time.Duration // between two looks at a session that is being waited for
	settled time.Duration // the same once the stream has answered
	ping    time.Duration
	write   time.Duration
	retry   time.Duration // between two tries to reach the stream
}

// Server is the gateway. It starts no goroutine of its own: each belongs to a
// request and ends with it.
type Server struct {
	cfg     Config
	log     *slog.Logger
	public  *url.URL // nil = from the request
	local   *url.URL
	trusted []netip.Prefix
	origins map[string]bool // nil = any
	limiter *rate.Limiter   // nil = none
	metrics *metrics
	hub     *hub
	timing  timing
	now     func() time.Time
	buffers sync.Pool // of *answerBuffer

	routes []route
	tcp    http.Handler
	admin  http.Handler

	mu       sync.Mutex
	sockets  map[*socket]struct{}
	draining bool
	drain    chan struct{} // closed when draining starts
	idle     chan struct{} // closed when draining and no socket is left
}

// New checks a configuration and makes a Server; nothing runs until a handler
// is called.
func New(cfg Config) (*Server, error) {
	s := &Server{
		cfg: cfg, log: cfg.Log, hub: newHub(), now: time.Now,
		buffers: sync.Pool{New: newAnswerBuffer},
		sockets: map[*socket]struct{}{}, drain: make(chan struct{}), idle: make(chan struct{}),
		timing: timing{
			hold: api.ConnectTimeout, watch: 250 * time.Millisecond, settled: 2 * time.Second,
			ping: 20 * time.Second, write: 10 * time.Second, retry: 100 * time.Millisecond,
		},
	}
	if err := checkParts(cfg); err != nil {
		return nil, err
	}
	if s.cfg.MaxSockets <= 0 {
		s.cfg.MaxSockets = maxSockets
	}
	if s.cfg.RequestTimeout <= 0 {
		s.cfg.RequestTimeout = 10 * time.Second
	}
	if s.cfg.SyncTimeout <= 0 {
		s.cfg.SyncTimeout = 30 * time.Second
	}
	var err error
	if s.public, err = parseBase("public URL", cfg.PublicURL); err != nil {
		return nil, err
	}
	if s.local, err = parseBase("local URL", cfg.LocalURL); err != nil {
		return nil, err
	}
	if s.trusted, err = parsePrefixes(cfg.TrustedProxies); err != nil {
		return nil, err
	}
	if s.origins, err = parseOrigins(cfg.CORSOrigins); err != nil {
		return nil, err
	}
	if cfg.MaxRequestsPerSecond > 0 {
		s.limiter = rate.NewLimiter(rate.Limit(cfg.MaxRequestsPerSecond), cfg.MaxRequestsPerSecond)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("read host name for metrics: %w", err)
	}
	s.metrics = newMetrics(s, host)
	s.routes = s.table()
	gin.SetMode(gin.ReleaseMode) // gin's own global: else it writes its routes to standard output
	s.tcp, s.admin = s.engine(false), s.engine(true)
	return s, nil
}

func checkParts(cfg Config) error {
	for _, p := range []struct {
		name    string
		missing bool
	}{
		{"Sessions", cfg.Sessions == nil}, {"Catalog", cfg.Catalog == nil}, {"Accounts", cfg.Accounts == nil},
		{"Nodes", cfg.Nodes == nil}, {"Cluster", cfg.Cluster == nil}, {"Signals", cfg.Signals == nil},
		{"Locator", cfg.Locator == nil}, {"Log", cfg.Log == nil},
	} {
		if p.missing {
			return fmt.Errorf("make gateway: %s is missing", p.name)
		}
	}
	return nil
}

// parseBase reads an http or https base address; "" gives nil.
func parseBase(name, text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("read %s %q: must be like https://stream.example.com", name, text)
	}
	return u, nil
}

// parseOrigins reads the allowed origins; none or "*" gives nil, which is any.
func parseOrigins(list []string) (map[string]bool, error) {
	var out map[string]bool
	for _, o := range list {
		if o == "*" {
			return nil, nil
		}
		u, err := url.Parse(o)
		if err != nil || u.Scheme == "" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			return nil, fmt.Errorf("read CORS origin %q: must be like https://app.example.com, or *", o)
		}
		if out == nil {
			out = map[string]bool{}
		}
		out[strings.ToLower(u.Scheme+"://"+u.Host)] = true
	}
	return out, nil
}

// Handler serves the API, the player and the metrics to the network.
func (s *Server) Handler() http.Handler { return s.tcp }

// AdminHandler serves the same with every right and without tokens: only for
// the listener of ListenAdmin.
func (s *Server) AdminHandler() http.Handler { return s.admin }

// HTTPServer gives a server for one of the handlers, with the waits that keep a
// slow client from holding a connection. Websockets are freed of them.
func (s *Server) HTTPServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      s.cfg.SyncTimeout + s.cfg.RequestTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// Drain refuses new websockets, tells each open one by an error frame and
// closes it, and waits for the last until ctx ends.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	if !s.draining {
		s.draining = true
		close(s.drain)
		if len(s.sockets) == 0 {
			close(s.idle)
		}
	}
	s.mu.Unlock()
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain websockets: %w", ctx.Err())
	}
}

// closeWait is how long Close gives clients to answer the closing handshake.
const closeWait = 2 * time.Second

// Close drains for at most 2 s, then cuts what is left.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	err := s.Drain(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	s.mu.Lock()
	left := make([]*socket, 0, len(s.sockets))
	for k := range s.sockets {
		left = append(left, k)
	}
	s.mu.Unlock()
	for _, k := range left {
		k.cut()
	}
	return nil
}
