package state

import (
	"fmt"
	"slices"

	"github.com/perigee-cloud/perigee/api"
)

// The ledger: what is reserved of each node's pools. It is kept beside the
// sessions and always equals the sum over them and over what lost nodes hold.

// Reserved gives what the ledger holds of a pool: macroblocks per second and
// encoder sessions. It may exceed the capacity after a node moved a session to
// another pool by itself.
func (n *Node) Reserved(p api.Pool) (macroblocks uint64, sessions int) {
	for _, u := range n.used {
		if u.pool == p {
			return u.reserved, u.sessions
		}
	}
	return 0, 0
}

// Capacity finds a pool of the node.
func (n *Node) Capacity(p api.Pool) (api.Capacity, bool) {
	for _, c := range n.Pools {
		if c.Pool == p {
			return c, true
		}
	}
	return api.Capacity{}, false
}

// Fits says whether a stream may be reserved, and the refusal when it may not.
// Extra is what is taken beside the ledger.
func (n *Node) Fits(p api.Pool, codec api.Codec, cost, extra uint64, extraSessions int) (api.Refusal, bool) {
	refuse := func(code api.RefusalCode, format string, args ...any) (api.Refusal, bool) {
		return api.Refusal{Node: n.ID, Region: n.Region, Code: code, Detail: fmt.Sprintf(format, args...)}, false
	}
	capacity, ok := n.Capacity(p)
	if !ok || !slices.Contains(capacity.Codecs, codec) {
		return refuse(api.RefusedCodec, "pool %s does not encode %s", p, codec)
	}
	used, sessions := n.Reserved(p)
	used, sessions = used+extra, sessions+extraSessions
	if capacity.Sessions > 0 && sessions >= capacity.Sessions {
		return refuse(api.RefusedSessions, "pool %s runs %d of %d encoder sessions", p, sessions, capacity.Sessions)
	}
	if used >= capacity.Macroblocks || capacity.Macroblocks-used < cost {
		free := capacity.Macroblocks - min(used, capacity.Macroblocks)
		return refuse(api.RefusedEncoder, "pool %s has %d of %d macroblocks/s free, %d are needed", p, free, capacity.Macroblocks, cost)
	}
	return api.Refusal{}, true
}

// edit gives a copy of a node that may be changed and is already in the state:
// one for all the commands of an entry.
func (t *tx) edit(id api.NodeID) (*Node, bool) {
	n, ok := t.nodes.Get(string(id))
	if !ok {
		return nil, false
	}
	if n.edit == t.edits {
		return n, true
	}
	c := *n
	c.edit = t.edits
	c.used = slices.Clone(n.used)
	c.Held = slices.Clone(n.Held)
	c.parts = n.parts.clone()
	t.nodes = t.nodes.SetIn(t.edits, string(id), &c)
	return &c, true
}

// take reserves, whatever is free: the caller has asked Fits where it matters.
func (n *Node) take(p api.Pool, cost uint64) {
	for i := range n.used {
		if n.used[i].pool == p {
			n.used[i].reserved += cost
			n.used[i].sessions++
			return
		}
	}
	n.used = append(n.used, usage{pool: p, reserved: cost, sessions: 1})
}

func (n *Node) free(p api.Pool, cost uint64) {
	for i := range n.used {
		if u := &n.used[i]; u.pool == p {
			u.reserved -= min(cost, u.reserved)
			u.sessions--
			if u.sessions <= 0 {
				n.used = slices.Delete(n.used, i, i+1)
			}
			return
		}
	}
}

// release frees what a lost node held for an ended session, and says whether it
// held anything.
func (n *Node) release(id api.SessionID, g api.Generation) bool {
	for i, h := range n.Held {
		if h.Session == id && h.Generation == g {
			n.free(h.Pool, h.Reserved)
			n.parts.sub(h.Parts)
			n.Held = slices.Delete(n.Held, i, i+1)
			return true
		}
	}
	return false
}
