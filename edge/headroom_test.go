package edge

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestComputeNamesWhatBinds(t *testing.T) {
	cpu := api.Capacity{Pool: api.PoolCPU, Macroblocks: 1000}
	nv := api.Capacity{Pool: api.PoolNVENC, Macroblocks: 4000, Sessions: 4}
	on := func(p api.Pool, mbs ...uint64) (out []poolCost) {
		for _, m := range mbs {
			out = append(out, poolCost{p, m})
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
		"memory":        {nil, Load{CPU: 60, Memory: 90}, 90, "memory", [2]uint64{1000, 4000}, [2]int{}},
		"pool":          {on(api.PoolCPU, 500, 300), Load{CPU: 60}, 80, "pool:cpu", [2]uint64{200, 4000}, [2]int{2, 0}},
		"sessions":      {on(api.PoolNVENC, 1, 1, 1), Load{CPU: 10}, 75, "sessions:nvenc", [2]uint64{1000, 3997}, [2]int{0, 3}},
		"more than all": {on(api.PoolCPU, 900, 900), Load{}, 100, "pool:cpu", [2]uint64{0, 4000}, [2]int{2, 0}},
		"unknown pool":  {on("other", 900), Load{}, 0, "cpu", [2]uint64{1000, 4000}, [2]int{}},
	} {
		h := compute([]api.Capacity{cpu, nv}, c.costs, c.load)
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
	if l, err := m.read(); err != nil || l != (Load{0, 75}) {
		t.Errorf("first reading is %+v, %v", l, err)
	}
	write("stat", "cpu  130 0 100 750 120 0 0 0 80 0\n") // 30 busy of 100: guest time is not counted twice
	if l, err := m.read(); err != nil || l != (Load{30, 75}) {
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
	real := newProcMeter()
	if l, err := real.read(); err != nil || l.Memory < 1 || l.Memory > 100 {
		t.Errorf("this machine's load is %+v, %v", l, err)
	}
}
