package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/gossip/simnet"
)

// hub is one replica's part of the bus, as its embedded NATS server is: edges
// connect to any, the hubs to each other, and what an edge says is heard by all.
type hub struct {
	at    int
	host  *simnet.Host
	peers []string // host:port of all hubs, its own included
	wg    sync.WaitGroup
	asked asked
	lanes *lanes

	mu        sync.Mutex // guards the fields below
	nodes     map[api.NodeID]*wire
	routes    map[int]*wire
	report    func(context.Context, api.Report) api.Ack
	heartbeat func(context.Context, api.Heartbeat) api.HeartbeatAnswer
}

// routeEvery is how often a hub looks for the others.
const routeEvery = 250 * time.Millisecond

func newHub(at int, host *simnet.Host, peers []string) *hub {
	return &hub{at: at, host: host, peers: peers, nodes: map[api.NodeID]*wire{}, routes: map[int]*wire{}}
}

// run serves until ctx ends.
func (h *hub) run(ctx context.Context) error {
	l, err := h.host.Listen(h.peers[h.at])
	if err != nil {
		return fmt.Errorf("listen for edges: %w", err)
	}
	h.lanes = newLanes(ctx.Done())
	for i := range h.at { // the later dials the earlier
		h.wg.Go(func() { h.route(ctx, i) })
	}
	h.wg.Go(func() {
		<-ctx.Done()
		_ = l.Close() // never fails
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, w := range h.nodes {
			_ = w.c.Close() // never fails
		}
		for _, w := range h.routes {
			_ = w.c.Close() // never fails
		}
	})
	h.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.wg.Go(func() { h.serve(ctx, c) })
		}
	})
	return nil
}

func (h *hub) wait() {
	h.wg.Wait()
	h.lanes.wg.Wait()
}

// route keeps a connection to another hub.
func (h *hub) route(ctx context.Context, i int) {
	for pause(ctx, routeEvery) {
		dctx, cancel := context.WithTimeout(ctx, askTimeout)
		c, err := h.host.Dial(dctx, h.peers[i])
		cancel()
		if err != nil {
			continue
		}
		w := newWire(c)
		w.send(frame{Kind: kindHello, At: h.at})
		h.keep(ctx, w, func() { h.routes[i] = w }, func() {
			if h.routes[i] == w {
				delete(h.routes, i)
			}
		})
	}
}

// serve greets an edge or another hub.
func (h *hub) serve(ctx context.Context, c net.Conn) {
	w := newWire(c)
	f, err := w.read()
	if err != nil || f.Kind != kindHello {
		_ = c.Close() // never fails
		return
	}
	if f.Node == "" {
		h.keep(ctx, w, func() { h.routes[f.At] = w }, func() {
			if h.routes[f.At] == w {
				delete(h.routes, f.At)
			}
		})
		return
	}
	h.keep(ctx, w, func() { h.nodes[f.Node] = w }, func() {
		if h.nodes[f.Node] == w {
			delete(h.nodes, f.Node)
		}
	})
}

// keep reads a connection to its end; begin and end note it, under h.mu.
func (h *hub) keep(ctx context.Context, w *wire, begin, end func()) {
	h.mu.Lock()
	begin()
	h.mu.Unlock()
	done := make(chan struct{})
	h.wg.Go(func() { w.pump(done) })
	for ctx.Err() == nil {
		f, err := w.read()
		if err != nil {
			break
		}
		h.take(ctx, f, w)
	}
	close(done)
	_ = w.c.Close() // never fails
	h.mu.Lock()
	end()
	h.mu.Unlock()
}

// take routes one frame. What an edge says goes to every replica, once.
func (h *hub) take(ctx context.Context, f frame, from *wire) {
	h.mu.Lock()
	report, heartbeat := h.report, h.heartbeat
	edge := h.nodes[f.Node] == from
	var others []*wire
	if edge && (f.Kind == kindReport || f.Kind == kindHeartbeat) {
		f.At = h.at
		for _, w := range h.routes {
			others = append(others, w)
		}
	}
	node, back := h.nodes[f.Node], h.routes[f.At]
	h.mu.Unlock()
	for _, w := range others {
		w.send(f)
	}
	switch f.Kind {
	case kindReport:
		var r api.Report
		if report != nil && json.Unmarshal(f.Data, &r) == nil {
			h.lanes.add(string(r.Session), func() {
				if a := report(ctx, r); a != (api.Ack{}) {
					h.answer(f, a)
				}
			})
		}
	case kindHeartbeat:
		var b api.Heartbeat
		if heartbeat != nil && json.Unmarshal(f.Data, &b) == nil {
			h.lanes.add(string(b.Node), func() {
				if a := heartbeat(ctx, b); a.OK || a.Refused != "" || len(a.Unwanted) > 0 {
					h.answer(f, a)
				}
			})
		}
	case kindCommand:
		if node != nil {
			node.send(f)
		}
	case kindAnswer:
		switch {
		case !edge && node != nil: // to an edge of this hub
			node.send(f)
		case f.At == h.at:
			h.asked.answer(f)
		case edge && back != nil:
			f.Node = ""
			back.send(f)
		}
	}
}

// answer sends a handler's answer the way that the question came.
func (h *hub) answer(q frame, a any) {
	b, err := json.Marshal(a)
	if err != nil {
		panic(fmt.Sprintf("an answer cannot be encoded: %v", err))
	}
	f := frame{Kind: kindAnswer, ID: q.ID, Node: q.Node, At: q.At, Data: b}
	h.mu.Lock()
	w := h.nodes[q.Node]
	if q.At != h.at {
		w = h.routes[q.At]
	}
	h.mu.Unlock()
	if w != nil {
		w.send(f)
	}
}

// Command sends a command to a node, whichever hub it is connected to.
func (h *hub) Command(ctx context.Context, node api.NodeID, c api.Command) (api.Ack, error) {
	var a api.Ack
	b, err := json.Marshal(c)
	if err != nil {
		return a, fmt.Errorf("encode command: %w", err)
	}
	id, answer := h.asked.add()
	defer h.asked.drop(id)
	f := frame{Kind: kindCommand, ID: id, Node: node, At: h.at, Data: b}
	h.mu.Lock()
	to := []*wire{h.nodes[node]}
	if to[0] == nil {
		to = to[:0]
		for _, w := range h.routes {
			to = append(to, w)
		}
	}
	h.mu.Unlock()
	if len(to) == 0 {
		return a, api.Errorf(api.CodeUnavailable, "nobody answers on the bus")
	}
	for _, w := range to {
		w.send(f)
	}
	return a, await(ctx, answer, &a)
}

// await waits for an answer, 1 s at most.
func await(ctx context.Context, answer <-chan json.RawMessage, a any) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	select {
	case b := <-answer:
		if err := json.Unmarshal(b, a); err != nil {
			return fmt.Errorf("decode answer: %w", err)
		}
		return nil
	case <-ctx.Done():
		return &api.Error{Code: api.CodeTimeout, Message: "no answer on the bus in time", Err: ctx.Err()}
	}
}

// OnReport sets who hears the edges' reports.
func (h *hub) OnReport(handle func(context.Context, api.Report) api.Ack) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.report = handle
	return nil
}

// OnHeartbeat sets who hears the edges' heartbeats.
func (h *hub) OnHeartbeat(handle func(context.Context, api.Heartbeat) api.HeartbeatAnswer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heartbeat = handle
	return nil
}

// kick ends a node's connection.
func (h *hub) kick(id api.NodeID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.nodes[id]; w != nil {
		_ = w.c.Close() // never fails
	}
	return nil
}

// pause waits; false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
