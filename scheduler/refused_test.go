package scheduler

import (
	"testing"
	"testing/synctest"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/place"
)

func TestRefusedRequestsAreKept(t *testing.T) { synctest.Test(t, testRefusedRequestsAreKept) }

func testRefusedRequestsAreKept(t *testing.T) {
	bus, data := newBus(), t.TempDir()
	w := openWorld(t, bus, data)
	w.app()
	one := w.edge("one", 1)
	w.mustCreate()
	for range 3 {
		if _, err := w.create(); refusal(err) != api.RefusedEncoder {
			t.Fatal(err)
		}
	}
	for _, limit := range []int{0, api.MaxRefusals + 1} {
		if _, err := w.s.Refusals(w.ctx(), limit); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("a limit of %d: %v", limit, err)
		}
	}
	w.stop()
	w = openWorld(t, bus, data) // they outlive the program
	list, err := w.s.Refusals(w.ctx(), 2)
	if err != nil || len(list) != 2 {
		t.Fatalf("%d requests are listed: %v", len(list), err)
	}
	x := list[0]
	if !x.Refused || x.Session == "" || x.Session == list[1].Session || x.Request.App != "xterm" || x.Candidates[0].Node != one.node.ID || x.Candidates[0].Refusal == nil {
		t.Errorf("it says %+v", x)
	}
	if r := place.Replay(x, nil, place.Operator{}); r.Changed() {
		t.Errorf("by the same policy it would be %+v", r.Now)
	}
	// Half of a node is free where a lower rate would have been enough.
	x.Candidates[0].Pools[0].Reserved /= 2
	if r := place.Replay(x, &api.PlacementPolicy{MinFPS: 30}, place.Operator{}); !r.Changed() || r.Now.Rank != 1 || r.Now.FPS != 30 {
		t.Errorf("by another policy it would be %+v", r.Now)
	}
}

func TestFewRefusedRequestsAreKept(t *testing.T) { synctest.Test(t, testFewRefusedRequestsAreKept) }

func testFewRefusedRequestsAreKept(t *testing.T) {
	w := newWorld(t)
	w.app()
	for range 3 * refusedPerSecond { // in no time at all
		if _, err := w.create(); refusal(err) != api.RefusedNoNodes {
			t.Fatal(err)
		}
	}
	list, err := w.s.Refusals(w.ctx(), api.MaxRefusals)
	if err != nil || len(list) < refusedPerSecond || len(list) > 2*refusedPerSecond {
		t.Errorf("%d of %d are kept: %v", len(list), 3*refusedPerSecond, err)
	}
}
