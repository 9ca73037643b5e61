package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/bus"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/media/stun"
)

const (
	defaultLook   = 5 * time.Minute  // between two looks at the public address
	defaultSilent = 30 * time.Second // without an answer: the schedulers may be elsewhere

	joinPause    = 5 * time.Second // the longest between two tries to join at first
	presencePoll = 500 * time.Millisecond
	rejoinMost   = time.Minute // the longest between two tries to join again
	// refreshWithin spreads the joins of the nodes that lost one scheduler.
	refreshWithin = 30 * time.Second
)

// presence keeps the node's record at the schedulers true, and the node in touch
// with them: it joins, and joins again when its public address has changed, when
// it has changed servers (others may have come since), and when nobody has
// answered for long.
type presence struct {
	cfg   Config
	id    *edge.Identity
	relay string // host:port
	conn  *bus.Conn
	ring  *ring

	encoders *encoders
	pools    func([]api.Capacity) // takes what the node may carry, after enter

	addresses  []string // public; run's own, after enter
	stun       []string // host:port
	schedulers []string // base URLs that a join told

	mu    sync.Mutex
	heard time.Time // when a scheduler last answered a heartbeat
}

// enter joins for the first time. Without --advertise the node's addresses are
// those that the schedulers see: by STUN, else by the join.
func (p *presence) enter(ctx context.Context) (api.NodeJoined, error) {
	p.addresses = p.cfg.Advertise
	joined, err := p.insist(ctx)
	if err != nil || len(p.cfg.Advertise) > 0 {
		return joined, err
	}
	seen, err := p.look(ctx)
	switch {
	case ctx.Err() != nil:
		return joined, fmt.Errorf("learn address: %w", ctx.Err())
	case err != nil:
		seen = joined.Node.Addresses
		p.cfg.Log.Warn("no scheduler answers STUN: the node's address is the one it joined from", "address", seen, "error", err)
	}
	if p.addresses = seen; slices.Equal(seen, joined.Node.Addresses) {
		return joined, nil
	}
	return p.insist(ctx)
}

// insist joins, for as long as ctx lasts, unless the schedulers refuse for a
// reason that waiting does not mend.
func (p *presence) insist(ctx context.Context) (api.NodeJoined, error) {
	wait := joinWait()
	for said := ""; ; {
		joined, err := p.join(ctx)
		switch {
		case err == nil:
			return joined, nil
		case ctx.Err() != nil:
			return joined, fmt.Errorf("join: %w", ctx.Err())
		case refused(err):
			return joined, err
		case err.Error() != said: // once, not at every try
			p.cfg.Log.Warn("cannot join yet", "error", err)
			said = err.Error()
		}
		select {
		case <-ctx.Done():
			return api.NodeJoined{}, fmt.Errorf("join: %w", ctx.Err())
		case <-time.After(wait.NextBackOff()):
		}
	}
}

func joinWait() *backoff.ExponentialBackOff {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, joinPause
	return wait
}

// join asks one scheduler after the other, those that the operator named first.
func (p *presence) join(ctx context.Context) (api.NodeJoined, error) {
	n, err := describe(ctx, p.cfg, p.relay, p.addresses)
	if err != nil {
		return api.NodeJoined{}, err
	}
	n.Pools, n.Certificate = p.encoders.offer(p.cfg.CPUCapacity)
	n.Machine = machine(p.cfg, p.encoders.inventory)
	var errs []error
	for _, base := range p.bases() {
		joined, err := joinAt(ctx, base, p.cfg.CA, p.id.Join(n, p.cfg.Token))
		if err == nil {
			err = checkJoined(joined)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("join %s: %w", base, err))
			if refused(err) {
				break // they are of one mind
			}
			continue
		}
		joined.NATS, joined.STUN = natsURLs(joined.NATS, base), stunServers(joined.STUN, base)
		p.stun, p.schedulers = joined.STUN, joined.Schedulers
		if err := runDir(p.cfg).SetAddresses(joined.Node.Addresses); err != nil {
			return joined, fmt.Errorf("keep public address: %w", err)
		}
		return joined, nil
	}
	return api.NodeJoined{}, errors.Join(errs...)
}

