package encode

import (
	"bytes"
	"encoding/binary"
	"image"
	"os/exec"
	"testing"

	"github.com/asticode/go-astiav"

	"github.com/perigee-cloud/perigee/api"
)

// canvas is a BGRA picture.
type canvas struct {
	pix  []byte
	w, h int
}

func newCanvas(w, h int) *canvas { return &canvas{pix: make([]byte, w*h*4), w: w, h: h} }

func (c *canvas) stride() int { return c.w * 4 }

func (c *canvas) all() image.Rectangle { return image.Rect(0, 0, c.w, c.h) }

// fill paints a rectangle in a colour given as 0xRRGGBB.
func (c *canvas) fill(r image.Rectangle, rgb uint32) image.Rectangle {
	r = r.Intersect(c.all())
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			binary.LittleEndian.PutUint32(c.pix[y*c.stride()+x*4:], rgb)
		}
	}
	return r
}

// noise paints a busy pattern that is different for each n.
func (c *canvas) noise(n int) {
	s := uint32(n)*2654435761 + 1
	for i := 0; i+4 <= len(c.pix); i += 4 {
		s ^= s << 13
		s ^= s >> 17
		s ^= s << 5
		binary.LittleEndian.PutUint32(c.pix[i:], s)
	}
}

// yuv gives BT.601 studio range values of a colour 0xRRGGBB.
func yuv(rgb uint32) [3]int {
	r, g, b := float64(rgb>>16&255), float64(rgb>>8&255), float64(rgb&255)
	return [3]int{
		int(16.5 + 0.257*r + 0.504*g + 0.098*b),
		int(128.5 - 0.148*r - 0.291*g + 0.439*b),
		int(128.5 + 0.439*r - 0.368*g - 0.071*b),
	}
}

// decode decodes packets and gives the last picture's planes (I420, packed).
func decode(t *testing.T, c api.Codec, w, h int, packets []Packet) []byte {
	t.Helper()
	if c == api.AV1 {
		return decodeAV1(t, w, h, packets)
	}
	id := map[api.Codec]astiav.CodecID{api.H264: astiav.CodecIDH264, api.VP8: astiav.CodecIDVp8, api.VP9: astiav.CodecIDVp9}[c]
	dec := astiav.AllocCodecContext(astiav.FindDecoder(id))
	defer dec.Free()
	dec.SetFlags(astiav.NewCodecContextFlags(astiav.CodecContextFlagLowDelay))
	if err := dec.Open(astiav.FindDecoder(id), nil); err != nil {
		t.Fatal(err)
	}
	f, p := astiav.AllocFrame(), astiav.AllocPacket()
	defer f.Free()
	defer p.Free()
	var out []byte
	drain := func() {
		for dec.ReceiveFrame(f) == nil {
			var err error
			if out, err = f.Data().Bytes(1); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, pkt := range packets {
		if err := p.FromData(pkt.Data); err != nil {
			t.Fatal(err)
		}
		if err := dec.SendPacket(p); err != nil {
			t.Fatalf("decode packet %d: %v", i, err)
		}
		p.Unref()
		drain()
	}
	_ = dec.SendPacket(nil) // flush
	drain()
	if len(out) != w*h*3/2 {
		t.Fatalf("decoded %d bytes, want %d", len(out), w*h*3/2)
	}
	return out
}

// decodeAV1 asks Debian's ffmpeg: our own build has no AV1 decoder.
func decodeAV1(t *testing.T, w, h int, packets []Packet) []byte {
	t.Helper()
	ivf := append([]byte("DKIF\x00\x00\x20\x00AV01"), make([]byte, 20)...)
	binary.LittleEndian.PutUint16(ivf[12:], uint16(w))
	binary.LittleEndian.PutUint16(ivf[14:], uint16(h))
	binary.LittleEndian.PutUint32(ivf[16:], 60)
	binary.LittleEndian.PutUint32(ivf[20:], 1)
	for i, p := range packets {
		ivf = binary.LittleEndian.AppendUint32(ivf, uint32(len(p.Data)))
		ivf = binary.LittleEndian.AppendUint64(ivf, uint64(i))
		ivf = append(ivf, p.Data...)
	}
	cmd := exec.Command("ffmpeg", "-v", "error", "-f", "ivf", "-i", "-", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-fps_mode", "passthrough", "-")
	cmd.Stdin = bytes.NewReader(ivf)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ffmpeg: %v: %s", err, stderr.String())
	}
	size := w * h * 3 / 2
	if len(out) != size*len(packets) {
		t.Fatalf("ffmpeg decoded %d bytes, want %d pictures of %d", len(out), len(packets), size)
	}
	return out[len(out)-size:]
}

// at reads one pixel of packed I420 planes.
func at(planes []byte, w, h, x, y int) [3]int {
	c := w*h + y/2*(w/2) + x/2
	return [3]int{int(planes[y*w+x]), int(planes[c]), int(planes[c+w*h/4])}
}

func near(a, b [3]int, tolerance int) bool {
	for i := range a {
		if d := a[i] - b[i]; d > tolerance || d < -tolerance {
			return false
		}
	}
	return true
}
