package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func reportOf(id api.SessionID, g api.Generation, ms ...float64) api.Report {
	l := &api.Latency{}
	for _, v := range ms {
		l.Add(api.StageEncode, v)
	}
	return api.Report{Session: id, Generation: g, Node: "n", Latency: l}
}

func TestLatenciesOfSessionsAndNodes(t *testing.T) {
	var l latencies
	l.learn(reportOf("a", 1, 3), time.Unix(0, 0))
	l.learn(reportOf("a", 1, 3), time.Unix(0, 0)) // sent again
	l.learn(reportOf("a", 1, 3, 4), time.Unix(0, 0))
	l.learn(reportOf("b", 1, 5), time.Unix(0, 0))
	l.learn(reportOf("a", 2, 9), time.Unix(0, 0)) // elsewhere, after a node was lost
	l.learn(reportOf("a", 1, 3, 4, 4), time.Unix(0, 0))
	if got := l.of("a")[api.StageEncode]; got.Count != 1 {
		t.Errorf("session a: %+v, want its newest generation's one", got)
	}
	if got := l.nodes["n"].Stages[api.StageEncode]; got.Count != 4 || got.SumMS != 3+4+5+9 {
		t.Errorf("node: %+v, want each picture once", got)
	}
	bad := reportOf("c", 1, 3)
	bad.Latency.Stages["luck"] = api.StageTimes{}
	l.learn(bad, time.Unix(0, 0))
	if l.of("c") != nil {
		t.Error("nonsense was kept")
	}
}

func TestLatenciesAreBounded(t *testing.T) {
	var l latencies
	for i := range latencySessions + 10 {
		l.learn(reportOf(api.SessionID(fmt.Sprint(i)), 1, 3), time.Unix(0, 0))
	}
	if len(l.sessions) != latencySessions || l.of("9") != nil || l.of("10") == nil {
		t.Errorf("%d sessions are remembered, want the newest %d", len(l.sessions), latencySessions)
	}
}
