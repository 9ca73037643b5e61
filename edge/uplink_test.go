package edge

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gpu"
	"github.com/perigee-cloud/perigee/edge/local"
)

// What leaves the machine beside our streams is foreign.
func TestForeignUplink(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("class/net/eth0/device/x", "")
	write("class/net/eth0/speed", "80\n") // 10 MB/s
	ours, sent := uint64(0), uint64(5_000_000)
	m := &procMeter{root: dir, sys: dir, way: wayOut{streams: func() uint64 { return ours }}}
	now := time.Unix(1000, 0)
	after := func(seconds int, all, own uint64) (used, foreign int) {
		t.Helper()
		now, sent, ours = now.Add(time.Duration(seconds)*time.Second), sent+all, ours+own
		write("net/dev", fmt.Sprintf("x\n  eth0: 1 2 3 4 5 6 7 8 %d 0\n", sent))
		used, foreign, mbps := m.uplink(now)
		if mbps != 80 {
			t.Errorf("a way of %d Mb/s", mbps)
		}
		return used, foreign
	}
	for i, c := range []struct {
		seconds       int
		all, own      uint64
		used, foreign int
	}{
		{0, 0, 0, 0, 0},                     // nothing to compare with
		{1, 8_000_000, 8_000_000, 80, 0},    // not looked at yet
		{5, 25_000_000, 20_000_000, 50, 8},  // over 6 s: 33 MB, of which 28 are ours
		{5, 25_000_000, 30_000_000, 50, 0},  // ours to viewers on this machine do not leave it
		{5, 40_000_000, 10_000_000, 80, 60}, //
		{1, 1_000_000, 0, 10, 10},           // never more than is used
		{4, 0, 0, 0, 0},                     //
		{5, 500_000_000, 0, 100, 100},       // a speed that was told wrong
	} {
		if used, foreign := after(c.seconds, c.all, c.own); used != c.used || foreign != c.foreign {
			t.Errorf("step %d: %d %% used, %d foreign, want %d and %d", i, used, foreign, c.used, c.foreign)
		}
	}
	sent = 0 // the interface was made anew
	if used, foreign := after(5, 1000, 0); used != 0 || foreign != 0 {
		t.Errorf("counters that went back: %d %%, %d", used, foreign)
	}
}

func TestSentBytesAreCountedOnce(t *testing.T) {
	a := &Agent{}
	var last uint64
	heard := false
	for i, c := range []struct{ told, want uint64 }{
		{1000, 0}, // adopted: when it was sent nobody knows
		{1500, 500}, {1500, 500}, {1700, 700},
	} {
		a.sentBy(local.StreamState{SentBytes: c.told}, &last, &heard)
		if got := a.sentBytes.Load(); got != c.want {
			t.Errorf("step %d: %d bytes, want %d", i, got, c.want)
		}
	}
}

// A pool's room is no more than what the rest of the way out carries.
func TestUplinkBoundsTheRoom(t *testing.T) {
	pool := api.Capacity{Pool: api.PoolCPU, Macroblocks: 900_000}
	for name, c := range map[string]struct {
		load    Load
		free    uint64
		binding string
	}{
		"unknown":         {Load{Uplink: 99}, 900_000, "uplink"},
		"wide":            {Load{UplinkMbps: 1000}, 900_000, "cpu"},
		"taken by others": {Load{UplinkMbps: 100, Uplink: 95, ForeignUplink: 95}, 216_000, "uplink"},
		"full":            {Load{UplinkMbps: 100, Uplink: 100, ForeignUplink: 40}, 0, "uplink"},
	} {
		h := compute(measured{pools: []api.Capacity{pool}, load: c.load})
		if h.Pools[0].Free != c.free || h.Binding != c.binding || h.ForeignUplink != c.load.ForeignUplink {
			t.Errorf("%s: %+v", name, h)
		}
	}
	if changed(api.Headroom{ForeignUplink: 1}, api.Headroom{ForeignUplink: 5}) || !changed(api.Headroom{ForeignUplink: 1}, api.Headroom{ForeignUplink: 6}) ||
		!changed(api.Headroom{ForeignMemory: 9}, api.Headroom{}) {
		t.Error("foreign shares are told by other steps")
	}
}

