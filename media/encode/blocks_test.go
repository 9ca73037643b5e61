package encode

import (
	"image"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// What is painted again as it was is no change; one pixel is, also in the narrow
// blocks at the right and lower edge.
func TestPaintedAgainIsNoChange(t *testing.T) {
	for _, size := range []image.Point{{320, 176}, {322, 182}, {334, 190}} {
		v, err := NewVideo(Config{Codec: api.H264, Width: size.X, Height: size.Y, FPS: 30, BitrateKbps: 1000})
		if err != nil {
			t.Fatal(err)
		}
		c := newCanvas(size.X, size.Y)
		c.noise(1)
		load := func() bool {
			t.Helper()
			if err := v.Load(c.pix, c.stride(), c.all()); err != nil {
				t.Fatal(err)
			}
			return v.Changed()
		}
		if !load() || v.blocks.fresh != len(v.blocks.age) {
			t.Errorf("%v: the first picture changes %d of %d blocks", size, v.blocks.fresh, len(v.blocks.age))
		}
		if _, err := v.Encode(false); err != nil {
			t.Fatal(err)
		}
		if load() {
			t.Errorf("%v: the same again changes %d blocks", size, v.blocks.fresh)
		}
		for _, at := range []image.Point{{0, 0}, {17, 40}, {size.X - 1, 5}, {3, size.Y - 1}, {size.X - 1, size.Y - 1}} {
			one := image.Rectangle{Min: at, Max: at.Add(image.Pt(1, 1))}
			old := c.pix[at.Y*c.stride()+at.X*4+1]
			c.fill(one, uint32(255-old)<<8) // green weighs most
			if !load() || v.blocks.fresh != 1 || v.blocks.age[at.Y/blockSide*v.blocks.cols+at.X/blockSide] != 0 {
				t.Errorf("%v: a pixel at %v changes %d blocks", size, at, v.blocks.fresh)
			}
			if load(); v.blocks.fresh != 1 {
				t.Errorf("%v: looked at again, the change at %v is forgotten", size, at)
			}
			v.blocks.encoded()
		}
		v.Close()
	}
}
