package place

import "github.com/perigee-cloud/perigee/api"

const (
	// maxKept bounds the nodes whose room is kept for one session each, and
	// keptShare how many of all nodes that may be; one always may.
	maxKept   = 4
	keptShare = 8
)

// Keep leaves the room of one node to a session that waits: smaller ones can
// take none of what is freed there until it fits, or Release ends it. It gives
// false when there is no node that could ever host it, or enough are kept. The
// last one that was kept for it is again, while it could host it.
func (f *Fleet) Keep(id api.SessionID, last api.NodeID, q *Query, o Operator, w Watch) (api.NodeID, bool) {
	f.ready()
	f.Release(id)
	if len(f.kept) >= min(maxKept, max(len(f.byID)/keptShare, 1)) {
		return "", false
	}
	var s search
	s.begin(f, q, o, w)
	for _, st := range ladder(nil, q.Need.Screen.FPS, q.Policy) {
		s.price(st) // the last and least: what is freed first will do
	}
	best, ok := s.soonest(last)
	if !ok {
		return "", false
	}
	h := &f.hosts[best]
	h.flags.kept = true
	if f.kept == nil {
		f.kept = map[api.SessionID]api.NodeID{}
	}
	f.kept[id] = h.id
	f.mark(best)
	return h.id, true
}

// soonest gives the host that lacks the least before it can take the session; the
// last one again, if it can at all.
func (s *search) soonest(last api.NodeID) (best int32, ok bool) {
	if i, there := s.f.byID[last]; there {
		if _, able := s.lacks(i); able {
			return i, true
		}
	}
	least := 0.0
	for i := range s.f.hosts {
		if lacks, able := s.lacks(int32(i)); able && (!ok || lacks < least) {
			best, least, ok = int32(i), lacks, true
		}
	}
	return best, ok
}

// Release ends what Keep began, and gives the node; "" where none was kept.
func (f *Fleet) Release(id api.SessionID) api.NodeID {
	node, ok := f.kept[id]
	if !ok {
		return ""
	}
	delete(f.kept, id)
	if i, there := f.byID[node]; there {
		f.hosts[i].flags.kept = false
		f.mark(i)
	}
	return node
}

// Kept walks the sessions that a node is kept for.
func (f *Fleet) Kept(yield func(api.SessionID) bool) {
	for id := range f.kept {
		if !yield(id) {
			return
		}
	}
}

// lacks says how much of a host must become free before it can take the session,
// as a share of the fullest of what it asks for; false when it never can.
func (s *search) lacks(i int32) (share float64, able bool) {
	h := &s.f.hosts[i]
	var c candidate
	if s.refuses(h) != "" || h.node == nil || !s.watch.Alive(h.node) {
		return 0, false
	}
	if s.score(h, i, s.km(i), &c); s.tooFar(&c) {
		return 0, false
	}
	beside := 0.0
	for k, want := range s.amounts {
		if b := h.beside; want > 0 && b != nil && b.most[k] > 0 {
			if want > b.most[k] {
				return 0, false
			}
			beside = max(beside, float64(want-h.left[k])/float64(b.most[k]))
		}
	}
	if s.parts.VRAMMiB > 0 && !h.beside.holds(s.parts.VRAMMiB) {
		return 0, false
	}
	for _, codec := range s.wanted[:s.codecs] {
		for k := range h.pools {
			p := &h.pools[k]
			cost := s.cost(k, codec, p)
			if s.step.pools&(1<<k) == 0 || p.codecs&(1<<codec) == 0 || cost == 0 || cost+s.trunk(p) > p.capacity {
				continue
			}
			part := max(float64(cost+s.trunk(p))-float64(p.free()), 0) / float64(p.capacity)
			if !able || part < share {
				share, able = part, true
			}
		}
	}
	return max(share, beside), able
}

// holds says whether one graphics processor is large enough.
func (b *beside) holds(want uint64) bool {
	if b == nil {
		return true
	}
	for _, g := range b.gpus {
		if g.most >= want {
			return true
		}
	}
	return false
}