// Each part that can bind is named, by what it is.
func TestSaturationNamesThePart(t *testing.T) {
	idle := gpu.Reading{State: gpu.StateOK, Encoder: 10, GPU: 10, Memory: 10}
	for want, change := range map[string]func(*Load, *gpu.Reading){
		"nvenc0": func(_ *Load, r *gpu.Reading) { r.Encoder = 90 },
		"vaapi2": func(_ *Load, r *gpu.Reading) { r.Engine, r.Encoder = "vaapi2", 90 },
		"vram":   func(_ *Load, r *gpu.Reading) { r.Memory = 90 },
		"sm":     func(_ *Load, r *gpu.Reading) { r.GPU = 90 },
		"cpu":    func(l *Load, _ *gpu.Reading) { l.CPU = 90 },
		"memory": func(l *Load, _ *gpu.Reading) { l.Memory = 90 },
		"uplink": func(l *Load, _ *gpu.Reading) { l.Uplink = 90 },
	} {
		l, r := Load{CPU: 20, Memory: 20, Uplink: 20}, idle
		change(&l, &r)
		h := compute(measured{load: l, sample: gpu.Sample{State: gpu.StateOK, Readings: []gpu.Reading{r}}})
		if h.Binding != want || h.Saturation != 90 {
			t.Errorf("%s at 90 %%: %s at %d", want, h.Binding, h.Saturation)
		}
	}
}

// VA-API's engines stand beside NVENC's, each in its own pool.
func TestVAAPIInTheHeadroom(t *testing.T) {
	pools := []api.Capacity{{Pool: api.PoolNVENC, Macroblocks: 4000}, {Pool: api.PoolVAAPI, Macroblocks: 2000}}
	engines := []Engine{{"nvenc0", api.PoolNVENC, 4000}, {"vaapi0", api.PoolVAAPI, 1000}, {"vaapi1", api.PoolVAAPI, 1000}}
	ours := []poolCost{{api.PoolVAAPI, 200, "vaapi0"}}
	nvenc := gpu.Reading{State: gpu.StateOK, Encoder: 25, GPU: -1, Memory: -1}
	for name, c := range map[string]struct {
		first, second gpu.Reading
		free          uint64
		foreign       int
	}{
		"foreign beside ours": {gpu.Reading{State: gpu.StateOK, Encoder: 50}, gpu.Reading{State: gpu.StateOK, Encoder: 0}, 2000 - 200 - 300, 30},
		"unknown":             {gpu.Reading{State: gpu.StateOK, Encoder: -1}, gpu.Reading{State: gpu.StateOK, Encoder: -1}, 1800, api.Unknown},
		"ours is lost":        {gpu.Reading{State: gpu.StateLost, Encoder: -1}, gpu.Reading{State: gpu.StateOK, Encoder: 0}, 1000, api.Unknown},
		"busy and out":        {gpu.Reading{State: gpu.StateQuarantined, Encoder: 90}, gpu.Reading{State: gpu.StateOK, Encoder: 0}, 1000, 70},
		"nonsense":            {gpu.Reading{State: gpu.StateOK, Encoder: 20}, gpu.Reading{State: gpu.StateNonsense, Encoder: -1}, 800, 0},
		"claimed by another":  {gpu.Reading{State: gpu.StateOK, Encoder: 20}, gpu.Reading{State: gpu.StateClaimed, Encoder: 70}, 800, 0},
	} {
		c.first.Engine, c.second.Engine, c.second.Index = "vaapi0", "vaapi1", 1
		h := compute(measured{pools: pools, costs: ours, engines: engines, sample: gpu.Sample{State: gpu.StateOK, Readings: []gpu.Reading{nvenc, c.first, c.second}}})
		if h.Pools[0].Free != 3000 || h.Pools[1].Free != c.free {
			t.Errorf("%s: free %+v, want %d of VA-API", name, h.Pools, c.free)
		}
		if len(h.Engines) != 3 || h.Engines[1].Engine != "vaapi0" || h.Engines[1].Foreign != c.foreign || h.Engines[2].State != string(c.second.State) {
			t.Errorf("%s: engines %+v", name, h.Engines)
		}
	}
}

// An engine that goes out is an alarm, once; the others are not spoken of.
func TestEnginesThatGoOutAreAlarms(t *testing.T) {
	var log bytes.Buffer
	m := &meter{agent: &Agent{log: slog.New(slog.NewTextHandler(&log, nil))}}
	see := func(first, second gpu.State) string {
		log.Reset()
		m.alarm(gpu.Sample{Readings: []gpu.Reading{{State: first, Detail: "why"}, {Index: 1, State: second}}})
		return log.String()
	}
	if got := see(gpu.StateOK, gpu.StateNoEncoder); got != "" {
		t.Errorf("a good start: %s", got)
	}
	for _, s := range []gpu.State{gpu.StateLost, gpu.StateNonsense, gpu.StateQuarantined, gpu.StateFailed} {
		got := see(s, gpu.StateNoEncoder)
		if strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") || !strings.Contains(got, "engine=nvenc0") || !strings.Contains(got, "state="+string(s)) || !strings.Contains(got, "why") {
			t.Errorf("%s: %q", s, got)
		}
		if got = see(s, gpu.StateNoEncoder); got != "" {
			t.Errorf("%s again: %q", s, got)
		}
	}
	if got := see(gpu.StateOK, gpu.StateNoEncoder); !strings.Contains(got, "is back") {
		t.Errorf("put back: %q", got)
	}
}
