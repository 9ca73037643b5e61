package scheduler

import (
	"slices"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// took is half a minute of pictures that took so long to encode.
func took(ms float64) *api.Latency {
	l := &api.Latency{}
	for i := range 300 {
		l.Add(api.StageEncode, ms*(0.8+0.4*float64(i)/300))
		l.Add(api.StageCapture, 1)
		l.Add(api.StageNetwork, ms*100) // none of the node's own
	}
	return l
}

func TestANodeThatDriftsIsFlagged(t *testing.T) {
	var d drift
	now := time.Unix(0, 0)
	run := func(ms float64, over time.Duration) (begun []api.Stage) {
		for end := now.Add(over); now.Before(end); now = now.Add(30 * time.Second) {
			begun = append(begun, d.learn(took(ms), now)...)
		}
		return begun
	}
	// Its first minutes are no history, however they change.
	if got := append(run(4, time.Minute), run(12, time.Minute)...); len(got) > 0 {
		t.Errorf("%v drift from nothing", got)
	}
	d = drift{}
	if got := run(4, 2*time.Hour); len(got) > 0 {
		t.Errorf("%v drift while nothing changes", got)
	}
	if got := run(5, 10*time.Minute); len(got) > 0 {
		t.Errorf("%v drift by a quarter", got)
	}
	run(4, 2*time.Hour)
	if got := run(9, 10*time.Minute); !slices.Equal(got, []api.Stage{api.StageEncode}) {
		t.Fatalf("%v drift, want encode, told once", got)
	}
	v := d.view()
	if e := v[api.StageEncode]; !e.Drifts || e.RecentMS < 7.5 || e.UsualMS > 5 || e.UsualMS < 3.2 {
		t.Errorf("encode: %+v", e)
	}
	if c := v[api.StageCapture]; c.Drifts || len(v) != 2 {
		t.Errorf("all of it: %+v", v)
	}
	if run(4, 10*time.Minute); d.view()[api.StageEncode].Drifts {
		t.Error("drifts after it is as it was")
	}
	// A fast stage may double within the histogram's grain.
	d = drift{}
	if run(0.6, 2*time.Hour); len(run(1.6, 10*time.Minute)) > 0 {
		t.Error("a millisecond more is a drift")
	}
	// Few pictures say nothing, nor does a night without any count as history.
	d = drift{}
	run(4, 2*time.Hour)
	now = now.Add(12 * time.Hour)
	if got := run(9, 2*time.Minute); len(got) > 0 {
		t.Errorf("%v drift after a night", got)
	}
}

func TestDriftsOfReports(t *testing.T) {
	var l latencies
	now := time.Unix(0, 0)
	sum := &api.Latency{}
	report := func(ms float64) []api.Stage {
		now = now.Add(30 * time.Second)
		sum.AddSince(took(ms), nil)
		return l.learn(api.Report{Session: "a", Generation: 1, Node: "n", Latency: sum.Clone()}, now)
	}
	for range 200 {
		if got := report(4); len(got) > 0 {
			t.Fatalf("%v drift", got)
		}
	}
	var got []api.Stage
	for range 20 {
		got = append(got, report(9)...)
	}
	if !slices.Equal(got, []api.Stage{api.StageEncode}) || !l.drifts["n"].view()[api.StageEncode].Drifts {
		t.Errorf("%v drift, want encode", got)
	}
}
