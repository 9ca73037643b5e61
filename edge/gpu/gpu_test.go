package gpu

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
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
		known   bool
		engines int
		streams uint64 // of 1280x720@30
		av1     bool
	}{
		"Tesla T4":                {true, 1, 37, false},
		"NVIDIA L4":               {true, 2, 98, true},
		"NVIDIA L40S":             {true, 3, 147, true},
		"NVIDIA A10G":             {true, 1, 46, false},
		"NVIDIA H200":             {true, 0, 0, false},
		"NVIDIA H100 80GB HBM3":   {true, 0, 0, false},
		"NVIDIA A100-SXM4-40GB":   {true, 0, 0, false},
		"NVIDIA GeForce RTX 4070": {true, 1, 49, true},
		"NVIDIA RTX 4000 Ada":     {true, 1, 49, true},
		"NVIDIA T400":             {},
		"Quadro P2000":            {},
		"":                        {},
	} {
		p, known := PublishedOf(name)
		if known != want.known || p.Engines != want.engines || p.Macroblocks/108_000 != want.streams {
			t.Errorf("%q: %+v, %v", name, p, known)
		}
		if known && slices.Contains(p.Codecs, api.H265) != (p.Engines > 0) {
			t.Errorf("%q: codecs %v", name, p.Codecs)
		}
		if known && p.Source == "" {
			t.Errorf("%q: a figure without a source", name)
		}
		if av1 := len(p.Codecs) == 3; av1 != want.av1 {
			t.Errorf("%q: codecs %v", name, p.Codecs)
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
