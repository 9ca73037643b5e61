package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/place"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

const (
	// yieldWait bounds how long a create waits for instances that are given up for
	// it: they are killed, and their node has cleaned up within tens of ms.
	yieldWait = 5 * time.Second
	// maxYields bounds the waiting sessions that one look gives instances up for.
	maxYields = 8
)

func encodePool(p api.WarmPool) (*state.PutPool, error) {
	doc, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("write pool: %w", err)
	}
	return &state.PutPool{Doc: doc}, nil
}

// makeRoom gives up started instances of one node, the fewest that make room for a
// session, and waits until they have ended. It is false where none would help.
func (s *Server) makeRoom(ctx context.Context, need api.Need) bool {
	root := s.root()
	if root.WarmCount() == 0 {
		return false
	}
	victims := s.victims(root, need, map[api.SessionID]bool{})
	if len(victims) == 0 {
		return false
	}
	s.giveUp(ctx, victims)
	late := time.NewTimer(yieldWait)
	defer late.Stop()
	for _, v := range victims {
		ended := s.ends.watch(v.ID)
		if _, live := s.root().Live(v.ID); !live {
			continue
		}
		select {
		case <-ended:
		case <-late.C:
			return true // it may have ended just now
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// giveUp ends started instances for a session that needs their room; pools start
// nothing for a while, lest they take it.
func (s *Server) giveUp(ctx context.Context, victims []*state.Session) {
	s.pools.mu.Lock()
	s.pools.rest = s.cfg.Clock().Add(poolRest)
	s.pools.mu.Unlock()
	var cmds []state.Command
	for _, v := range victims {
		s.cfg.Log.Info("started instance is given up for a session", "session", v.ID, "app", v.App, "node", v.Node)
		cmds = append(cmds, release(v))
	}
	s.proposeAll(ctx, cmds)
}

// yieldToWaiting gives up what those who wait need. Who waits is served when it
// has ended.
func (s *Server) yieldToWaiting(ctx context.Context) {
	root := s.root()
	if root.WaitingCount() == 0 || root.WarmCount() == 0 {
		return
	}
	for v := range root.Sessions() {
		if v.Warm && v.Desired == api.DesiredStop {
			return // room is being made already
		}
	}
	gone := map[api.SessionID]bool{}
	var victims []*state.Session
	tried := 0
	for v := range root.Waiting {
		if tried++; tried > maxYields {
			break
		}
		need, ok := s.needOfWaiting(root, v)
		if !ok {
			continue
		}
		for _, w := range s.victims(root, need, gone) {
			gone[w.ID] = true
			victims = append(victims, w)
		}
	}
	if len(victims) > 0 {
		s.giveUp(ctx, victims)
	}
}

// victims chooses the instances to give up, on the nearest node where that makes
// room; gone are those that are given up already.
func (s *Server) victims(root *state.State, need api.Need, gone map[api.SessionID]bool) []*state.Session {
	now := s.cfg.Clock()
	byNode := map[api.NodeID][]*state.Session{}
	var nodes []api.NodeID
	s.view.mu.Lock()
	defer s.view.mu.Unlock()
	root.Warm("", func(w *state.Session) bool {
		if !gone[w.ID] && !s.pools.claiming[w.ID] && w.Desired == api.DesiredRun && w.Observed != api.ObservedLost {
			if byNode[w.Node] == nil {
				nodes = append(nodes, w.Node)
			}
			byNode[w.Node] = append(byNode[w.Node], w)
		}
		return true
	})
	if s.view.fleet == nil || len(nodes) == 0 {
		return nil
	}
	q, op, watch := s.asked(need, now, 0)
	for _, near := range s.view.fleet.Nearest(q, op, watch, nodes) {
		n, ok := root.Node(near.Node)
		if !ok {
			continue
		}
		some := byNode[near.Node]
		slices.SortFunc(some, lastNeeded)
		for k := 1; k <= len(some); k++ {
			if s.couldHost(n.Without(some[:k]), &need) {
				return some[:k]
			}
		}
	}
	return nil
}

// couldHost says whether a node's ledger has room for a session, at the size that
// was asked for.
func (s *Server) couldHost(n *state.Node, need *api.Need) bool {
	if _, carries := n.Carries(n.OnGPU(place.Takes(need, need.Screen.FPS))); !carries {
		return false
	}
	trunk := s.cfg.Trunk
	if need.Trunk {
		trunk = 0
	}
	for _, c := range n.Pools {
		if !need.Encoder.Allows(c.Pool) {
			continue
		}
		for _, codec := range need.Codecs {
			cost := c.Cost(codec, api.PresetDefault, need.Screen)
			if _, fits := n.Fits(c.Pool, codec, cost, uint64(trunk*float64(c.Macroblocks)), 0); fits {
				return true
			}
		}
	}
	return false
}
