package api

import (
	"math"
	"slices"
)

// Stage is a part of the way from a viewer's input to the picture that shows it.
type Stage string

// Stages in their order, and their sum.
const (
	StageInput       Stage = "input"       // in the page, and in the node until the application has it
	StageApplication Stage = "application" // until it has drawn
	StageCapture     Stage = "capture"     // until the picture is taken
	StageEncode      Stage = "encode"
	StageSend        Stage = "send"    // until the last packet left the node
	StageNetwork     Stage = "network" // both ways: the total less everything that was measured
	StageJitter      Stage = "jitter"  // from the last packet until the decoder has the picture
	StageDecode      Stage = "decode"
	StagePresent     Stage = "present" // until it is on the screen
	StageTotal       Stage = "total"   // input to photon, on the page's clock alone
)

// Stages lists them in their order, the total last.
func Stages() []Stage {
	return []Stage{StageInput, StageApplication, StageCapture, StageEncode, StageSend, StageNetwork, StageJitter, StageDecode, StagePresent, StageTotal}
}

// OwnStages are those that are the node's own: no network and no page has part in them.
func OwnStages() []Stage { return []Stage{StageCapture, StageEncode, StageSend} }

// StageDrift holds one of a node's own stages against its history: medians over
// all its sessions, in milliseconds.
type StageDrift struct {
	RecentMS float64 `json:"recent_ms"` // over some minutes
	UsualMS  float64 `json:"usual_ms"`  // over some hours
	// Drifts: it takes half as long again as it used to. Other applications or
	// larger pictures do that, too.
	Drifts bool `json:"drifts"`
}

// MaxStageMS bounds one measurement in milliseconds: what takes longer was no answer to an input.
const MaxStageMS = 10_000

const (
	stageBuckets = 21  // bounds of a histogram; one bucket more for what is above
	stageFirst   = 0.5 // ms, the first bound; each is √2 of the one before
)

// StageBounds gives the upper bounds of a histogram's buckets in milliseconds, 0.5 to 512.
func StageBounds() []float64 {
	b := make([]float64, stageBuckets)
	for i := range b {
		b[i] = stageFirst * math.Pow(2, float64(i)/2)
	}
	return b
}

// StageTimes is a histogram of one stage's milliseconds since the stream began.
type StageTimes struct {
	Count uint64  `json:"count"`
	SumMS float64 `json:"sum_ms"`
	// Buckets count what lies up to each of StageBounds and above the bound
	// before; the last is what lies above them all.
	Buckets []uint64 `json:"buckets"`
}

// Quantile estimates a quantile (0 to 1) in milliseconds, within a bucket's
// width; 0 when nothing was measured.
func (s StageTimes) Quantile(q float64) float64 {
	bounds, rank, below := StageBounds(), q*float64(s.Count), 0.0
	for i, n := range s.Buckets {
		if n == 0 || below+float64(n) < rank {
			below += float64(n)
			continue
		}
		if i >= len(bounds) {
			break
		}
		low := 0.0
		if i > 0 {
			low = bounds[i-1]
		}
		return low + (bounds[i]-low)*(rank-below)/float64(n)
	}
	if s.Count == 0 {
		return 0
	}
	return bounds[len(bounds)-1]
}

// Latency is what was measured of one stream since it began; a stage that
// nobody measured is absent.
type Latency struct {
	Stages map[Stage]StageTimes `json:"stages"`
}

// Add counts one measurement; what is none (negative, over MaxStageMS) is left out.
func (l *Latency) Add(s Stage, ms float64) {
	if !(ms >= 0 && ms <= MaxStageMS) {
		return
	}
	if l.Stages == nil {
		l.Stages = map[Stage]StageTimes{}
	}
	t := l.Stages[s]
	if t.Buckets == nil {
		t.Buckets = make([]uint64, stageBuckets+1)
	}
	i := 0
	if ms > stageFirst {
		i = min(int(math.Ceil(2*math.Log2(ms/stageFirst)-1e-9)), stageBuckets)
	}
	t.Count, t.SumMS = t.Count+1, t.SumMS+ms
	t.Buckets[i]++
	l.Stages[s] = t
}

// AddSince adds what a stream measured since it said old (nil: since it began).
// Both must have passed Check.
func (l *Latency) AddSince(now, old *Latency) {
	if l.Stages == nil {
		l.Stages = map[Stage]StageTimes{}
	}
	for s, t := range now.Stages {
		var was StageTimes
		if old != nil {
			was = old.Stages[s]
		}
		if was.Count > t.Count || was.Buckets == nil { // it began again
			was = StageTimes{Buckets: make([]uint64, len(t.Buckets))}
		}
		sum := l.Stages[s]
		if sum.Buckets == nil {
			sum.Buckets = make([]uint64, len(t.Buckets))
		}
		sum.SumMS += max(t.SumMS-was.SumMS, 0)
		for i, n := range t.Buckets {
			more := n - min(was.Buckets[i], n)
			sum.Buckets[i] += more
			sum.Count += more
		}
		l.Stages[s] = sum
	}
}

// Clone copies it.
func (l Latency) Clone() *Latency {
	c := &Latency{Stages: make(map[Stage]StageTimes, len(l.Stages))}
	for s, t := range l.Stages {
		t.Buckets = slices.Clone(t.Buckets)
		c.Stages[s] = t
	}
	return c
}

// Check refuses what no stream of ours can have measured.
func (l Latency) Check() error {
	for s, t := range l.Stages {
		if !slices.Contains(Stages(), s) {
			return Invalidf("latency.stages", "%q is not one of %v", s, Stages())
		}
		sum := uint64(0)
		for _, n := range t.Buckets {
			sum += n
		}
		if len(t.Buckets) != stageBuckets+1 || sum != t.Count || !(t.SumMS >= 0 && t.SumMS <= float64(t.Count)*MaxStageMS) {
			return Invalidf("latency.stages."+string(s), "%d buckets of %d measurements, want %d of %d", len(t.Buckets), sum, stageBuckets+1, t.Count)
		}
	}
	return nil
}

// StageSummary is what the API shows of a stage, in milliseconds.
type StageSummary struct {
	Count uint64  `json:"count"`
	P50   float64 `json:"p50_ms"`
	P95   float64 `json:"p95_ms"`
}

// Summary gives each stage's median and 95th percentile, to a tenth of a millisecond.
func (l Latency) Summary() map[Stage]StageSummary {
	out := make(map[Stage]StageSummary, len(l.Stages))
	tenth := func(ms float64) float64 { return math.Round(ms*10) / 10 }
	for s, t := range l.Stages {
		out[s] = StageSummary{Count: t.Count, P50: tenth(t.Quantile(0.5)), P95: tenth(t.Quantile(0.95))}
	}
	return out
}