func (p *presence) bases() []string {
	out := slices.Clone(p.cfg.Join)
	for _, b := range p.schedulers {
		if !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

// refused says that waiting does not mend the reason.
func refused(err error) bool {
	switch api.CodeOf(err) {
	case api.CodeInvalid, api.CodeUnauthorized, api.CodeForbidden:
		return true
	}
	return false
}

// look asks the schedulers for the node's public addresses.
func (p *presence) look(ctx context.Context) ([]string, error) {
	var known []netip.Addr
	for _, a := range p.addresses {
		if a, err := netip.ParseAddr(a); err == nil {
			known = append(known, a)
		}
	}
	seen, err := stun.Ask(ctx, p.stun, known)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range seen {
		out = append(out, a.String())
	}
	return out, nil
}

// answered notes that the schedulers have answered.
func (p *presence) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = time.Now()
}

func (p *presence) silence() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.heard)
}

// heartbeats is the bus as the agent uses it: presence notes the answers.
type heartbeats struct {
	*bus.Conn
	presence *presence
}

// Heartbeat sends the node's inventory and headroom to the schedulers.
func (b heartbeats) Heartbeat(ctx context.Context, h api.Heartbeat) (api.HeartbeatAnswer, error) {
	a, err := b.Conn.Heartbeat(ctx, h)
	if err == nil {
		b.presence.answered()
	}
	return a, err
}

// run looks after the record until ctx ends.
func (p *presence) run(ctx context.Context) error {
	p.answered() // the join was
	tick := time.NewTicker(min(presencePoll, p.cfg.Silent/4))
	defer tick.Stop()
	w := watch{p: p, lookAt: time.Now().Add(p.cfg.Look), lost: p.conn.Lost()}
	wait := joinWait()
	wait.MaxInterval = rejoinMost
	var retry time.Time // not before
	for why := ""; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now()
		if r := w.reason(ctx, now); r != "" {
			why = r
		}
		if why == "" || now.Before(retry) {
			continue
		}
		if err := p.again(ctx, why); err != nil {
			if retry = now.Add(wait.NextBackOff()); ctx.Err() == nil {
				p.cfg.Log.Warn("cannot join again yet", "reason", why, "error", err)
			}
			continue
		}
		wait.Reset()
		why, retry, w.refresh = "", time.Time{}, time.Time{}
	}
}

// watch says when the node is to join again.
type watch struct {
	p       *presence
	lookAt  time.Time // at the address
	refresh time.Time // zero: not
	lost    uint64    // connections to the bus
	blind   bool      // STUN was not answered
}

// reason says why the node is to join again; "" when it is not.
func (w *watch) reason(ctx context.Context, now time.Time) string {
	if n := w.p.conn.Lost(); n != w.lost {
		w.lost, w.refresh = n, now.Add(rand.N(refreshWithin))
	}
	switch {
	case w.p.encoders.news():
		return "the encoders were certified"
	case w.p.silence() >= w.p.cfg.Silent:
		return "nobody answers"
	case !w.refresh.IsZero() && !now.Before(w.refresh):
		return "the server changed"
	case len(w.p.cfg.Advertise) == 0 && !now.Before(w.lookAt):
		w.lookAt = now.Add(w.p.cfg.Look)
		if w.moved(ctx) {
			return "the address changed"
		}
	}
	return ""
}

// moved looks whether the schedulers see the node at other addresses than it
// says. Where none answers they are taken to be what they were.
func (w *watch) moved(ctx context.Context) bool {
	p := w.p
	seen, err := p.look(ctx)
	if ctx.Err() != nil {
		return false
	}
	if err != nil && !w.blind {
		p.cfg.Log.Warn("no scheduler answers STUN: a change of the public address would not be seen", "error", err)
	}
	if w.blind = err != nil; w.blind || slices.Equal(seen, p.addresses) {
		return false
	}
	p.cfg.Log.Info("public address has changed", "was", p.addresses, "is", seen)
	p.addresses = seen
	return true
}

// again joins once more and follows what the answer says.
func (p *presence) again(ctx context.Context, why string) error {
	joined, err := p.join(ctx)
	if err != nil {
		return err
	}
	p.answered() // heartbeats have as much time again
	p.cfg.Log.Info("joined again", "reason", why, "addresses", joined.Node.Addresses, "nats", joined.NATS)
	p.pools(joined.Node.Pools)
	p.ring.follow(joined)
	return p.conn.SetURLs(joined.NATS)
}
