package fleet

import (
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/place"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// Delays are distributions, each as quantiles of equal shares from the least to
// the greatest.
type Delays struct {
	Commit []time.Duration // from a client's call to its answer
	Gossip []time.Duration // from an edge's publishing to a scheduler's hearing
}

// edgeLooks is how often an edge measures its headroom (edge/headroom.go): a
// change waits for the next look before it is published.
const edgeLooks = time.Second

// draw takes a value between two quantiles.
func (s *sim) draw(q []time.Duration) time.Duration {
	x := s.noise.Float64() * float64(len(q)-1)
	i := min(int(x), len(q)-2)
	return q[i] + time.Duration((x-float64(i))*float64(q[i+1]-q[i]))
}

func (s *sim) commitDelay() time.Duration {
	if s.cfg.Delays == nil {
		return time.Duration(s.noise.ExpFloat64() * float64(commitMean))
	}
	return s.draw(s.cfg.Delays.Commit)
}

// shown lets the schedulers hear later that a node encodes more, or less.
func (s *sim) shown(node api.NodeID, cost uint64, more bool) {
	if s.cfg.Delays == nil {
		return
	}
	late := time.Duration(s.noise.Float64()*float64(edgeLooks)) + s.draw(s.cfg.Delays.Gossip)
	s.at(late, func() error {
		if more {
			s.busy[node] += int64(cost)
		} else {
			s.busy[node] -= int64(cost)
		}
		return nil
	})
}

func (s *sim) watch() place.Watch {
	if s.cfg.Delays == nil {
		return always{}
	}
	return late{s}
}

// late is what the schedulers have heard of the nodes.
type late struct{ s *sim }

// Alive says yes: nodes are not lost in this world.
func (late) Alive(*state.Node) bool { return true }

// Headroom is the node's, as it was a while ago.
func (l late) Headroom(n *state.Node) (api.Headroom, bool) {
	p := n.Pools[0]
	used := uint64(max(l.s.busy[n.ID], 0)) // an end may be heard of before its begin
	return api.Headroom{Boot: n.Boot, Pools: []api.PoolHeadroom{{Pool: p.Pool, Free: p.Macroblocks - min(used, p.Macroblocks)}}}, true
}

// Measured gives the delays of the full-code fleet: `go run ./bench -run
// fleet_calm` on 60 edges in six regions of four continents, replicas in
// Frankfurt, Paris and Amsterdam, five sessions a second, nothing amiss.
// Virtual time: networks and timers, no processors and no disks.
func Measured() *Delays {
	ms := func(v ...float64) []time.Duration {
		out := make([]time.Duration, len(v))
		for i, x := range v {
			out[i] = time.Duration(x * float64(time.Millisecond))
		}
		return out
	}
	return &Delays{
		Commit: ms(8.1, 8.77, 9.46, 10.6, 11.4, 12.8, 16.2, 17.5, 18.7, 19.3, 19.9, 20.5, 21, 21.6, 22.3, 23.1, 24, 25.2, 26.6, 28.9, 36.5),
		Gossip: ms(0.2, 4.7, 6.5, 28.3, 50.3, 69.2, 91.3, 103, 105, 109, 118, 126, 138, 148, 165, 173, 199, 209, 225, 252, 712),
	}
}
