package encode

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
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
				for _, content := range contents(codec) {
					t.Run(fmt.Sprint(codec, side, "x", col, content), func(t *testing.T) { swapped(t, codec, content, side, col) })
				}
			}
		}
	}
}

// contents are what a codec's encoder tells apart.
func contents(codec api.Codec) []string {
	if codec == api.VP9 {
		return []string{"", api.ContentDetail}
	}
	return []string{""}
}

func swapped(t *testing.T, codec api.Codec, content string, side, col int) {
	const w, h = 640, 256
	v := open(t, Config{Codec: codec, Width: w, Height: h, FPS: 30, BitrateKbps: 4000, Threads: 1, Content: content})
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
	for _, codec := range api.SoftwareCodecs() {
		for _, side := range []int{8, 16, 24, 32} {
			content := contents(codec)[len(contents(codec))-1] // as sessions have it
			t.Run(fmt.Sprint(codec, side), func(t *testing.T) {
				v := open(t, Config{Codec: codec, Width: w, Height: h, FPS: 30, BitrateKbps: 8000, Threads: 1, Content: content})
				b := board{canvas: newCanvas(w, h), side: side, white: make([]bool, w/side*(h/side)), dice: rand.New(rand.NewPCG(1, uint64(side)))}
				var packets [][]byte
				var boards [][]bool
				for n := range 100 {
					changed := b.turn()
					if n == 0 {
						changed = []image.Rectangle{b.all()}
					}
					if err := v.Load(b.pix, b.stride(), changed...); err != nil {
						t.Fatal(err)
					}
					pkt, err := v.Encode(false)
					if err != nil {
						t.Fatal(err)
					}
					packets, boards = append(packets, bytes.Clone(pkt.Data)), append(boards, slices.Clone(b.white))
				}
				for n, luma := range lumas(t, codec, w, h, packets) {
					if wrong := b.wrong(boards[n], luma); wrong > 0 {
						t.Fatalf("picture %d: %d cells are wrong", n, wrong)
					}
				}
			})
		}
	}
}

// board is a picture of black and white cells.
type board struct {
	*canvas
	side  int
	white []bool
	dice  *rand.Rand
}

// at gives a cell's place.
func (b *board) at(i int) image.Rectangle {
	across := b.w / b.side
	return image.Rect(0, 0, b.side, b.side).Add(image.Pt(i%across*b.side, i/across*b.side))
}

// turn turns up to four cells, neighbours by neighbours.
func (b *board) turn() []image.Rectangle {
	var changed []image.Rectangle
	for range b.dice.IntN(3) {
		first := b.dice.IntN(len(b.white) - 1)
		for i := first; i < first+2; i++ {
			b.white[i] = !b.white[i]
			changed = append(changed, b.fill(b.at(i), shade(b.white[i])))
		}
	}
	return changed
}

func (b *board) wrong(white []bool, luma []byte) int {
	wrong := 0
	for i, is := range white {
		at := b.at(i).Min.Add(image.Pt(b.side/2, b.side/2))
		if (luma[at.Y*b.w+at.X] > 125) != is {
			wrong++
		}
	}
	return wrong
}

// lumas decodes packets of one picture each; AV1, which FFmpeg itself cannot
// decode, by Debian's ffmpeg command.
func lumas(t *testing.T, codec api.Codec, w, h int, packets [][]byte) [][]byte {
	t.Helper()
	var all [][]byte
	if codec != api.AV1 {
		show := decoder(t, codec)
		for _, p := range packets {
			all = append(all, bytes.Clone(show(p)))
		}
		return all
	}
	file := append([]byte("DKIF\x00\x00\x20\x00AV01"), make([]byte, 20)...)
	binary.LittleEndian.PutUint16(file[12:], uint16(w))
	binary.LittleEndian.PutUint16(file[14:], uint16(h))
	binary.LittleEndian.PutUint32(file[16:], 30)
	binary.LittleEndian.PutUint32(file[20:], 1)
	for n, p := range packets {
		file = binary.LittleEndian.AppendUint32(file, uint32(len(p)))
		file = append(binary.LittleEndian.AppendUint64(file, uint64(n)), p...)
	}
	cmd := exec.CommandContext(t.Context(), "ffmpeg", "-v", "error", "-i", "pipe:0", "-f", "rawvideo", "-pix_fmt", "gray", "pipe:1")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(file), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("decode AV1: %v", err)
	}
	all = slices.Collect(slices.Chunk(out, w*h))
	if len(all) != len(packets) {
		t.Fatalf("%d of %d pictures were decoded", len(all), len(packets))
	}
	return all
}
