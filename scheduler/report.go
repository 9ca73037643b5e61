package scheduler

import (
	"context"
	"strings"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// onReport takes in what an edge observed; a change is committed before it is
// acknowledged, anything else is answered from the state.
func (s *Server) onReport(ctx context.Context, r api.Report) api.Ack {
	if s.serving() != nil {
		return api.Ack{}
	}
	root := s.root()
	n, ok := root.Node(r.Node)
	if ok && n.Boot == r.Boot && r.Latency != nil {
		if v, known := root.Session(r.Session); known && v.Node == r.Node {
			s.driftsAt(r.Node, s.view.latency.learn(r, s.cfg.Clock()))
		}
	}
	if !s.leads() {
		return api.Ack{} // the leader answers
	}
	switch {
	case !ok:
		return api.Ack{Error: "the node is not known here: join again"}
	case n.Boot != r.Boot:
		return api.Ack{Error: "another start of this node's daemon has joined since"}
	case !reportable(r.Observed):
		return api.Ack{Error: "observed: \"" + string(r.Observed) + "\" is nothing that an edge reports"}
	}
	if r.RoundTripMS > 0 {
		s.view.lore.learn(root, r, s.view.siteOf(r.Node), s.cfg.Clock())
	}
	v, ok := root.Live(r.Session)
	wanted := ok && v.Generation == r.Generation && v.Node == r.Node
	if !wanted && !holds(n, r) {
		return api.Ack{OK: true, Stop: !api.Final(r.Observed)}
	}
	if wanted && !changes(v, r) {
		return api.Ack{OK: true}
	}
	res, err := s.propose(ctx, &state.Report{
		ID: r.Session, Generation: r.Generation, Node: r.Node, Boot: r.Boot, Seq: r.Seq,
		Observed: r.Observed, Reason: r.Reason, Message: clip(r.Message, api.MaxMessage), Connected: r.Connected, Pool: r.Pool, Codec: r.Codec,
	})
	switch {
	case retryable(err) != never:
		return api.Ack{} // the node sends it again, to the next leader
	case err != nil:
		return api.Ack{Error: err.Error()}
	}
	if wanted && (v.Observed != r.Observed || v.Connected != r.Connected) {
		s.cfg.Log.Info("session changed", "session", r.Session, "node", r.Node, "observed", r.Observed, "connected", r.Connected, "reason", r.Reason, "detail", r.Message)
	}
	return api.Ack{OK: true, Stop: res.Stop}
}

func reportable(o api.Observed) bool {
	switch o {
	case api.ObservedStarting, api.ObservedRunning, api.ObservedStopped, api.ObservedFailed:
		return true
	default:
		return false
	}
}

// holds says whether the final report of an ended session frees what its node held.
func holds(n *state.Node, r api.Report) bool {
	if !api.Final(r.Observed) {
		return false
	}
	for _, h := range n.Held {
		if h.Session == r.Session && h.Generation == r.Generation {
			return true
		}
	}
	return false
}

// changes says whether a report brings anything that the state does not show.
func changes(v *state.Session, r api.Report) bool {
	if r.Boot == v.Boot && r.Seq <= v.Seq {
		return false
	}
	return r.Observed != v.Observed && api.Next(v.Observed, r.Observed) ||
		r.Connected != v.Connected ||
		r.Pool != "" && r.Pool != v.Pool ||
		r.Codec != "" && r.Codec != v.Codec ||
		r.Reason != "" && r.Reason != v.Reason
}

// clip cuts text to a number of bytes without breaking a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
