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

// Measured gives the delays of the full-code fleet: 300 edges in six regions of
// four continents, replicas in Frankfurt, Paris and Amsterdam, four sessions a
// second, nothing amiss. Virtual time: networks and timers, no processors and no
// disks.
func Measured() *Delays {
	return &Delays{
		Commit: ms(8.23, 8.95, 9.47, 10.2, 11.11, 14.71, 17.13, 17.72, 18.3, 18.88, 19.41, 19.9, 20.2, 20.59, 21.02, 21.66, 23.2, 24.52, 25.63, 27.06, 34.91),
		Gossip: ms(0.2, 16.7, 45.25, 65.52, 83.25, 100.55, 107.13, 121.77, 132.08, 144.77, 158.07, 166.02, 179, 188.56, 203.41, 213.47, 229.09, 247.95, 269.75, 303.64, 735.26),
	}
}

// Stormy gives those of the same fleet over 30 minutes of everything that may
// happen to it: leaders lost, cut off and deaf, regions cut off and without
// power, gossip stale, daemons upgraded (7,326 sessions). Who calls a replica
// that is cut off waits for seconds: a twentieth does for 5 to 20, and between
// two quantiles the model draws evenly, so that another twentieth gets up to 5.
func Stormy() *Delays {
	return &Delays{
		Commit: ms(8.07, 9.08, 10.2, 11.26, 12.88, 15.45, 17.28, 18.09, 18.87, 19.61, 20.21, 20.88, 21.67, 22.52, 23.5, 24.97, 26.77, 29.02, 34.2, 4825.14, 20227.82),
		Gossip: ms(0.2, 38.83, 75.24, 100.21, 104.75, 108.21, 122.73, 143.29, 161.58, 173.68, 190.38, 200.23, 204.4, 205.6, 216.15, 243.29, 265.73, 297.86, 304.74, 321.85, 1305.84),
	}
}

func ms(v ...float64) []time.Duration {
	out := make([]time.Duration, len(v))
	for i, x := range v {
		out[i] = time.Duration(x * float64(time.Millisecond))
	}
	return out
}
