package bus

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"golang.org/x/time/rate"

	"github.com/perigee-cloud/perigee/api"
)

const (
	requestTimeout = time.Second
	dialTimeout    = 3 * time.Second
	backOffFirst   = 100 * time.Millisecond
	backOffMost    = 5 * time.Second
	pendingCount   = 8192 // messages waiting per subscription; more are dropped and sent again
	pendingBytes   = 32 << 20
)

// Config says how to reach the bus and as whom: Server.InProcess for a
// scheduler with an embedded server; URLs with Seed for a node, which logs in by
// its key unless a URL names a user; URLs with User and Password for a scheduler
// on an external server.
type Config struct {
	URLs     []string
	Seed     []byte // a node's Ed25519 seed (32 bytes) or private key (64)
	User     string
	Password string
	TLS      *tls.Config // nil: no TLS
	Log      *slog.Logger

	server *server.Server
}

// Conn is a connection to the bus: a node's or a scheduler's. It reconnects for
// ever with back-off; while it is down, calls fail at once.
type Conn struct {
	nc    *nats.Conn
	node  api.NodeID // "" for a scheduler
	log   *slog.Logger
	lanes *lanes
	up    chan struct{} // closed at the first connection

	ctx    context.Context // ends handlers and links at Close
	cancel context.CancelFunc

	once  sync.Once // Close
	drops *rate.Limiter

	mu     sync.Mutex
	links  sync.WaitGroup // added to under mu, and not after closed
	closed bool
}

// Dial starts to connect. It answers at once: Wait says when the bus is
// reached. ctx ends the connection as Close does.
func Dial(ctx context.Context, c Config) (*Conn, error) {
	if c.Log == nil {
		return nil, errors.New("bus connection needs a log")
	}
	if c.server == nil && len(c.URLs) == 0 {
		return nil, api.Invalidf("nats", "no URL given: name the schedulers' bus, for example nats://host:4222")
	}
	b := &Conn{log: c.Log, up: make(chan struct{}), drops: rate.NewLimiter(1, 10)}
	options := []nats.Option{
		nats.Timeout(dialTimeout), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectBufSize(-1), nats.CustomReconnectDelay(backOff), nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(maxPings), nats.NoEcho(),
		nats.ErrorHandler(b.onError), nats.DisconnectErrHandler(b.onDown), nats.ConnectHandler(b.onFirst),
		nats.ReconnectHandler(b.onUp),
	}
	who, err := c.identity(b)
	if err != nil {
		return nil, err
	}
	options = append(options, who...)
	if b.ctx, b.cancel = context.WithCancel(ctx); ctx.Err() != nil {
		b.cancel()
		return nil, fmt.Errorf("connect to bus: %w", ctx.Err())
	}
	if b.nc, err = nats.Connect(strings.Join(c.URLs, ","), options...); err != nil {
		b.cancel()
		return nil, fmt.Errorf("connect to bus: %w", err)
	}
	b.lanes = newLanes(nodeLanes)
	if b.node == "" {
		b.lanes = newLanes(schedulerLanes)
	}
	context.AfterFunc(b.ctx, b.Close)
	return b, nil
}

// hasUser says whether a URL names a user: an operator's own server may know
// users and no keys.
func (c Config) hasUser() bool {
	for _, s := range c.URLs {
		if u, err := url.Parse(s); err == nil && u.User != nil {
			return true
		}
	}
	return false
}

func (c Config) identity(b *Conn) ([]nats.Option, error) {
	var out []nats.Option
	if c.TLS != nil {
		out = append(out, nats.Secure(c.TLS))
	}
	if c.server != nil {
		out = append(out, nats.InProcessServer(c.server))
	}
	if len(c.Seed) == 0 {
		return append(out, nats.UserInfo(c.User, c.Password), nats.Name(schedulerUser)), nil
	}
	seed := c.Seed
	switch len(seed) {
	case ed25519.SeedSize:
	case ed25519.PrivateKeySize:
		seed = seed[:ed25519.SeedSize]
	default:
		return nil, fmt.Errorf("node key has %d bytes: an Ed25519 seed has %d", len(seed), ed25519.SeedSize)
	}
	pair, err := nkeys.FromRawSeed(nkeys.PrefixByteUser, seed)
	if err != nil {
		return nil, fmt.Errorf("read node key: %w", err)
	}
	nkey, err := pair.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("read node key: %w", err)
	}
	b.node = api.NodeIDFromKey(ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
	out = append(out, nats.Name(string(b.node)), nats.CustomInboxPrefix(subject(b.node, kindInbox)))
	if !c.hasUser() {
		out = append(out, nats.Nkey(nkey, pair.Sign))
	}
	return out, nil
}

func backOff(attempts int) time.Duration {
	d := min(backOffFirst<<min(attempts, 10), backOffMost)
	return d/2 + rand.N(d/2) // spread: a thousand edges lose a replica at once
}

