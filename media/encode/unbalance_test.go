package encode

import (
	"fmt"
	"image"
	"math/rand/v2"
	"testing"

	"github.com/asticode/go-astiav"

	"github.com/perigee-cloud/perigee/api"
)

// A board's cells swap black and white in each picture: changes that cancel out.
// libvpx's VP9 passed over them for ever where both lay in one 64x64.
func TestSwappedCellsAreSeen(t *testing.T) {
	for _, codec := range []api.Codec{api.H264, api.VP8, api.VP9} {
		for _, side := range []int{8, 16, 24, 32, 64} {
			for col := range 7 {
				t.Run(fmt.Sprint(codec, side, "x", col), func(t *testing.T) { swapped(t, codec, side, col) })
			}
		}
	}
}

func swapped(t *testing.T, codec api.Codec, side, col int) {
	const w, h = 640, 256
	v := open(t, Config{Codec: codec, Width: w, Height: h, FPS: 30, BitrateKbps: 4000, Threads: 1})
	c, show := newCanvas(w, h), decoder(t, codec)
	a := image.Rect(col*side, side, col*side+side, 2*side)
	b := a.Add(image.Pt(side, 0))
	for n := range 20 {
		changed := []image.Rectangle{c.fill(a, shade(n%2 == 1)), c.fill(b, shade(n%2 == 0))}
		if n == 0 {
			changed = []image.Rectangle{c.all()}
		}
		if err := v.Load(c.pix, c.stride(), changed...); err != nil {
			t.Fatal(err)
		}
		pkt, err := v.Encode(n == 0)
		if err != nil {
			t.Fatal(err)
		}
		luma := show(pkt.Data)
		for _, cell := range []struct {
			image.Rectangle
			white bool
		}{{a, n%2 == 1}, {b, n%2 == 0}} {
			at := cell.Min.Add(image.Pt(side/2, side/2))
			if got := luma[at.Y*w+at.X] > 125; got != cell.white {
				t.Fatalf("picture %d: the cell at %v is white: %v, want %v", n, cell.Min, got, cell.white)
			}
		}
	}
}

func shade(white bool) uint32 {
	if white {
		return 0xffffff
	}
	return 0
}

// decoder gives what turns a packet into its picture's luma, without padding.
func decoder(t *testing.T, codec api.Codec) func([]byte) []byte {
	id := map[api.Codec]astiav.CodecID{api.H264: astiav.CodecIDH264, api.VP8: astiav.CodecIDVp8, api.VP9: astiav.CodecIDVp9}[codec]
	dec := astiav.AllocCodecContext(astiav.FindDecoder(id))
	t.Cleanup(dec.Free)
	dec.SetFlags(astiav.NewCodecContextFlags(astiav.CodecContextFlagLowDelay))
	dec.SetThreadCount(1)
	if err := dec.Open(astiav.FindDecoder(id), nil); err != nil {
		t.Fatal(err)
	}
	f, p := astiav.AllocFrame(), astiav.AllocPacket()
	t.Cleanup(f.Free)
	t.Cleanup(p.Free)
	return func(data []byte) []byte {
		t.Helper()
		if err := p.FromData(data); err != nil {
			t.Fatal(err)
		}
		defer p.Unref()
		if err := dec.SendPacket(p); err != nil {
			t.Fatal(err)
		}
		if err := dec.ReceiveFrame(f); err != nil {
			t.Fatal(err)
		}
		luma, err := f.Data().Bytes(1)
		if err != nil {
			t.Fatal(err)
		}
		return luma
	}
}

// Any neighbours on a board may turn; where they differ, the changes cancel out.
func TestEveryCellOfABoardIsSeen(t *testing.T) {
	const w, h = 640, 256
	for _, codec := range []api.Codec{api.H264, api.VP8, api.VP9} {
		for _, side := range []int{8, 16, 24, 32} {
			v := open(t, Config{Codec: codec, Width: w, Height: h, FPS: 30, BitrateKbps: 8000, Threads: 1})
			c, show, dice := newCanvas(w, h), decoder(t, codec), rand.New(rand.NewPCG(1, uint64(side)))
			white := make([]bool, w/side*(h/side))
			for n := range 100 {
				changed := []image.Rectangle{c.all()}
				for range dice.IntN(3) {
					first := dice.IntN(len(white) - 1)
					for i := first; i < first+2; i++ { // two that differ swap
						white[i] = !white[i]
						at := image.Pt(i%(w/side)*side, i/(w/side)*side)
						changed = append(changed, c.fill(image.Rectangle{at, at.Add(image.Pt(side, side))}, shade(white[i])))
					}
				}
				if n > 0 {
					changed = changed[1:]
				}
				if err := v.Load(c.pix, c.stride(), changed...); err != nil {
					t.Fatal(err)
				}
				pkt, err := v.Encode(false)
				if err != nil {
					t.Fatal(err)
				}
				luma, wrong := show(pkt.Data), 0
				for i, is := range white {
					x, y := i%(w/side)*side+side/2, i/(w/side)*side+side/2
					if (luma[y*w+x] > 125) != is {
						wrong++
					}
				}
				if wrong > 0 {
					t.Fatalf("%s, cells of %d, picture %d: %d cells are wrong", codec, side, n, wrong)
				}
			}
		}
	}
}
