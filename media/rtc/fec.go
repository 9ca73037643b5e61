package rtc

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/pion/rtp"
)

// parity makes FlexFEC-03 packets (draft-ietf-payload-flexible-fec-scheme-03,
// what browsers decode): each is the XOR of some packets of a picture, so that a
// receiver that lacks one of them makes it itself, without asking.
type parity struct {
	pt   uint8
	ssrc uint32
	seq  uint16
	buf  []byte
}

const (
	rtpHead    = 12
	flexHead   = 20 // with a mask of 15 packets
	flexHead46 = 24 // of 46
	// parityMost is the most packets that are protected together.
	parityMost = 46
)

func newParity(pt uint8, ssrc uint32) *parity {
	return &parity{pt: pt, ssrc: ssrc, seq: uint16(rand.Uint32())}
}

// covers says for each of n packets which parity packets protect it, as bits. A
// light protection has each in one of n/5; a strong one has each in two, no two
// packets in the same two, so that two lost packets, or a lost one and a lost
// parity packet, can still be made. One packet has a copy, two have one each.
func covers(n int, strong bool) (masks []uint32, count int) {
	masks = make([]uint32, n)
	if !strong || n <= 2 {
		if count = (n + 4) / 5; strong {
			count = n
		}
		for i := range masks {
			masks[i] = 1 << (i % count)
		}
		return masks, count
	}
	count = 3
	for count*(count-1)/2 < n {
		count++
	}
	// Pairs by distance, so that few packets still touch every parity packet.
	i := 0
	for d := 1; i < n; d++ {
		for a := 0; a < count && i < n; a++ {
			b := (a + d) % count
			if 2*d == count && a >= b { // each pair once
				break
			}
			masks[i] = 1<<a | 1<<b
			i++
		}
	}
	return masks, count
}

// share is what protecting pictures of n packets adds to their rate.
func share(n int, strong bool) float64 {
	if n <= 0 {
		return 0
	}
	n = min(n, parityMost)
	_, count := covers(n, strong)
	return float64(count) / float64(n)
}

// protect makes the parity packets of packets with consecutive sequence numbers,
// at most parityMost. Each of them is as a receiver sees it, extensions that
// change on the way (transport-cc's number, abs-send-time) being zero. The
// result is valid until the next call.
func (p *parity) protect(packets [][]byte, timestamp uint32, strong bool, send func(*rtp.Header, []byte) error) error {
	masks, count := covers(len(packets), strong)
	for k := range count {
		body := p.combine(packets, masks, k)
		p.seq++
		h := rtp.Header{Version: 2, PayloadType: p.pt, SequenceNumber: p.seq, Timestamp: timestamp, SSRC: p.ssrc}
		if err := send(&h, body); err != nil {
			return err
		}
	}
	return nil
}

// combine makes the payload of parity packet k.
func (p *parity) combine(packets [][]byte, masks []uint32, k int) []byte {
	head := flexHead
	if len(packets) > 15 {
		head = flexHead46
	}
	size := 0
	var which uint64 // bit 63 is the first packet
	for i, m := range masks {
		if m&(1<<k) != 0 {
			size = max(size, len(packets[i])-rtpHead)
			which |= 1 << (63 - i)
		}
	}
	if cap(p.buf) < head+size {
		p.buf = make([]byte, head+size+256)
	}
	out := p.buf[:head+size]
	clear(out)
	for i, b := range packets {
		if which&(1<<(63-i)) == 0 {
			continue
		}
		out[0] ^= b[0] & 0x3f // padding, extension, count of sources
		out[1] ^= b[1]        // marker and payload type
		length := uint16(len(b) - rtpHead)
		out[2] ^= byte(length >> 8)
		out[3] ^= byte(length)
		for j := range 4 {
			out[4+j] ^= b[4+j] // timestamp
		}
		for j, v := range b[rtpHead:] {
			out[head+j] ^= v
		}
	}
	out[8] = 1 // one source, then three reserved bytes
	copy(out[12:16], packets[0][8:12])
	copy(out[16:18], packets[0][2:4])
	// The first word has a flag and 15 packets, the second a flag and 31. A set
	// flag says that no further word follows.
	binary.BigEndian.PutUint16(out[18:], uint16(which>>49))
	if head == flexHead {
		out[18] |= 0x80
	} else {
		binary.BigEndian.PutUint32(out[20:], uint32(which<<15>>33))
		out[20] |= 0x80
	}
	return out
}