// Node is the node that the connection belongs to, "" for a scheduler's.
func (b *Conn) Node() api.NodeID { return b.node }

// Connected says whether the bus is reached now.
func (b *Conn) Connected() bool { return b.nc.IsConnected() }

// Lost counts how often a connection was lost and made again, perhaps to
// another server.
func (b *Conn) Lost() uint64 { return b.nc.Stats().Reconnects }

// SetURLs replaces the addresses at which the bus is reached; while it is not,
// they are tried at once.
func (b *Conn) SetURLs(urls []string) error {
	if len(urls) == 0 {
		return api.Invalidf("nats", "no URL given: name the schedulers' bus, for example nats://host:4222")
	}
	if err := b.nc.SetServerPool(urls); err != nil {
		return fmt.Errorf("set bus addresses: %w", err)
	}
	if b.nc.IsConnected() {
		return nil
	}
	if err := b.nc.ForceReconnect(); err != nil {
		return fmt.Errorf("reconnect to bus: %w", err)
	}
	return nil
}

// Move leaves the present server for the next one, if there is another.
func (b *Conn) Move() {
	if len(b.nc.Servers()) < 2 || !b.nc.IsConnected() {
		return
	}
	b.log.Warn("nobody answers by this server of the bus: trying the next", "server", b.nc.ConnectedServerName())
	if err := b.nc.ForceReconnect(); err != nil {
		b.log.Warn("bus server could not be left", "error", err)
	}
}

// Wait waits for the first connection.
func (b *Conn) Wait(ctx context.Context) error {
	select {
	case <-b.up:
		return nil
	case <-b.ctx.Done():
		return fmt.Errorf("wait for bus: %w", nats.ErrConnectionClosed)
	case <-ctx.Done():
		if err := b.nc.LastError(); err != nil {
			return fmt.Errorf("wait for bus: %w: %w", ctx.Err(), err)
		}
		return fmt.Errorf("wait for bus: %w", ctx.Err())
	}
}

// Close tells the other ends of open signal links, disconnects, and waits for
// running handlers, so that none of these may call it.
func (b *Conn) Close() { b.once.Do(b.close) }

func (b *Conn) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	b.links.Wait()
	b.nc.Close() // flushes
	b.lanes.close()
}

func (b *Conn) onFirst(nc *nats.Conn) {
	close(b.up)
	b.log.Info("bus connected", "server", nc.ConnectedServerName())
}

func (b *Conn) onUp(nc *nats.Conn) {
	b.log.Info("bus connected again", "server", nc.ConnectedServerName())
}

func (b *Conn) onDown(_ *nats.Conn, err error) {
	if b.ctx.Err() == nil {
		b.log.Warn("bus connection lost", "error", err)
	}
}

func (b *Conn) onError(_ *nats.Conn, s *nats.Subscription, err error) {
	on := ""
	if s != nil {
		on = s.Subject
	}
	b.log.Warn("bus error", "subject", on, "error", err)
}

// subscribe hands messages to take on the subscription's own goroutine; take must not wait.
func (b *Conn) subscribe(subject string, take func(*nats.Msg)) (*nats.Subscription, error) {
	s, err := b.nc.Subscribe(subject, take)
	if err != nil {
		return nil, fmt.Errorf("subscribe to bus: %w", err)
	}
	if err := s.SetPendingLimits(pendingCount, pendingBytes); err != nil {
		return nil, errors.Join(fmt.Errorf("bound bus subscription: %w", err), s.Unsubscribe())
	}
	return s, nil
}

// request sends q and reads the answer into a; it waits 1 s, less when ctx ends before.
func (b *Conn) request(ctx context.Context, subject string, q, a any) error {
	data, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("encode bus request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m, err := b.nc.RequestWithContext(ctx, subject, data)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return &api.Error{Code: api.CodeTimeout, Message: "no answer on the bus in time", Err: err}
	case errors.Is(err, nats.ErrNoResponders):
		return &api.Error{Code: api.CodeUnavailable, Message: "nobody answers on the bus", Err: err}
	case err != nil:
		return &api.Error{Code: api.CodeUnavailable, Message: "the bus is not reached", Err: err}
	}
	if err := json.Unmarshal(m.Data, a); err != nil {
		return fmt.Errorf("decode bus answer: %w", err)
	}
	return nil
}

// reply answers a request. An edge that is gone simply misses it.
func (b *Conn) reply(m *nats.Msg, a any) {
	data, err := json.Marshal(a)
	if err == nil {
		err = b.nc.Publish(m.Reply, data)
	}
	if err != nil && b.ctx.Err() == nil {
		b.log.Warn("bus answer not sent", "subject", m.Subject, "error", err)
	}
}

// drop logs a message that is not taken, once a second: a node could send many.
func (b *Conn) drop(m *nats.Msg, why string) {
	if !b.drops.Allow() {
		return
	}
	b.log.Warn("bus message dropped", "subject", m.Subject, "reason", why)
}
