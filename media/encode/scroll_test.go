package encode

import (
	"image"
	"slices"
	"testing"

	"github.com/asticode/go-astiav"

	"github.com/perigee-cloud/perigee/api"
)

// textAt paints lines as text does, all of it moved up by so many pixels.
func (c *canvas) textAt(px int) {
	c.fill(c.all(), 0xf8f8f0)
	const cellW, cellH = 7, 13
	for row := 0; row <= c.h/cellH+1; row++ {
		line := row + px/cellH
		s := uint32(line)*2654435761 + 1
		for col := range 20 + int(s>>20)%40 {
			s ^= s << 13
			s ^= s >> 17
			s ^= s << 5
			if s%5 == 0 {
				continue
			}
			x, y := col*cellW, row*cellH+2-px%cellH
			for stroke := range 4 {
				bits := s >> (8 * stroke)
				if at := int(bits & 3); bits&4 != 0 {
					c.fill(image.Rect(x+at, y+1, x+at+1, y+8), 0x202020)
				} else {
					c.fill(image.Rect(x, y+2*at, x+5, y+2*at+1), 0x202020)
				}
			}
		}
	}
}

// scrolled encodes a text that moves by three pixels in a sixtieth of a second,
// at one of so many pictures of it, and gives the least and the median PSNR of
// what decodes once it has settled, in dB, and what it took, in kb/s.
func scrolled(t *testing.T, cfg Config, kbps, one int) (least, median float64, took int) {
	t.Helper()
	const w, h, sixtieths, settled = 1280, 720, 72, 24
	cfg.Width, cfg.Height, cfg.FPS, cfg.BitrateKbps = w, h, 60, kbps*one // as the stream process tells it
	v := open(t, cfg)
	c := newCanvas(w, h)
	id := map[api.Codec]astiav.CodecID{api.H264: astiav.CodecIDH264, api.VP8: astiav.CodecIDVp8, api.VP9: astiav.CodecIDVp9}[cfg.Codec]
	dec := astiav.AllocCodecContext(astiav.FindDecoder(id))
	defer dec.Free()
	dec.SetFlags(astiav.NewCodecContextFlags(astiav.CodecContextFlagLowDelay))
	if err := dec.Open(astiav.FindDecoder(id), nil); err != nil {
		t.Fatal(err)
	}
	f, p := astiav.AllocFrame(), astiav.AllocPacket()
	defer f.Free()
	defer p.Free()
	var all []float64
	bits := 0
	for i := 0; i < sixtieths; i += one {
		c.textAt(3 * i)
		pkt := encode(t, v, c, c.all(), false)
		bits += len(pkt.Data) * 8
		if err := p.FromData(pkt.Data); err != nil {
			t.Fatal(err)
		}
		if err := dec.SendPacket(p); err != nil {
			t.Fatal(err)
		}
		p.Unref()
		if err := dec.ReceiveFrame(f); err != nil {
			t.Fatal(err)
		}
		if i < settled {
			continue
		}
		got, err := f.Data().Bytes(1)
		if err != nil {
			t.Fatal(err)
		}
		want, err := v.Planes()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, psnr(got, want))
	}
	slices.Sort(all)
	return all[0], all[len(all)/2], bits * 60 / sixtieths / 1000
}

// A scrolling text stays readable on 1.5 Mb/s: no picture below 33 dB, half of
// them above 40, at the rate that the stream process picks there.
func TestScrollingTextIsNotSmeared(t *testing.T) {
	for _, codec := range []api.Codec{api.H264, api.VP8, api.VP9} {
		least, median, took := scrolled(t, Config{Codec: codec, Content: api.ContentDetail}, 1500, 2)
		t.Logf("%s: %.1f dB at least, %.1f dB at the median, %d kb/s", codec, least, median, took)
		if least < 33 || median < 40 || took > 1650 {
			t.Errorf("%s: %.1f dB at least, %.1f dB at the median, %d kb/s: it is smeared", codec, least, median, took)
		}
	}
}

// What VP9 is told of its picture makes that difference, also while it is open.
func TestFavourSharpensScrolledText(t *testing.T) {
	_, plain, _ := scrolled(t, Config{Codec: api.VP9}, 700, 4)
	_, told, took := scrolled(t, Config{Codec: api.VP9, Content: api.ContentDetail}, 700, 4)
	t.Logf("%.1f dB, told that it is text %.1f dB", plain, told)
	if told < plain+6 || took > 800 {
		t.Errorf("%.1f dB, told that it is text %.1f dB at %d kb/s", plain, told, took)
	}
	sizes := func(content string) (n int) {
		v := open(t, Config{Codec: api.VP9, Width: 640, Height: 360, FPS: 60, BitrateKbps: 4000})
		c := newCanvas(640, 360)
		for i := range 20 {
			if i == 10 {
				v.Favour(content)
			}
			c.textAt(9 * i)
			p := encode(t, v, c, c.all(), false)
			if i >= 10 {
				n += len(p.Data)
			}
			if p.Key != (i == 0) {
				t.Errorf("picture %d is a key: %v", i, p.Key)
			}
		}
		return n
	}
	if plain, told := sizes(""), sizes(api.ContentDetail); told > plain*9/10 {
		t.Errorf("%d bytes, once it is told %d", plain, told)
	}
}
