package encode

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/asticode/go-astiav"

	"github.com/perigee-cloud/perigee/api"
)

// Every option of the hardware recipes is one that FFmpeg knows, with a value
// that it takes: so much can be seen without a graphics processor.
func TestHardwareOptionsAreKnown(t *testing.T) {
	for _, codec := range []api.Codec{api.H264, api.H265, api.AV1} {
		cfg := Config{Codec: codec, Pool: api.PoolNVENC, Width: 1280, Height: 720, FPS: 60, BitrateKbps: 4000, Threads: 1}
		r, ok := recipes(cfg)
		if !ok {
			t.Fatalf("no recipe of %s", codec)
		}
		c := astiav.FindEncoderByName(r.name)
		if c == nil {
			t.Fatalf("this FFmpeg has no %s", r.name)
		}
		if !slices.Contains(c.PixelFormats(), r.pixels()) {
			t.Errorf("%s does not take %s", r.name, r.pixels())
		}
		cc := astiav.AllocCodecContext(c)
		for key, value := range r.options(cfg) {
			own := cc.PrivateData().Options().Set(key, value, astiav.NewOptionSearchFlags()) == nil
			general := slices.Contains([]string{"g", "maxrate", "bufsize"}, key)
			if !own && !general {
				t.Errorf("%s knows no %s=%s", r.name, key, value)
			}
		}
		cc.Free()
	}
	if o := nvencOptions(Config{FPS: 50, BitrateKbps: 5000, Device: "3"}); o["bufsize"] != "100000" || o["gpu"] != "3" || o["g"] != "-1" {
		t.Errorf("options %v", o)
	}
}

// VA-API's options the same way. What FFmpeg was built without it is built wrongly.
func TestVAAPIOptionsAreKnown(t *testing.T) {
	for _, codec := range []api.Codec{api.H264, api.H265} {
		cfg := Config{Codec: codec, Pool: api.PoolVAAPI, Width: 1280, Height: 720, FPS: 60, BitrateKbps: 4000, Threads: 1}
		r, ok := recipes(cfg)
		if !ok {
			t.Fatalf("no recipe of %s", codec)
		}
		c := astiav.FindEncoderByName(r.name)
		if c == nil {
			t.Fatalf("this FFmpeg has no %s", r.name)
		}
		cc := astiav.AllocCodecContext(c)
		for key, value := range r.options(cfg) {
			if key != "maxrate" && key != "bufsize" && cc.PrivateData().Options().Set(key, value, astiav.NewOptionSearchFlags()) != nil {
				t.Errorf("%s knows no %s=%s", r.name, key, value)
			}
		}
		cc.Free()
	}
}

// Opening an encoder whose device is not there fails at once and says so; the
// ladder goes on from there. With a device it works.
func TestHardwareWithoutADevice(t *testing.T) {
	for pool, name := range map[api.Pool]string{api.PoolNVENC: "h264_nvenc", api.PoolVAAPI: "h264_vaapi"} {
		began := time.Now()
		v, err := NewVideo(Config{Codec: api.H264, Pool: pool, Width: 1280, Height: 720, FPS: 60, BitrateKbps: 4000})
		if err == nil {
			t.Logf("this machine has %s", name)
			pic := newCanvas(1280, 720)
			pic.noise(1)
			if err := v.Load(pic.pix, pic.stride(), pic.all()); err != nil {
				t.Error(err)
			}
			if p, err := v.Encode(true); err != nil || !p.Key {
				t.Errorf("first picture: key %v, %v", p.Key, err)
			}
			v.Close()
			continue
		}
		t.Logf("this machine has no %s: %v", name, err)
		if !strings.Contains(err.Error(), name) || time.Since(began) > 5*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	}
	for _, c := range []api.Codec{api.VP8, api.VP9} {
		if _, err := NewVideo(Config{Codec: c, Pool: api.PoolNVENC, Width: 64, Height: 64, FPS: 60, BitrateKbps: 400}); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "pool") {
			t.Errorf("%s by NVENC: %v", c, err)
		}
	}
}

// A certificate's nvenc1 is NVML's second device: CUDA must count the same way.
func TestNVENCCountsAsNVMLDoes(t *testing.T) {
	t.Setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
	if v, err := NewVideo(Config{Codec: api.H264, Pool: api.PoolNVENC, Device: "1", Width: 640, Height: 360, FPS: 60, BitrateKbps: 1000}); err == nil {
		v.Close()
	}
	if got := os.Getenv("CUDA_DEVICE_ORDER"); got != "PCI_BUS_ID" {
		t.Errorf("CUDA counts by %q", got)
	}
}

// What hardware is given is the picture, or the changed part of it.
func TestHardwareInput(t *testing.T) {
	const w, h = 48, 34
	pic := newCanvas(w, h)
	pic.noise(3)
	for name, hw := range map[string]*hardware{"BGRA": nvencInput(), "NV12": vaapi("h264_vaapi", "main").hardware} {
		v := &Video{cfg: Config{Width: w, Height: h}, recipe: recipe{hardware: hw}, frame: astiav.AllocFrame(), blocks: newBlocks(w, h)}
		v.frame.SetWidth(w)
		v.frame.SetHeight(h)
		v.frame.SetPixelFormat(hw.pixels)
		if err := v.frame.AllocBuffer(1); err != nil {
			t.Fatal(err)
		}
		if err := v.Load(pic.pix, pic.stride(), pic.all()); err != nil {
			t.Fatal(err)
		}
		v.blocks.encoded()
		next := newCanvas(w, h)
		changed := next.fill(next.all(), 0x3080c0) // all of it, of which one block is told
		changed.Max.X, changed.Max.Y = 16, 16
		if err := v.Load(next.pix, next.stride(), changed); err != nil {
			t.Fatal(err)
		}
		got, err := v.frame.Data().Bytes(1)
		if err != nil {
			t.Fatal(err)
		}
		want := slices.Clone(pic.pix)
		for y := range 16 {
			copy(want[y*w*4:][:16*4], next.pix[y*w*4:][:16*4])
		}
		near := func(a byte, b int) bool { return int(a)-b <= 1 && b-int(a) <= 1 }
		if y := yuv(0x3080c0); name == "NV12" && !(near(got[0], y[0]) && near(got[w*h], y[1]) && near(got[w*h+1], y[2])) {
			t.Errorf("%d %d %d is the first pixel, want %v", got[0], got[w*h], got[w*h+1], y)
		}
		if name == "BGRA" && !slices.Equal(got, want) {
			t.Error("the picture is another than was loaded")
		}
		v.Close()
	}
}
