package state

import "github.com/perigee-cloud/perigee/api"

// NodesSince calls changed for every node that differs from an earlier root's,
// with nil for one that is gone. It looks only where the roots differ: what they
// share is passed over whole.
func (s *State) NodesSince(old *State, changed func(id api.NodeID, n *Node)) {
	var was *branch[*Node]
	if old != nil {
		was = old.nodes.root
	}
	differ(was, s.nodes.root, 0, func(key string, n *Node, there bool) {
		if !there {
			n = nil
		}
		changed(api.NodeID(key), n)
	})
}

// SessionsSince calls changed for every live session that differs from an
// earlier root's.
func (s *State) SessionsSince(old *State, changed func(*Session)) {
	differ(old.sessions.root, s.sessions.root, 0, func(_ string, v *Session, there bool) {
		if there {
			changed(v)
		}
	})
}

// differ walks two tries of the same shape side by side.
func differ[V comparable](a, b *branch[V], shift int, changed func(key string, v V, there bool)) {
	switch {
	case a == b:
		return
	case a == nil || b == nil || shift >= hashBits:
		differList(a, b, changed)
		return
	}
	ai, bi := 0, 0
	for bit := uint32(1); bit != 0; bit <<= 1 {
		var x, y *slot[V]
		if a.bitmap&bit != 0 {
			x = &a.slots[ai]
			ai++
		}
		if b.bitmap&bit != 0 {
			y = &b.slots[bi]
			bi++
		}
		if x != nil && y != nil && x.child != nil && y.child != nil {
			differ(x.child, y.child, shift+levelBits, changed)
		} else if x != nil || y != nil {
			differList(lone(x), lone(y), changed)
		}
	}
}

// lone makes a branch of one slot, so that a leaf and a branch compare.
func lone[V any](s *slot[V]) *branch[V] {
	switch {
	case s == nil:
		return nil
	case s.child != nil:
		return s.child
	default:
		return &branch[V]{slots: []slot[V]{*s}}
	}
}

// differList compares two small sets of keys one by one.
func differList[V comparable](a, b *branch[V], changed func(key string, v V, there bool)) {
	was := map[string]V{}
	if a != nil {
		a.walk(func(k string, v V) bool { was[k] = v; return true })
	}
	if b != nil {
		b.walk(func(k string, v V) bool {
			if old, ok := was[k]; !ok || old != v {
				changed(k, v, true)
			}
			delete(was, k)
			return true
		})
	}
	var zero V
	for k := range was {
		changed(k, zero, false)
	}
}
