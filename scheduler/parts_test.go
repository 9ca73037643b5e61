package scheduler

import (
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// TestTheWayOutBinds fills a node's uplink before its encoders, and looks at what
// clients, operators and explanations are told of it.
func TestTheWayOutBinds(t *testing.T) {
	w := newWorld(t)
	if _, err := w.s.PutApplication(w.ctx(), api.App{Name: "xterm", Command: []string{"xterm"}, Resources: api.Resources{CPUMillis: 500, MemoryMiB: 256, GPUMemoryMiB: 1024}}); err != nil {
		t.Fatal(err)
	}
	w.eventually("entries can say what is taken beside a pool", func() bool { return w.s.root().EntryVersion() >= state.PartsSince })
	e := w.edge("narrow", 10, func(n *api.Node) {
		n.Machine = &api.Machine{CPUMillis: 8000, UplinkKbps: 12_500, GPUs: []api.GPUMemory{{Device: "GPU-a", VRAMMiB: 512}, {Device: "GPU-b", VRAMMiB: 8192}}}
	})
	one := w.mustCreate()
	want := api.Parts{CPUMillis: 500, MemoryMiB: 256, UplinkKbps: 5000, VRAMMiB: 1024, GPU: 2}
	if one.Session.Parts != want {
		t.Errorf("a session takes %+v, want %+v", one.Session.Parts, want)
	}
	w.until(one.Session.ID, api.StatusActive)
	e.mu.Lock()
	if gpu := e.specs[one.Session.ID].GPU; gpu != "GPU-b" {
		t.Errorf("the edge is told of the graphics processor %q", gpu)
	}
	e.mu.Unlock()
	w.mustCreate()
	_, err := w.create()
	if refusal(err) != api.RefusedUplink {
		t.Fatalf("with 10,000 of 12,500 kb/s reserved: %v", err)
	}
	list, err := w.s.ListNodes(w.ctx())
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if full := list[0].Full(); full.Part != "uplink" || full.Percent != 80 {
		t.Errorf("the part that binds is %+v of %+v", full, list[0].Parts)
	}
	x, err := w.s.Placement(w.ctx(), one.Session.ID)
	if err != nil || len(x.Candidates) != 1 || x.Candidates[0].Takes != want || len(x.Candidates[0].Parts) != 5 || !x.Request.Counted {
		t.Errorf("explained by %+v: %v", x, err)
	}
	small := w.mustCreate(func(r *api.CreateRequest) { r.Screen = api.Screen{Width: 640, Height: 360, FPS: 30} })
	if small.Session.Parts.UplinkKbps != 1000 {
		t.Errorf("a small picture takes %d kb/s", small.Session.Parts.UplinkKbps)
	}
	bad := e.node
	bad.Machine, bad.Boot = &api.Machine{CPUMillis: 1 << 60}, "boot-2"
	e.mu.Lock() // it is still telling
	e.node = bad
	e.mu.Unlock()
	if _, err := w.join(e, ""); api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), "cpu_millis") {
		t.Errorf("a machine that cannot be: %v", err)
	}
}

// TestInstancesTakeNoWayOut launches one without a stream where the way out is
// full: it takes processors and memory only.
func TestInstancesTakeNoWayOut(t *testing.T) {
	w := newWorld(t)
	w.app()
	w.eventually("entries can say what is taken beside a pool", func() bool { return w.s.root().EntryVersion() >= state.PartsSince })
	w.edge("narrow", 10, func(n *api.Node) { n.Machine = &api.Machine{CPUMillis: 4000, UplinkKbps: 5000} })
	w.mustCreate()
	if _, err := w.create(); refusal(err) != api.RefusedUplink {
		t.Fatalf("a full way out: %v", err)
	}
	r := api.LaunchRequest{App: "xterm", Grant: api.Grant{Account: "alice", Rights: []api.Right{api.RightSessions}}}
	i, err := w.s.LaunchInstance(w.ctx(), r)
	if err != nil || i.Session.Parts != (api.Parts{CPUMillis: api.DefaultCPUMillis, MemoryMiB: api.DefaultMemoryMiB}) {
		t.Fatalf("an instance takes %+v: %v", i.Session.Parts, err)
	}
	if _, err := w.s.LaunchInstance(w.ctx(), r); refusal(err) != api.RefusedCPU {
		t.Errorf("when the processors are promised: %v", err)
	}
}

// TestEarlierEntriesCountNothingBeside holds what a leader asks of placement
// while some replica reads earlier entries only.
func TestEarlierEntriesCountNothingBeside(t *testing.T) {
	for version, counted := range map[int]bool{1: false, 3: false, 4: true} {
		root, _, err := state.New().Apply(state.Encode(time.Unix(1_790_000_000, 0), &state.Raise{Version: version}))
		if err != nil {
			t.Fatal(err)
		}
		var s Server
		var need api.Need
		s.ruled(root, &need, api.App{Resources: api.Resources{CPUMillis: 500}}, "alice")
		if need.Counted != counted || (need.Parts.CPUMillis == 500) != counted {
			t.Errorf("entries of version %d: %+v counted %v", version, need.Parts, need.Counted)
		}
	}
}

// TestPresetRungIsTaken goes down to the faster preset when the node has no room
// for the usual one, and tells the node so.
func TestPresetRungIsTaken(t *testing.T) {
	w := newWorld(t)
	w.policy(&api.PlacementPolicy{MinFPS: 60, LowerPreset: true})
	w.eventually("entries can say the preset", func() bool { return w.s.root().EntryVersion() >= state.Since(&state.Place{}) })
	cost := cpuFor(1)[0].Macroblocks
	e := w.edge("one", 1, func(n *api.Node) {
		n.Pools[0].Macroblocks = cost * 3 / 2
		n.Pools[0].Factors = []api.CostFactor{{Codec: api.H264, Thousandths: 1000}, {Codec: api.H264, Preset: api.PresetFast, Thousandths: 500}}
		n.Pools[0].Codecs = []api.Codec{api.H264}
	})
	usual := w.mustCreate().Session
	fast := w.mustCreate().Session
	if usual.Preset != api.PresetDefault || fast.Preset != api.PresetFast || fast.Reserved != cost/2 || fast.Placement.Step != api.StepPreset || fast.Screen.FPS != 60 {
		t.Errorf("the second session has the preset %q for %d of %d by the step %q", fast.Preset, fast.Reserved, cost, fast.Placement.Step)
	}
	w.until(fast.ID, api.StatusActive)
	e.mu.Lock()
	defer e.mu.Unlock()
	if told := e.specs[fast.ID].Preset; told != api.PresetFast {
		t.Errorf("the edge is told the preset %q", told)
	}
}
