package encode

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/asticode/go-astiav"
)

// tone is one block of a sine in both channels, n blocks into it.
func tone(hz float64, n int) []byte {
	b := make([]byte, 0, OpusBlock)
	for i := range opusSamples {
		v := uint16(int16(12000 * math.Sin(2*math.Pi*hz*float64(n*opusSamples+i)/48000)))
		b = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(b, v), v)
	}
	return b
}

// decodeOpus gives the loudness (root mean square, 1 = full scale) and the rate of zero
// crossings of the last packets' left channel.
func decodeOpus(t *testing.T, packets [][]byte) (loud, hz float64) {
	t.Helper()
	codec := astiav.FindDecoderByName("opus")
	dec := astiav.AllocCodecContext(codec)
	defer dec.Free()
	dec.SetSampleRate(48000)
	dec.SetChannelLayout(astiav.ChannelLayoutStereo)
	if err := dec.Open(codec, nil); err != nil {
		t.Fatal(err)
	}
	f, p := astiav.AllocFrame(), astiav.AllocPacket()
	defer f.Free()
	defer p.Free()
	var left []float64
	for i, data := range packets {
		if err := p.FromData(data); err != nil {
			t.Fatal(err)
		}
		if err := dec.SendPacket(p); err != nil {
			t.Fatalf("decode packet %d: %v", i, err)
		}
		p.Unref()
		for dec.ReceiveFrame(f) == nil {
			b, err := f.Data().Bytes(1)
			if err != nil {
				t.Fatal(err)
			}
			for j := range f.NbSamples() { // planar floats, left first
				left = append(left, float64(math.Float32frombits(binary.LittleEndian.Uint32(b[j*4:]))))
			}
		}
	}
	if len(left) < 4800 {
		t.Fatalf("%d samples decoded", len(left))
	}
	left = left[len(left)-4800:]
	crossings := 0
	for i, v := range left {
		loud += v * v
		if i > 0 && left[i-1] < 0 && v >= 0 {
			crossings++
		}
	}
	return math.Sqrt(loud / 4800), float64(crossings) * 10
}

func TestOpusKeepsATone(t *testing.T) {
	o, err := NewOpus()
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var packets [][]byte
	bytes := 0
	for i := range 50 {
		p, err := o.Encode(tone(1000, i))
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, p)
		bytes += len(p)
	}
	loud, hz := decodeOpus(t, packets)
	if want := 12000.0 / 32768 / math.Sqrt2; loud < want*0.9 || loud > want*1.1 {
		t.Errorf("loudness %.3f, want %.3f", loud, want)
	}
	if hz < 980 || hz > 1020 {
		t.Errorf("%.0f Hz, want 1000", hz)
	}
	if kbps := bytes * 8 * 2 / 1000; kbps < 16 || kbps > 2*opusKbps {
		t.Errorf("%d kb/s", kbps)
	}
	if _, err := o.Encode(make([]byte, 100)); err == nil {
		t.Error("a short block was encoded")
	}
	// The fixed packet is silence, and decodes in the same stream.
	for range 20 {
		packets = append(packets, Silence())
	}
	if loud, _ := decodeOpus(t, packets); loud > 1e-4 {
		t.Errorf("silence has loudness %g", loud)
	}
}
