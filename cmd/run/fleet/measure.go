package fleet

import (
	"context"
	"time"
)

// measureEvery is at what distance knowledge is looked at.
const measureEvery = 500 * time.Millisecond

// measure looks at what each replica knows of each node's room: how old it is,
// and how long the newest took to come by gossip.
func (f *Fleet) measure(ctx context.Context) {
	type of struct {
		r *replica
		n *node
	}
	seen := map[of]heard{}
	for pause(ctx, measureEvery) {
		now := time.Now()
		var gossip, ages []time.Duration
		for _, r := range f.replicas {
			s := r.server()
			if s == nil {
				continue
			}
			list, err := s.ListNodes(ctx)
			if err != nil {
				continue
			}
			for _, v := range list {
				n := f.byNode[v.Node.ID]
				if n == nil || !v.Alive {
					continue
				}
				if age, ok := n.age(heard{v.Headroom.Boot, v.Headroom.Seq}, now); ok {
					ages = append(ages, age)
				}
				h, at, ok := r.Latest(v.Node.ID)
				k := heard{h.Boot, h.Seq}
				if !ok || seen[of{r, n}] == k {
					continue
				}
				seen[of{r, n}] = k
				if told, ok := n.toldAt(k); ok && !at.Before(told) {
					gossip = append(gossip, at.Sub(told))
				}
			}
		}
		f.count(func(r *Result) { r.gossip, r.ages = append(r.gossip, gossip...), append(r.ages, ages...) })
	}
}
