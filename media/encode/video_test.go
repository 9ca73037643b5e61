package encode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"math"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func open(t *testing.T, cfg Config) *Video {
	t.Helper()
	v, err := NewVideo(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

func encode(t *testing.T, v *Video, c *canvas, changed image.Rectangle, key bool) Packet {
	t.Helper()
	if err := v.Load(c.pix, c.stride(), changed); err != nil {
		t.Fatal(err)
	}
	p, err := v.Encode(key)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Data) == 0 {
		t.Fatal("empty packet")
	}
	return p
}

func eachCodec(t *testing.T, f func(t *testing.T, c api.Codec)) {
	for _, c := range api.SoftwareCodecs() {
		t.Run(string(c), func(t *testing.T) { f(t, c) })
	}
}

func TestPixelsSurvive(t *testing.T) {
	eachCodec(t, func(t *testing.T, codec api.Codec) {
		const w, h = 322, 178 // no multiple of 16
		v := open(t, Config{Codec: codec, Width: w, Height: h, FPS: 60, BitrateKbps: 4000, Content: api.ContentDetail})
		c := newCanvas(w, h)
		c.fill(c.all(), 0x204060)
		packets := []Packet{encode(t, v, c, c.all(), false)}
		if !packets[0].Key {
			t.Error("the first picture is no key")
		}
		colours := []uint32{0xff0000, 0x00ff00, 0x0000ff, 0xffffff, 0xe0a020}
		var box image.Rectangle
		for i := range 30 {
			// Only the changed part is loaded: the rest must have stayed.
			old := box
			c.fill(old, 0x204060)
			box = image.Rect(10+i*5, 33, 75+i*5, 99)
			c.fill(box, colours[i%len(colours)])
			packets = append(packets, encode(t, v, c, box.Union(old), false))
		}
		for range 10 { // let the quality settle
			packets = append(packets, encode(t, v, c, image.Rectangle{}, false))
		}
		for i, p := range packets[1:] {
			if p.Key {
				t.Errorf("picture %d is a key that nobody asked for", i+1)
			}
		}
		planes := decode(t, codec, w, h, packets)
		in := at(planes, w, h, box.Min.X+32, box.Min.Y+32)
		if want := yuv(colours[29%len(colours)]); !near(in, want, 6) {
			t.Errorf("inside the rectangle %v, want %v", in, want)
		}
		out := at(planes, w, h, w-2, h-2)
		if want := yuv(0x204060); !near(out, want, 6) {
			t.Errorf("outside the rectangle %v, want %v", out, want)
		}
	})
}

func TestKeyOnDemandComesAtOnce(t *testing.T) {
	eachCodec(t, func(t *testing.T, codec api.Codec) {
		const w, h = 320, 180
		v := open(t, Config{Codec: codec, Width: w, Height: h, FPS: 60, BitrateKbps: 2000})
		c := newCanvas(w, h)
		for i := range 12 {
			c.fill(image.Rect(i*20, 20, i*20+40, 90), uint32(0x102030*i))
			want := i == 0 || i == 5 || i == 9
			if p := encode(t, v, c, c.all(), want); p.Key != want {
				t.Errorf("picture %d: key %v, want %v", i, p.Key, want)
			}
		}
		// The same picture again, as after a keyframe request on a still screen,
		// must decode by itself.
		key := encode(t, v, c, image.Rectangle{}, true)
		planes := decode(t, codec, w, h, []Packet{key})
		if got, want := at(planes, w, h, 230, 50), yuv(0x102030*11); !near(got, want, 30) {
			t.Errorf("key decodes to %v, want about %v", got, want)
		}
	})
}

// What did not change is passed over by conversion and encoders: it must still
// have become sharp, and stay so.
func TestStillPartsStaySharp(t *testing.T) {
	eachCodec(t, func(t *testing.T, codec api.Codec) {
		const w, h = 320, 192
		v := open(t, Config{Codec: codec, Width: w, Height: h, FPS: 60, BitrateKbps: 1500, Content: api.ContentDetail})
		c := newCanvas(w, h)
		for y := range h {
			for x := range w {
				c.fill(image.Rect(x, y, x+1, y+1), uint32(x*200/w)<<16|uint32(y*255/h)<<8|uint32((x+y)%32*6))
			}
		}
		packets := []Packet{encode(t, v, c, c.all(), false)}
		for i := range 60 {
			packets = append(packets, encode(t, v, c, c.fill(image.Rect(0, 0, 32, 32), uint32(i*0x030201)), false))
		}
		planes := decode(t, codec, w, h, packets)
		var squares, n float64
		for y := 48; y < h; y++ {
			for x := 48; x < w; x++ {
				want := yuv(binary.LittleEndian.Uint32(c.pix[y*c.stride()+x*4:]))
				d := float64(int(planes[y*w+x]) - want[0])
				squares, n = squares+d*d, n+1
			}
		}
		psnr := 10 * math.Log10(255*255*n/squares)
		t.Logf("%s: %.1f dB", codec, psnr)
		if psnr < 36 {
			t.Errorf("what did not move has %.1f dB, want 36", psnr)
		}
	})
}

// spend encodes noise and gives the bitrate that came out, in kb/s.
// A block that stood still for long is encoded again when it changes, again and
// again: libvpx's VP9 never took such blocks back from an active map.
func TestPartsThatStoodStillChangeAgain(t *testing.T) {
	const w, h = 320, 192
	eachCodec(t, func(t *testing.T, codec api.Codec) {
		v := open(t, Config{Codec: codec, Width: w, Height: h, FPS: 30, BitrateKbps: 2000, Threads: 1, Content: api.ContentDetail})
		c := newCanvas(w, h)
		packets := []Packet{encode(t, v, c, c.all(), true)}
		still := image.Rect(32, 32, 96, 96)
		for round, rgb := range []uint32{0xffffff, 0x000000, 0xc02020} {
			for i := range 2 * vpxSettled { // something else moves meanwhile
				moving := c.fill(image.Rect(192, 64, 256, 128), uint32(0x202020+i*0x030303))
				packets = append(packets, encode(t, v, c, moving, false))
			}
			packets = append(packets, encode(t, v, c, c.fill(still, rgb), false))
			for i := range 4 {
				moving := c.fill(image.Rect(192, 64, 256, 128), uint32(0x808080+i*0x030303))
				packets = append(packets, encode(t, v, c, moving, false))
			}
			planes := decode(t, codec, w, h, packets)
			if got := at(planes, w, h, 64, 64); !near(got, yuv(rgb), 30) {
				t.Errorf("round %d: the part that changed shows %v, want %v", round, got, yuv(rgb))
			}
		}
	})
}

func spend(t *testing.T, v *Video, c *canvas, pictures int) (kbps, keys int) {
	t.Helper()
	bits := 0
	for i := range pictures {
		c.noise(i)
		c.fill(image.Rect(0, 0, c.w, c.h*7/8), 0x808080) // not impossible to compress
		p := encode(t, v, c, c.all(), false)
		bits += len(p.Data) * 8
		if p.Key {
			keys++
		}
	}
	return bits * v.cfg.FPS / pictures / 1000, keys
}

func TestBitrateFollows(t *testing.T) {
	eachCodec(t, func(t *testing.T, codec api.Codec) {
		const w, h = 640, 360
		v := open(t, Config{Codec: codec, Width: w, Height: h, FPS: 30, BitrateKbps: 3000})
		c := newCanvas(w, h)
		spend(t, v, c, 20) // past the first key
		high, _ := spend(t, v, c, 60)
		if err := v.SetBitrate(1000); err != nil {
			t.Fatal(err)
		}
		settle, keys := spend(t, v, c, 20)
		low, _ := spend(t, v, c, 60)
		t.Logf("%s: %d kb/s, then %d settling, then %d (%d keys)", codec, high, settle, low, keys)
		if high < 1500 || high > 4000 {
			t.Errorf("%d kb/s at 3000", high)
		}
		if low < 500 || low > 1350 {
			t.Errorf("%d kb/s at 1000", low)
		}
		if want := map[bool]int{true: 0, false: 1}[v.Live()]; keys != want {
			t.Errorf("%d keys after the change, want %d", keys, want)
		}
	})
}

func TestConfigRefused(t *testing.T) {
	good := Config{Codec: api.H264, Width: 320, Height: 180, FPS: 60, BitrateKbps: 1000}
	for field, change := range map[string]func(*Config){
		"codec":        func(c *Config) { c.Codec = "H266" },
		"width":        func(c *Config) { c.Width = 321 },
		"height":       func(c *Config) { c.Height = 181 },
		"height ":      func(c *Config) { c.Height = 2162 },
		"width ":       func(c *Config) { c.Width = -2 },
		"fps":          func(c *Config) { c.FPS = 0 },
		"bitrate_kbps": func(c *Config) { c.BitrateKbps = 3 },
	} {
		cfg := good
		change(&cfg)
		_, err := NewVideo(cfg)
		if !errors.Is(err, ErrConfig) || !strings.Contains(fmt.Sprint(err), strings.TrimSpace(field)) {
			t.Errorf("%+v: %v, want a refusal that names %s", cfg, err, field)
		}
	}
	v := open(t, good)
	if err := v.SetBitrate(0); !errors.Is(err, ErrConfig) {
		t.Errorf("bitrate 0: %v", err)
	}
	if err := v.Load(make([]byte, 100), 320*4, image.Rect(0, 0, 320, 180)); err == nil {
		t.Error("a picture that is too small was loaded")
	}
	if err := v.Load(make([]byte, 320*180*4), 320*4, image.Rect(-9, -9, 900, 900), image.Rectangle{}); err != nil {
		t.Errorf("a change beyond the picture: %v", err)
	}
}

// BenchmarkLoad takes a picture that was painted again as it was.
func BenchmarkLoad(b *testing.B) {
	v, err := NewVideo(Config{Codec: api.H264, Width: 1280, Height: 720, FPS: 60, BitrateKbps: 4000})
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	c := newCanvas(1280, 720)
	c.noise(1)
	for b.Loop() {
		if err := v.Load(c.pix, c.stride(), c.all()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEncode converts and encodes 1280x720 with 20 moving rectangles.
func BenchmarkEncode(b *testing.B) {
	for _, codec := range api.SoftwareCodecs() {
		b.Run(string(codec), func(b *testing.B) {
			const w, h = 1280, 720
			v, err := NewVideo(Config{Codec: codec, Width: w, Height: h, FPS: 60, BitrateKbps: 4000, Content: api.ContentDetail})
			if err != nil {
				b.Fatal(err)
			}
			defer v.Close()
			c := newCanvas(w, h)
			for i := 0; b.Loop(); i++ {
				// The rectangles of the cost benchmark in edge/encoder.
				parts := make([]image.Rectangle, 0, 40)
				for j := range 20 {
					at := func(i int) image.Rectangle {
						x := (i*(3+j%5) + j*61) % w
						return image.Rect(x, j*36, x+60, j*36+36)
					}
					parts = append(parts, c.fill(at(i-1), 0x101820), c.fill(at(i), uint32(j*0x0c1d35+0x402010)))
				}
				if err := v.Load(c.pix, c.stride(), parts...); err != nil {
					b.Fatal(err)
				}
				if _, err := v.Encode(false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
