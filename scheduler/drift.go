package scheduler

import (
	"math"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

const (
	// What a node's own stages took counts a third after these times.
	driftRecent = 2 * time.Minute
	driftUsual  = time.Hour
	// A stage drifts when its recent median is half above the usual one, and this
	// much above it: below, it is the histogram's own grain.
	driftTimes = 1.5
	driftMS    = 2
	// Fewer recent pictures say nothing, nor does a history that is not this many
	// times as long (eight minutes of the same streams).
	driftFewest  = 200
	driftHistory = 4
	// driftParts is what a picture of a fading histogram is divided into.
	driftParts = 1024
)

// fading is a histogram that forgets.
type fading struct {
	buckets []float64
	count   float64
}

func (f *fading) fade(by float64) {
	f.count *= by
	for i := range f.buckets {
		f.buckets[i] *= by
	}
}

func (f *fading) add(t api.StageTimes) {
	if f.buckets == nil {
		f.buckets = make([]float64, len(t.Buckets))
	}
	for i, n := range t.Buckets {
		f.buckets[i] += float64(n)
		f.count += float64(n)
	}
}

func (f *fading) median() float64 {
	t := api.StageTimes{Buckets: make([]uint64, len(f.buckets))}
	for i, n := range f.buckets {
		t.Buckets[i] = uint64(n * driftParts)
		t.Count += t.Buckets[i]
	}
	return math.Round(t.Quantile(0.5)*10) / 10
}

// ownStage is one of a node's own parts of the way.
type ownStage struct {
	recent, usual fading
	drifts        bool
}

// drift holds a node's own stages against their own history, over all sessions:
// about 1 KiB a node.
type drift struct {
	stages map[api.Stage]*ownStage
	at     time.Time // when they last faded
}

// learn takes in what was measured since the last call and gives the stages that
// drift from now on.
func (d *drift) learn(fresh *api.Latency, now time.Time) (begun []api.Stage) {
	if d.stages == nil {
		d.stages = map[api.Stage]*ownStage{}
	}
	if passed := now.Sub(d.at); !d.at.IsZero() && passed > 0 {
		for _, o := range d.stages {
			o.recent.fade(math.Exp(-passed.Seconds() / driftRecent.Seconds()))
			o.usual.fade(math.Exp(-passed.Seconds() / driftUsual.Seconds()))
		}
	}
	d.at = now
	for _, s := range api.OwnStages() {
		t, ok := fresh.Stages[s]
		if !ok {
			continue
		}
		o := d.stages[s]
		if o == nil {
			o = &ownStage{}
			d.stages[s] = o
		}
		o.recent.add(t)
		o.usual.add(t)
		was := o.drifts
		if o.recent.count < driftFewest || o.usual.count < driftHistory*o.recent.count {
			o.drifts = false
			continue
		}
		recent, usual := o.recent.median(), o.usual.median()
		o.drifts = recent > usual*driftTimes && recent > usual+driftMS
		if o.drifts && !was {
			begun = append(begun, s)
		}
	}
	return begun
}

// view is what the API shows.
func (d *drift) view() map[api.Stage]api.StageDrift {
	out := make(map[api.Stage]api.StageDrift, len(d.stages))
	for s, o := range d.stages {
		out[s] = api.StageDrift{RecentMS: o.recent.median(), UsualMS: o.usual.median(), Drifts: o.drifts}
	}
	return out
}

// ownLatency gives how the nodes' own stages fare.
func (s *Server) ownLatency() map[api.NodeID]map[api.Stage]api.StageDrift {
	l := &s.view.latency
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[api.NodeID]map[api.Stage]api.StageDrift, len(l.drifts))
	for id, d := range l.drifts {
		out[id] = d.view()
	}
	return out
}

// driftsAt logs, once in the fleet, what began to drift.
func (s *Server) driftsAt(node api.NodeID, begun []api.Stage) {
	if !s.leads() {
		return
	}
	for _, stage := range begun {
		d := s.ownLatency()[node][stage]
		s.cfg.Log.Warn("a node's own part of the latency drifts", "node", node, "stage", stage, "recent_ms", d.RecentMS, "usual_ms", d.UsualMS)
	}
}
