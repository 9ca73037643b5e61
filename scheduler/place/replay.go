package place

import (
	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
)

// Replayed is what another policy would have done with a recorded request.
type Replayed struct {
	// Was is the line of the node that was chosen; Now of the one that would be,
	// without a rank when there is none.
	Was, Now   api.ExplainedCandidate
	Candidates []api.ExplainedCandidate // as the other policy ranks them
}

// Changed says whether the session would run elsewhere, or otherwise.
func (r Replayed) Changed() bool {
	if r.Was.Rank == 0 && r.Now.Rank == 0 {
		return false // refused as before
	}
	return r.Was.Node != r.Now.Node || r.Was.Pool != r.Now.Pool || r.Was.Codec != r.Now.Codec || r.Was.FPS != r.Now.FPS
}

// Replay places a recorded request again by another policy, among the nodes and
// with the room that the record holds. What was refused as lost or busy stays so.
func Replay(x api.Explanation, policy *api.PlacementPolicy, o Operator) Replayed {
	var r Replayed
	f := NewFleet()
	q := Query{Policy: policy, Need: api.Need{
		App: x.Request.App, Region: x.Request.Region, Screen: x.Request.Screen, Codecs: x.Request.Codecs,
		Client: x.Request.Client, Probes: x.Request.Probes, Encoder: x.Request.Encoder,
		Parts: x.Request.Parts, Counted: x.Request.Counted,
	}}
	for _, c := range x.Candidates {
		if c.Rank == 1 {
			r.Was = c
		}
		h := host{id: c.Node, region: c.Region, labels: c.Labels, place: c.Location}
		if c.Refusal != nil {
			h.flags.drain = c.Refusal.Code == api.RefusedDrain
			h.flags.kept = c.Refusal.Code == api.RefusedKept
			h.flags.lost = c.Refusal.Code == api.RefusedLost || c.Refusal.Code == api.RefusedHeadroom
		}
		for _, p := range c.Pools {
			for k, name := range poolOrder {
				if p.Pool == name {
					h.pools[k] = poolOf(p.Capacity, p.Reserved, p.Running)
				}
			}
		}
		h.beside = besideFrom(c.Parts)
		if shared := c.Source == fromASN.String(); shared || c.Source == fromAtlas.String() {
			q.Learned = append(q.Learned, geo.Learned{Shared: shared, Node: c.Node, MS: c.EstimateMS, ErrorMS: c.ErrorMS, Samples: c.Samples})
		}
		f.put(h)
	}
	r.Candidates = f.Explain(&q, o, nil, max(len(x.Candidates), 1))
	if len(r.Candidates) > 0 {
		r.Now = r.Candidates[0]
	}
	return r
}
