package edge

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gpu"
)

func TestComputeNamesWhatBinds(t *testing.T) {
	cpu := api.Capacity{Pool: api.PoolCPU, Macroblocks: 1000}
	nv := api.Capacity{Pool: api.PoolNVENC, Macroblocks: 4000, Sessions: 4}
	on := func(p api.Pool, mbs ...uint64) (out []poolCost) {
		for _, m := range mbs {
			out = append(out, poolCost{pool: p, mbs: m})
		}
		return out
	}
	for name, c := range map[string]struct {
		costs      []poolCost
		load       Load
		saturation int
		binding    string
		free       [2]uint64
		sessions   [2]int
	}{
		"idle":          {nil, Load{}, 0, "cpu", [2]uint64{1000, 4000}, [2]int{}},
		"cpu":           {on(api.PoolCPU, 100), Load{CPU: 60, Memory: 20}, 60, "cpu", [2]uint64{900, 4000}, [2]int{1, 0}},
		"foreign":       {on(api.PoolCPU, 100), Load{CPU: 60, Foreign: 30}, 60, "cpu", [2]uint64{630, 4000}, [2]int{1, 0}},
		"all foreign":   {on(api.PoolCPU, 100), Load{CPU: 100, Foreign: 99}, 100, "cpu", [2]uint64{450, 4000}, [2]int{1, 0}},
		"uplink":        {nil, Load{CPU: 60, Uplink: 70}, 70, "uplink", [2]uint64{1000, 4000}, [2]int{}},
		"memory":        {nil, Load{CPU: 60, Memory: 90}, 90, "memory", [2]uint64{1000, 4000}, [2]int{}},
		"pool":          {on(api.PoolCPU, 500, 300), Load{CPU: 60}, 80, "pool:cpu", [2]uint64{200, 4000}, [2]int{2, 0}},
		"sessions":      {on(api.PoolNVENC, 1, 1, 1), Load{CPU: 10}, 75, "sessions:nvenc", [2]uint64{1000, 3997}, [2]int{0, 3}},
		"more than all": {on(api.PoolCPU, 900, 900), Load{}, 100, "pool:cpu", [2]uint64{0, 4000}, [2]int{2, 0}},
		"unknown pool":  {on("other", 900), Load{}, 0, "cpu", [2]uint64{1000, 4000}, [2]int{}},
	} {
		h := compute(measured{pools: []api.Capacity{cpu, nv}, costs: c.costs, load: c.load})
		if h.Saturation != c.saturation || h.Binding != c.binding || h.CPU != c.load.CPU || h.Memory != c.load.Memory {
			t.Errorf("%s: headroom is %+v", name, h)
		}
		for i := range 2 {
			if h.Pools[i].Free != c.free[i] || h.Pools[i].Sessions != c.sessions[i] {
				t.Errorf("%s: pool is %+v", name, h.Pools[i])
			}
		}
	}
}

func TestHeadroomIsPublishedOnChange(t *testing.T) {
	bus := &fakeBus{}
	load := Load{CPU: 10, Memory: 10}
	a, err := New(Config{
		Identity: open(t, t.TempDir()), Run: "/tmp/x", Bus: bus, Publish: bus, Start: fakes, Log: discard(),
		Pools: []api.Capacity{{Pool: api.PoolCPU, Macroblocks: 1000}},
	})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	for i, c := range []struct {
		load  Load
		after time.Duration
		count int
	}{
		{load, 0, 1},           // the first
		{load, time.Second, 1}, // nothing new
		{Load{CPU: 14, Memory: 6}, time.Second, 1},         // too little
		{Load{CPU: 15, Memory: 10}, time.Second, 2},        // five points
		{Load{CPU: 19, Memory: 10}, time.Second, 2},        // measured from what was told
		{Load{CPU: 20, Memory: 10}, time.Second, 3},        //
		{Load{CPU: 20, Memory: 10}, 4 * time.Second, 3},    // quiet
		{Load{CPU: 20, Memory: 10}, 5100 * time.Second, 4}, // but not for ever
	} {
		now = now.Add(c.after)
		a.meter.update(c.load, now)
		if len(bus.headroom) != c.count {
			t.Fatalf("step %d: %d messages, want %d", i, len(bus.headroom), c.count)
		}
	}
	for i, h := range bus.headroom {
		if h.Seq != uint64(i+1) || h.Boot != a.cfg.Identity.Boot {
			t.Errorf("message %d is %+v", i, h)
		}
	}
	if a.meter.latest().Seq != 4 {
		t.Errorf("latest is %+v", a.meter.latest())
	}
}

