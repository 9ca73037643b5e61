package state

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// TestNodesSince follows random changes of the nodes by their differences alone.
func TestNodesSince(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 12))
	old, now := &State{}, &State{}
	follow, want := map[api.NodeID]*Node{}, map[api.NodeID]*Node{}
	for round := range 300 {
		for range rnd.IntN(20) {
			id := fmt.Sprintf("n%d", rnd.IntN(400))
			if rnd.IntN(3) == 0 {
				now = &State{nodes: now.nodes.Delete(id)}
				delete(want, api.NodeID(id))
				continue
			}
			n := &Node{Node: api.Node{ID: api.NodeID(id)}}
			now = &State{nodes: now.nodes.Set(id, n)}
			want[n.ID] = n
		}
		seen := 0
		now.NodesSince(old, func(id api.NodeID, n *Node) {
			seen++
			if n == nil {
				delete(follow, id)
			} else {
				follow[id] = n
			}
		})
		if !maps.Equal(follow, want) {
			t.Fatalf("round %d: the differences led elsewhere", round)
		}
		if seen > 20 && round > 0 {
			t.Fatalf("round %d: %d nodes were looked at for 20 changes", round, seen)
		}
		old = now
	}
	now.NodesSince(now, func(id api.NodeID, _ *Node) { t.Errorf("%s differs from itself", id) })
	clear(follow)
	now.NodesSince(nil, func(id api.NodeID, n *Node) { follow[id] = n })
	if !maps.Equal(follow, want) {
		t.Error("the whole state is not all its nodes")
	}
}

func TestSessionsSince(t *testing.T) {
	r := newRig(t)
	r.do(creation("s1", "n1"), creation("s2", "n1"))
	old := r.s
	r.do(creation("s3", "n2"))
	r.report("s2", api.ObservedStarting, 1)
	r.report("s1", api.ObservedStopped, 1)
	seen := map[api.SessionID]api.Observed{}
	r.s.SessionsSince(old, func(v *Session) { seen[v.ID] = v.Observed })
	if want := (map[api.SessionID]api.Observed{"s2": api.ObservedStarting, "s3": ""}); !maps.Equal(seen, want) {
		t.Errorf("changed are %v, want %v", seen, want)
	}
}
