package gpu

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func TestUnavailableIsHonest(t *testing.T) {
	var d Driver = Unavailable{State: StateNoDriver, Detail: "libnvidia-ml.so.1 was not found"}
	devices, state, detail := d.Devices(t.Context())
	if len(devices) != 0 || state != StateNoDriver || detail != "libnvidia-ml.so.1 was not found" {
		t.Errorf("devices are %v, %s, %s", devices, state, detail)
	}
	if r := d.Read(t.Context()); len(r) != 0 || d.Version() != "" {
		t.Errorf("reading is %v", r)
	}
	d.Close()
}

func TestCPUPoolStandsIn(t *testing.T) {
	hd := api.Screen{Width: 1280, Height: 720, FPS: 60}
	for _, c := range []struct {
		cores    int
		codec    api.Codec
		sessions uint64
	}{
		{2, api.H264, 4}, {2, api.VP8, 3}, {2, api.AV1, 1}, {1, api.H264, 2}, {16, api.H264, 33}, {0, api.H264, 0}, {-1, api.H264, 0},
	} {
		p := CPUPool(c.cores)
		if got := p.Macroblocks / api.Cost(api.PoolCPU, c.codec, hd); got != c.sessions {
			t.Errorf("%d cores carry %d sessions of %s, want %d", c.cores, got, c.codec, c.sessions)
		}
		if p.Pool != api.PoolCPU || len(p.Codecs) != len(Software()) {
			t.Errorf("pool is %+v", p)
		}
	}
}

func TestPublishedFigures(t *testing.T) {
	for name, want := range map[string]struct {
		known           bool
		engines         int
		h264, h265, av1 uint64 // streams of 1280x720@30
	}{
		"Tesla T4":                {true, 1, 37, 28, 0},
		"NVIDIA L4":               {true, 2, 98, 74, 116},
		"NVIDIA L40S":             {true, 3, 147, 111, 175},
		"NVIDIA A10G":             {true, 1, 46, 35, 0},
		"NVIDIA H200":             {known: true},
		"NVIDIA H100 80GB HBM3":   {known: true},
		"NVIDIA A100-SXM4-40GB":   {known: true},
		"NVIDIA GeForce RTX 2080": {true, 1, 45, 34, 0},
		"NVIDIA GeForce RTX 3060": {true, 1, 46, 35, 0},
		"NVIDIA GeForce RTX 4070": {true, 1, 49, 37, 58},
		"NVIDIA GeForce RTX 5060": {true, 1, 54, 39, 60},
		"NVIDIA RTX 4000 Ada":     {true, 1, 49, 37, 58},
		"NVIDIA T400":             {},
		"Quadro P2000":            {},
		"":                        {},
	} {
		p, known := PublishedOf(name)
		if known != want.known || p.Engines != want.engines || p.Rates[api.H264]/108_000 != want.h264 || p.Rates[api.H265]/108_000 != want.h265 || p.Rates[api.AV1]/108_000 != want.av1 {
			t.Errorf("%q: %+v, %v", name, p, known)
		}
		if codecs := len(p.Codecs()); known && (p.Source == "" || codecs != len(p.Rates) || p.Engines > 0 && codecs < 2) {
			t.Errorf("%q: %d codecs, source %q", name, codecs, p.Source)
		}
	}
}

// What NVIDIA says of its generations in words must be in the figures: none is
// slower than the one before, H.265 takes more time than H.264 at P3 and AV1
// less, and AV1 came with Ada.
func TestPublishedFiguresAgree(t *testing.T) {
	order := []generation{turing(), ampere(), ada(), blackwell()}
	for i, g := range order {
		if g.h265 >= g.h264 || g.h265*2 < g.h264 || i < 2 != (g.av1 == 0) || g.av1 != 0 && g.av1 <= g.h264 {
			t.Errorf("generation %d: %+v", i, g)
		}
		if i > 0 && (g.h264 < order[i-1].h264 || g.h265 < order[i-1].h265 || g.av1 < order[i-1].av1) {
			t.Errorf("generation %d is slower than the one before: %+v", i, g)
		}
	}
}

func TestEstimateCountsOnlyWhatEncodes(t *testing.T) {
	ok := func(name string, engines int) Device { return Device{Name: name, Engines: engines, State: StateOK} }
	lost, split := ok("Tesla T4", 1), ok("Tesla T4", 1)
	lost.State, split.MIG = StateLost, true
	if c, known := Estimate([]Device{ok("NVIDIA H200", 0), lost, split, ok("Quadro P2000", -1)}); known {
		t.Errorf("estimated %+v of nothing", c)
	}
	c, known := Estimate([]Device{ok("NVIDIA L4", 2), ok("Tesla T4", 1), ok("NVIDIA H200", 0)})
	if !known || c.Macroblocks != 2*652*8160+37*108_000 || !reflect.DeepEqual(c.Codecs, []api.Codec{api.H264}) || c.Pool != api.PoolNVENC {
		t.Errorf("estimated %+v", c)
	}
	// AV1 at its own cost, where every device does it; the sum stays what is published.
	c, known = Estimate([]Device{ok("NVIDIA L4", 2), ok("NVIDIA L4", 2)})
	hd := api.Screen{Width: 1280, Height: 720, FPS: 30}
	if !known || !reflect.DeepEqual(c.Codecs, []api.Codec{api.H264, api.AV1}) || c.Macroblocks != 4*652*8160 ||
		c.Cost(api.H264, api.PresetDefault, hd) != 108_000 || c.Cost(api.AV1, api.PresetDefault, hd) != 108_000*843/1000 {
		t.Errorf("estimated %+v", c)
	}
	if streams, published := c.Macroblocks/c.Cost(api.AV1, api.PresetDefault, hd), uint64(4*774*8160/108_000); streams > published || streams+1 < published {
		t.Errorf("estimated %d streams of AV1, published %d", streams, published)
	}
}

func TestRenders(t *testing.T) {
	root := t.TempDir()
	for name, driver := range map[string]string{"renderD128": "i915", "renderD129": "nvidia", "renderD130": ""} {
		device := filepath.Join(root, "sys/class/drm", name, "device")
		if err := os.MkdirAll(device, 0o755); err != nil {
			t.Fatal(err)
		}
		if driver != "" {
			if err := os.Symlink("../../../bus/pci/drivers/"+driver, filepath.Join(device, "driver")); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(filepath.Join(root, "dev/dri"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "dev/dri", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := []Render{{Path: "/dev/dri/renderD128", Driver: "i915"}, {Path: "/dev/dri/renderD130", Driver: "unknown"}}
	if got := Renders(root); !reflect.DeepEqual(got, want) {
		t.Errorf("found %v", got)
	}
	if got := Renders(t.TempDir()); got != nil {
		t.Errorf("found %v in nothing", got)
	}
	if model, cores := Machine(); model == "" || cores < 1 {
		t.Errorf("this machine is %q with %d cores", model, cores)
	}
}