func TestRunningSessionsTakeRoom(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Measure = func() (Load, error) { return Load{}, nil } })
	c := w.start()
	w.wait(c.Session, api.ObservedRunning)
	hd := api.Screen{Width: 1280, Height: 720, FPS: 60}
	// What the stream says counts: VP8, although H.264 was reserved.
	want := 900_000 - api.Cost(api.PoolCPU, api.VP8, hd)
	room := func(free uint64, sessions int) func() bool {
		return func() bool {
			return w.bus.is(func() bool {
				h := w.bus.beats[len(w.bus.beats)-1].Headroom
				return len(h.Pools) == 1 && h.Pools[0].Free == free && h.Pools[0].Sessions == sessions
			})
		}
	}
	until(t, "room taken", 5*time.Second, room(want, 1))
	w.command(c, api.VerbStop)
	w.wait(c.Session, api.ObservedStopped)
	until(t, "room given back", 5*time.Second, room(900_000, 0))
}

// A session takes what the node told the schedulers that its codec costs.
func TestHeadroomIsAtTheCertifiedCosts(t *testing.T) {
	bus := &fakeBus{}
	a, err := New(Config{Identity: open(t, t.TempDir()), Run: "/tmp/x", Bus: bus, Publish: bus, Start: fakes, Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	a.SetPools([]api.Capacity{{Pool: api.PoolCPU, Macroblocks: 900_000, Codecs: api.SoftwareCodecs(), Factors: []api.CostFactor{
		{Codec: api.VP9, Thousandths: 3000}, {Codec: api.VP9, Preset: api.PresetFast, Thousandths: 1500}}}})
	hd := api.Screen{Width: 1280, Height: 720, FPS: 30}
	for preset, want := range map[api.Preset]uint64{api.PresetDefault: 324_000, api.PresetFast: 162_000} {
		u := a.newUnit("s", 1, api.Spec{Pool: api.PoolCPU, Codecs: []api.Codec{api.VP9}, Screen: hd, Preset: preset})
		if got := u.takes(); got.mbs != want {
			t.Errorf("preset %q takes %d, want %d", preset, got.mbs, want)
		}
	}
}

func TestGraphicsInTheHeadroom(t *testing.T) {
	nv := api.Capacity{Pool: api.PoolNVENC, Macroblocks: 8000}
	ok := func(i, encoder, sm, vram int) gpu.Reading {
		return gpu.Reading{Index: i, State: gpu.StateOK, Encoder: encoder, GPU: sm, Memory: vram, Sessions: 3, LatencyUS: 500}
	}
	lost := gpu.Reading{Index: 1, State: gpu.StateLost, Encoder: -1, GPU: -1, Memory: -1, Sessions: -1, LatencyUS: -1}
	out := gpu.Reading{Index: 1, State: gpu.StateQuarantined}
	ours := []poolCost{{api.PoolNVENC, 1000, "nvenc0"}, {api.PoolNVENC, 1000, "nvenc0"}}
	for name, c := range map[string]struct {
		readings []gpu.Reading
		binding  string
		share    int
		free     uint64
		foreign  []int
	}{
		"ours alone":          {[]gpu.Reading{ok(0, 50, 20, 10), ok(1, 0, 0, 0)}, "nvenc0", 50, 6000, []int{0, 0}},
		"foreign beside ours": {[]gpu.Reading{ok(0, 75, 20, 10), ok(1, 30, 0, 0)}, "nvenc0", 75, 6000 - 1000 - 1200, []int{25, 30}},
		"a game":              {[]gpu.Reading{ok(0, 50, 97, 10), ok(1, 0, 0, 0)}, "sm", 97, 6000, []int{0, 0}},
		"memory full":         {[]gpu.Reading{ok(0, 50, 20, 99), ok(1, 0, 0, 0)}, "vram", 99, 6000, []int{0, 0}},
		"one lost":            {[]gpu.Reading{ok(0, 50, 20, 10), lost}, "nvenc0", 50, 2000, []int{0, api.Unknown}},
		"one in quarantine":   {[]gpu.Reading{ok(0, 50, 20, 10), out}, "nvenc0", 50, 2000, []int{0, 0}},
		"less than we think":  {[]gpu.Reading{ok(0, 10, 20, 10), ok(1, 0, 0, 0)}, "pool:nvenc", 25, 6000, []int{0, 0}},
	} {
		h := compute(measured{pools: []api.Capacity{nv}, costs: ours, sample: gpu.Sample{State: gpu.StateOK, Readings: c.readings},
			engines: []Engine{{"nvenc0", api.PoolNVENC, 4000}, {"nvenc1", api.PoolNVENC, 4000}}})
		if h.Binding != c.binding || h.Saturation != c.share || h.Pools[0].Free != c.free {
			t.Errorf("%s: %+v", name, h)
		}
		for i, f := range c.foreign {
			if h.Engines[i].Foreign != f || h.Engines[i].Engine != fmt.Sprint("nvenc", i) {
				t.Errorf("%s: engine %+v", name, h.Engines[i])
			}
		}
	}
	many := measured{}
	for i := range 20 {
		many.sample.Readings = append(many.sample.Readings, ok(i, 1, 1, 1))
	}
	if h := compute(many); len(h.Engines) != 16 {
		t.Errorf("%d engines are told", len(h.Engines))
	}
}

func TestChangesOfEnginesAreTold(t *testing.T) {
	base := api.Headroom{Engines: []api.EngineHeadroom{{Engine: "nvenc0", State: "ok", Encoder: 50, SM: 50, VRAM: 50}}}
	for name, c := range map[string]struct {
		change func(*api.EngineHeadroom)
		tell   bool
	}{
		"nothing":       {func(*api.EngineHeadroom) {}, false},
		"a little":      {func(e *api.EngineHeadroom) { e.Encoder, e.SM, e.VRAM, e.LatencyUS = 54, 46, 52, 9000 }, false},
		"a step":        {func(e *api.EngineHeadroom) { e.Encoder = 55 }, true},
		"another state": {func(e *api.EngineHeadroom) { e.State = "lost" }, true},
		"a session":     {func(e *api.EngineHeadroom) { e.Sessions++ }, true},
		"foreign":       {func(e *api.EngineHeadroom) { e.Foreign = 5 }, true},
	} {
		next := api.Headroom{Engines: []api.EngineHeadroom{base.Engines[0]}}
		c.change(&next.Engines[0])
		if changed(base, next) != c.tell {
			t.Errorf("%s: told %v", name, !c.tell)
		}
	}
	if !changed(base, api.Headroom{}) {
		t.Error("engines that went are not told")
	}
}

func TestForeignProcessesAreTold(t *testing.T) {
	dir, sys := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	held := 2 // pages of memory of each process
	process := func(pid, parent, session, ticks int) {
		write(fmt.Sprintf("%d/stat", pid), fmt.Sprintf("%d (a ) b) S %d 1 %d 0 0 0 0 0 0 0 %d 0 0 0 20 0 1 0 5 99999 %d 0", pid, parent, session, ticks, held))
	}
	for _, i := range []string{"eth0", "lo"} {
		if err := os.MkdirAll(filepath.Join(sys, "class/net", i, "device"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m := newProcMeter(func() []int { return []int{100, 200} }, 0)
	m.root, m.sys = dir, sys
	write("meminfo", "MemTotal: 100 kB\nMemAvailable: 25 kB\n")
	at := func(second int, busy, sent int) Load {
		t.Helper()
		write("stat", fmt.Sprintf("cpu  %d 0 0 %d 0 0 0 0 0 0\n", busy, 1000*second-busy))
		write("net/dev", fmt.Sprintf("Inter-| x\n face | y\n  eth0: 1 2 3 4 5 6 7 8 %d 0\n lo: 1 2 3 4 5 6 7 8 99999999999 0\n", sent))
		l, err := m.readAt(time.Unix(int64(1000+second), 0))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	process(100, 1, 100, 50)   // the daemon
	process(101, 100, 100, 10) // its child
	process(200, 1, 200, 10)   // a stream
	process(201, 200, 777, 10) // what it started, in a session of its own
	process(300, 1, 300, 500)  // a stranger
	if l := at(1, 300, 1_000_000); l.Foreign != 0 || l.Uplink != 0 {
		t.Errorf("at first: %+v", l)
	}
	process(100, 1, 100, 150)
	process(201, 200, 777, 210)
	process(202, 200, 200, 200) // new
	process(300, 1, 300, 3000)
	l := at(11, 300+3000, 1_000_000+10*12_500_000/4)
	if memory := 75 - 5*held*os.Getpagesize()/1024; l.Memory != 75 || l.ForeignMemory != memory {
		t.Errorf("of memory %d %%, foreign %d, want %d", l.Memory, l.ForeignMemory, memory)
	}
	if l.CPU != 30 || l.Foreign != 25 || l.Uplink != 0 { // 3000 of 10000 busy, 500 of them ours; no speed known
		t.Errorf("later: %+v", l)
	}
	if err := os.WriteFile(filepath.Join(sys, "class/net/eth0/speed"), []byte("100\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l = at(12, 300+3100, 1_000_000+10*12_500_000/4+12_500_000/2); l.Uplink != 50 || l.Foreign > l.CPU {
		t.Errorf("with a speed: %+v", l)
	}
	m.way.operator = 1000
	if l = at(13, 300+3200, 1_000_000+10*12_500_000/4+12_500_000); l.Uplink != 5 {
		t.Errorf("with the operator's: %+v", l)
	}
}

func TestProcMeter(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := &procMeter{root: dir}
	if _, err := m.read(); err == nil {
		t.Error("an absent /proc was read")
	}
	write("stat", "cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 1 1 1 1\n")
	write("meminfo", "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   250 kB\n")
	if l, err := m.read(); err != nil || l != (Load{Memory: 75}) {
		t.Errorf("first reading is %+v, %v", l, err)
	}
	write("stat", "cpu  130 0 100 750 120 0 0 0 80 0\n") // 30 busy of 100: guest time is not counted twice
	if l, err := m.read(); err != nil || l != (Load{CPU: 30, Memory: 75}) {
		t.Errorf("second reading is %+v, %v", l, err)
	}
	for name, text := range map[string][2]string{
		"no cpu line": {"stat", "intr 1\n"}, "no number": {"stat", "cpu a b c d e\n"},
		"no total": {"meminfo", "MemAvailable: 1 kB\n"}, "more free than there is": {"meminfo", "MemTotal: 1 kB\nMemAvailable: 2 kB\n"},
	} {
		old, _ := os.ReadFile(filepath.Join(dir, text[0]))
		write(text[0], text[1])
		if _, err := m.read(); err == nil {
			t.Errorf("%s: was understood", name)
		}
		write(text[0], string(old))
	}
	real := newProcMeter(func() []int { return []int{os.Getpid()} }, 0)
	if l, err := real.read(); err != nil || l.Memory < 1 || l.Memory > 100 {
		t.Errorf("this machine's load is %+v, %v", l, err)
	}
}
