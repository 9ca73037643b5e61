package bus

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/perigee-cloud/perigee/api"
)

var errNotNode = errors.New("bus connection is not a node's")

// Command sends a command to a node and gives its answer. CodeUnavailable when
// the node is not connected, CodeTimeout when it does not answer within 1 s.
func (b *Conn) Command(ctx context.Context, node api.NodeID, c api.Command) (api.Ack, error) {
	var a api.Ack
	if err := checkNode(node); err != nil {
		return a, err
	}
	return a, b.request(ctx, subject(node, kindCommand), c, &a)
}

// OnCommand answers this node's commands: those of one session in order, of
// different sessions side by side. ctx ends when the connection is closed.
func (b *Conn) OnCommand(handle func(ctx context.Context, c api.Command) api.Ack) error {
	if b.node == "" {
		return errNotNode
	}
	_, err := b.subscribe(subject(b.node, kindCommand), func(m *nats.Msg) {
		var c api.Command
		if json.Unmarshal(m.Data, &c) != nil || c.Verb == "" || m.Reply == "" {
			b.drop(m, "not a command")
			return
		}
		b.run(m, string(c.Session), func() { b.reply(m, handle(b.ctx, c)) })
	})
	return err
}

// Report sends what the node observed to the leader; the caller sends it again
// until it is acknowledged.
func (b *Conn) Report(ctx context.Context, r api.Report) (api.Ack, error) {
	r.Node = b.node
	return tell[api.Ack](ctx, b, kindReport, r)
}

// Heartbeat sends the node's inventory and headroom to the schedulers.
func (b *Conn) Heartbeat(ctx context.Context, h api.Heartbeat) (api.HeartbeatAnswer, error) {
	h.Node = b.node
	return tell[api.HeartbeatAnswer](ctx, b, kindHeartbeat, h)
}

// tell asks the schedulers something as this node.
func tell[A any](ctx context.Context, b *Conn, kind string, q any) (a A, err error) {
	if b.node == "" {
		return a, errNotNode
	}
	return a, b.request(ctx, subject(b.node, kind), q, &a)
}

// OnReport answers the nodes' reports: those of one session in order. The zero
// Ack is not sent: so a follower leaves the answer to the leader.
func (b *Conn) OnReport(handle func(ctx context.Context, r api.Report) api.Ack) error {
	return hear(b, kindReport, func(r api.Report) (api.NodeID, string) { return r.Node, string(r.Session) },
		func(r api.Report) (api.Ack, bool) {
			a := handle(b.ctx, r)
			return a, a != api.Ack{}
		})
}

// OnHeartbeat hears every node's heartbeats, on each replica. The zero answer
// is not sent: so a follower leaves the answer to the leader.
func (b *Conn) OnHeartbeat(handle func(ctx context.Context, h api.Heartbeat) api.HeartbeatAnswer) error {
	return hear(b, kindHeartbeat, func(h api.Heartbeat) (api.NodeID, string) { return h.Node, string(h.Node) },
		func(h api.Heartbeat) (api.HeartbeatAnswer, bool) {
			a := handle(b.ctx, h)
			return a, a.OK || a.Refused != "" || len(a.Unwanted) > 0
		})
}

// hear answers what every node tells: from reads who says that it sent it, and
// in whose order it is handled; handle says whether there is an answer.
func hear[Q, A any](b *Conn, kind string, from func(Q) (api.NodeID, string), handle func(Q) (A, bool)) error {
	_, err := b.subscribe(subject("*", kind), func(m *nats.Msg) {
		var q Q
		err := json.Unmarshal(m.Data, &q)
		node, lane := from(q)
		if err != nil || node != nodeOf(m.Subject) || !ownInbox(m, node) {
			b.drop(m, "not a "+kind+" of its sender")
			return
		}
		b.run(m, lane, func() {
			if a, ok := handle(q); ok {
				b.reply(m, a)
			}
		})
	})
	return err
}

func (b *Conn) run(m *nats.Msg, key string, f func()) {
	if !b.lanes.add(key, f) {
		b.drop(m, "too many wait")
	}
}

// ownInbox says whether the answer goes to the node's own inbox: a scheduler
// may publish anything, so a node must not choose where it answers.
func ownInbox(m *nats.Msg, node api.NodeID) bool {
	return strings.HasPrefix(m.Reply, subject(node, kindInbox)+".")
}
