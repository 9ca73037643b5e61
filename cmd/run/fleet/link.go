package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/gossip/simnet"
)

var (
	_ edge.Bus   = (*link)(nil)
	_ edge.Mover = (*link)(nil)
)

// link is an edge's connection to the bus: to one hub, and to the next when
// that one is gone. While it is down, calls fail at once.
type link struct {
	host  *simnet.Host
	node  api.NodeID
	hubs  []string
	asked asked

	mu      sync.Mutex // guards the fields below
	w       *wire
	command func(context.Context, api.Command) api.Ack
	signals uint64 // sent; no client is there to hear them
}

// run stays connected until ctx ends.
func (l *link) run(ctx context.Context) {
	wait := backOffFirst
	for i := rand.N(len(l.hubs)); ctx.Err() == nil; i++ {
		dctx, cancel := context.WithTimeout(ctx, 3*askTimeout)
		c, err := l.host.Dial(dctx, l.hubs[i%len(l.hubs)])
		cancel()
		if err == nil {
			wait = backOffFirst
			l.serve(ctx, newWire(c))
		}
		pause(ctx, wait/2+rand.N(wait/2))
		wait = min(2*wait, backOffMost)
	}
}

func (l *link) serve(ctx context.Context, w *wire) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { w.pump(done) })
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-done:
		}
		_ = w.c.Close() // never fails
	})
	w.send(frame{Kind: kindHello, Node: l.node})
	l.mu.Lock()
	l.w = w
	l.mu.Unlock()
	for {
		f, err := w.read()
		if err != nil {
			break
		}
		switch f.Kind {
		case kindAnswer:
			l.asked.answer(f)
		case kindCommand:
			l.obey(ctx, w, f)
		}
	}
	l.mu.Lock()
	l.w = nil
	l.mu.Unlock()
	close(done)
	wg.Wait()
}

func (l *link) obey(ctx context.Context, w *wire, f frame) {
	l.mu.Lock()
	command := l.command
	l.mu.Unlock()
	var c api.Command
	if command == nil || json.Unmarshal(f.Data, &c) != nil {
		return
	}
	b, err := json.Marshal(command(ctx, c))
	if err != nil {
		panic(fmt.Sprintf("an answer cannot be encoded: %v", err))
	}
	w.send(frame{Kind: kindAnswer, ID: f.ID, Node: l.node, At: f.At, Data: b})
}

// ask sends a question to the schedulers.
func (l *link) ask(ctx context.Context, kind string, q, a any) error {
	b, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("encode %s: %w", kind, err)
	}
	l.mu.Lock()
	w := l.w
	l.mu.Unlock()
	if w == nil {
		return api.Errorf(api.CodeUnavailable, "the bus is not reached")
	}
	id, answer := l.asked.add()
	defer l.asked.drop(id)
	w.send(frame{Kind: kind, ID: id, Node: l.node, Data: b})
	return await(ctx, answer, a)
}

// Report tells the leader what was observed.
func (l *link) Report(ctx context.Context, r api.Report) (api.Ack, error) {
	var a api.Ack
	r.Node = l.node
	return a, l.ask(ctx, kindReport, r, &a)
}

// Heartbeat keeps the lease.
func (l *link) Heartbeat(ctx context.Context, h api.Heartbeat) (api.HeartbeatAnswer, error) {
	var a api.HeartbeatAnswer
	h.Node, h.SentAt = l.node, time.Now()
	return a, l.ask(ctx, kindHeartbeat, h, &a)
}

// OnCommand sets who obeys.
func (l *link) OnCommand(handle func(context.Context, api.Command) api.Ack) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.command = handle
	return nil
}

// OnSignal takes a handler that is never called: clients do not signal here.
func (l *link) OnSignal(func(api.Signal)) error { return nil }

// SendSignal counts a signal.
func (l *link) SendSignal(api.Signal) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.signals++
	return nil
}

// Move leaves the hub for the next one.
func (l *link) Move() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w != nil {
		_ = l.w.c.Close() // its reader connects again
	}
}
