package api

import (
	"math"
	"testing"
)

func TestLatencyQuantiles(t *testing.T) {
	var l Latency
	for i := range 1000 {
		l.Add(StageEncode, float64(i%100)+0.5)
	}
	for _, bad := range []float64{-1, MaxStageMS + 1, math.NaN(), math.Inf(1)} {
		l.Add(StageEncode, bad)
	}
	got := l.Summary()[StageEncode]
	if got.Count != 1000 || math.Abs(got.P50-50) > 6 || math.Abs(got.P95-95) > 20 {
		t.Errorf("%+v, want 1000 with a median near 50 and 95 near 95", got)
	}
	if err := l.Check(); err != nil {
		t.Error(err)
	}
	if q := (StageTimes{}).Quantile(0.5); q != 0 {
		t.Errorf("a median of nothing: %v", q)
	}
}

// Each bound counts what is exactly on it, and each bucket ends at its bound.
func TestLatencyBuckets(t *testing.T) {
	bounds := StageBounds()
	for i, b := range bounds {
		var l Latency
		l.Add(StageSend, b)
		if s := l.Stages[StageSend]; s.Buckets[i] != 1 {
			t.Errorf("%v ms lies in %v, want bucket %d", b, s.Buckets, i)
		}
		l.Add(StageSend, b*1.01)
		if s := l.Stages[StageSend]; s.Buckets[i+1] != 1 {
			t.Errorf("just above %v ms lies in %v, want bucket %d", b, s.Buckets, i+1)
		}
	}
	var far Latency
	far.Add(StageSend, 5000)
	if q := far.Stages[StageSend].Quantile(0.5); q != bounds[len(bounds)-1] {
		t.Errorf("above all bounds the median is %v", q)
	}
}

func TestLatencyIsChecked(t *testing.T) {
	for name, l := range map[string]Latency{
		"unknown stage":   {Stages: map[Stage]StageTimes{"luck": {Buckets: make([]uint64, 22)}}},
		"too few buckets": {Stages: map[Stage]StageTimes{StageSend: {Buckets: make([]uint64, 3)}}},
		"wrong count":     {Stages: map[Stage]StageTimes{StageSend: {Count: 2, Buckets: make([]uint64, 22)}}},
		"no number":       {Stages: map[Stage]StageTimes{StageSend: {SumMS: math.NaN(), Buckets: make([]uint64, 22)}}},
	} {
		if err := l.Check(); CodeOf(err) != CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	var a Latency
	a.Add(StageTotal, 10)
	b := a.Clone()
	a.Add(StageTotal, 10)
	if b.Stages[StageTotal].Count != 1 || b.Stages[StageTotal].Buckets[9]+b.Stages[StageTotal].Buckets[8] != 1 {
		t.Errorf("a clone changed: %+v", b)
	}
}

// A stream says everything since its begin each time; a sum over streams must
// count each measurement once, also of one that began again.
func TestLatencySums(t *testing.T) {
	var sum, one Latency
	one.Add(StageEncode, 3)
	first := one.Clone()
	sum.AddSince(first, nil)
	sum.AddSince(first, first)
	one.Add(StageEncode, 100)
	one.Add(StageTotal, 7)
	second := one.Clone()
	sum.AddSince(second, first)
	if e := sum.Stages[StageEncode]; e.Count != 2 || e.SumMS != 103 || sum.Stages[StageTotal].Count != 1 || sum.Check() != nil {
		t.Errorf("%+v, want 3 and 100 ms once each, and a total", sum)
	}
	sum.AddSince(first, second)
	if e := sum.Stages[StageEncode]; e.Count != 3 || e.SumMS != 106 {
		t.Errorf("%+v, want the stream that began again counted, too", e)
	}
}
