package rtc

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/pion/rtp"
)

// What two packets share must differ from what every other two do, or both
// lost could not be told apart.
func TestCovers(t *testing.T) {
	for n := 1; n <= parityMost; n++ {
		for _, strong := range []bool{false, true} {
			masks, count := covers(n, strong)
			seen := map[uint32]bool{}
			var all uint32
			for _, m := range masks {
				all |= m
				if m == 0 || m >= 1<<count || strong && n > 2 && (bits.OnesCount32(m) != 2 || seen[m]) {
					t.Fatalf("%d packets, strong %v: masks %b", n, strong, masks)
				}
				seen[m] = true
			}
			if bits.OnesCount32(all) != count {
				t.Errorf("%d packets, strong %v: a parity packet of nothing", n, strong)
			}
		}
	}
}

func TestParityIsFlexFEC(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 3, 5, 8, 15, 16, 20, 46} {
		var wire [][]byte
		for i := range n {
			p := rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 102, SequenceNumber: uint16(65_530 + i), Timestamp: 777, SSRC: 42, Marker: i == n-1},
				Payload: make([]byte, 100+rnd.IntN(1000))}
			for j := range p.Payload {
				p.Payload[j] = byte(rnd.Uint32())
			}
			b, err := p.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			wire = append(wire, b)
		}
		var fec []rtp.Packet
		err := newParity(49, 99).protect(wire, 777, true, func(h *rtp.Header, b []byte) error {
			fec = append(fec, rtp.Packet{Header: *h, Payload: bytes.Clone(b)})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for lost := range n {
			if got := mend(fec, wire, lost); !bytes.Equal(got, wire[lost]) {
				t.Errorf("packet %d of %d is not made again from %d parity packets", lost, n, len(fec))
			}
		}
	}
}

// mend makes a lost packet from the others and the first parity packet that
// protects it, as the draft says (6.3.2); nil: none does.
func mend(fec []rtp.Packet, sent [][]byte, lost int) []byte {
	for _, f := range fec {
		b := f.Payload
		base, head, mask := binary.BigEndian.Uint16(b[16:]), 20, uint64(binary.BigEndian.Uint16(b[18:]))<<49
		if b[18]&0x80 == 0 {
			head, mask = 24, mask|uint64(binary.BigEndian.Uint32(b[20:]))<<33>>15
		}
		if base != binary.BigEndian.Uint16(sent[0][2:]) || mask&(1<<(63-lost)) == 0 {
			continue
		}
		out := make([]byte, rtpHead+len(b)-head)
		out[0], out[1] = b[0], b[1]
		length := binary.BigEndian.Uint16(b[2:])
		copy(out[4:8], b[4:8])
		copy(out[rtpHead:], b[head:])
		for i, p := range sent {
			if i == lost || mask&(1<<(63-i)) == 0 {
				continue
			}
			out[0] ^= p[0] & 0x3f
			out[1] ^= p[1]
			length ^= uint16(len(p) - rtpHead)
			for j := 4; j < 8; j++ {
				out[j] ^= p[j]
			}
			for j := rtpHead; j < len(p); j++ {
				out[j] ^= p[j]
			}
		}
		out[0] |= 0x80
		binary.BigEndian.PutUint16(out[2:], base+uint16(lost))
		copy(out[8:12], b[12:16])
		return out[:rtpHead+int(length)]
	}
	return nil
}
