package encode

import (
	"image"
	"math"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// text paints lines as a terminal shows them, the first of them at line top: 20 to
// 60 letters of a dense script, strokes of one pixel, dark on light.
func (c *canvas) text(top int) {
	c.fill(c.all(), 0xf8f8f0)
	const cellW, cellH = 7, 13
	for row := range c.h / cellH {
		s := uint32(row+top)*2654435761 + 1
		for col := range 20 + int(s>>20)%40 {
			s ^= s << 13
			s ^= s >> 17
			s ^= s << 5
			if s%5 == 0 { // between words
				continue
			}
			x, y := col*cellW, row*cellH+2
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

func psnr(a, b []byte) float64 {
	var sum float64
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		sum += d * d
	}
	return 10 * math.Log10(255*255*float64(len(a))/max(sum, 1e-9))
}

// A screen of text that scrolled at 4 Mb/s and stands still is near-lossless
// within a second: after the wait of 0.1 s there is time for 54 more pictures.
func TestStillTextGetsSharpInASecond(t *testing.T) {
	const w, h, passes = 1280, 720, 54
	for _, codec := range []api.Codec{api.H264, api.VP8, api.VP9} {
		t.Run(string(codec), func(t *testing.T) {
			v := open(t, Config{Codec: codec, Width: w, Height: h, FPS: 60, BitrateKbps: 4000, Content: api.ContentDetail})
			c := newCanvas(w, h)
			var packets []Packet
			bits := func(from int) (n int) {
				for _, p := range packets[from:] {
					n += len(p.Data) * 8
				}
				return n
			}
			for i := range 30 { // a line at a time, every other picture
				c.text(i / 2)
				packets = append(packets, encode(t, v, c, c.all(), false))
			}
			want, err := v.Planes()
			if err != nil {
				t.Fatal(err)
			}
			before := psnr(decode(t, codec, w, h, packets), want)
			began, n := len(packets), 0
			for ; n < passes && !v.Sharp(); n++ {
				p, err := v.Encode(false)
				if err != nil {
					t.Fatal(err)
				}
				packets = append(packets, p)
			}
			got := psnr(decode(t, codec, w, h, packets), want)
			t.Logf("%.1f dB when it stopped, %.1f dB after %d pictures of %d kb in all", before, got, n, bits(began)/1000)
			if got < 45 || !v.Sharp() {
				t.Errorf("%.1f dB after %d pictures, sharp %v: want 45 dB within %d", got, n, v.Sharp(), passes)
			}
		})
	}
}
