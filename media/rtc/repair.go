package rtc

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/rtp"
)

// outgoing is one stream on its way out, with what mends its losses: packets are
// kept to be sent again, pictures are protected by parity packets, and what a
// keyframe has made useless is not sent any more.
type outgoing struct {
	s    *sender
	info interceptor.StreamInfo
	next interceptor.RTPWriter
	ids  extensionIDs

	mu      sync.Mutex // guards the fields below
	kept    [keptPackets]keptPacket
	rtxSeq  uint16
	parity  *parity  // nil: the viewer takes none
	picture [][]byte // packets of the picture that is being sent, for parity
	useless uint16   // packets before this one need not be sent again
	known   bool     // useless is set
}

type extensionIDs struct{ number, sendTime, delay uint8 }

type keptPacket struct {
	header rtp.Header
	data   []byte
	at     time.Duration // when it was sent; 0 = nothing kept
	again  time.Duration // when it last was once more
}

const (
	keptPackets = 1024
	keptFor     = time.Second // what is older comes too late
	// Between two copies of a packet: a viewer asks again after a round trip.
	resendGap = 15 * time.Millisecond
)

func newOutgoing(s *sender, info interceptor.StreamInfo, next interceptor.RTPWriter) *outgoing {
	o := &outgoing{s: s, info: info, next: next, rtxSeq: uint16(rand.Uint32())}
	for _, e := range info.RTPHeaderExtensions {
		switch e.URI {
		case uriTransportCC:
			o.ids.number = uint8(e.ID)
		case uriAbsSendTime:
			o.ids.sendTime = uint8(e.ID)
		case uriPlayoutDelay:
			o.ids.delay = uint8(e.ID)
		}
	}
	if info.SSRCForwardErrorCorrection != 0 && info.PayloadTypeForwardErrorCorrection != 0 {
		o.parity = newParity(info.PayloadTypeForwardErrorCorrection, info.SSRCForwardErrorCorrection)
	}
	return o
}

// video says whether losses of the stream are mended.
func (o *outgoing) video() bool { return o.info.ClockRate == videoClock }

// write sends a packet of the application's.
func (o *outgoing) write(h *rtp.Header, p []byte) (int, error) {
	o.s.wrote(len(p), o.video())
	if !o.video() {
		return o.send(h, p)
	}
	o.mu.Lock()
	k := &o.kept[h.SequenceNumber%keptPackets]
	k.header = rtp.Header{Version: 2, Marker: h.Marker, PayloadType: h.PayloadType, SequenceNumber: h.SequenceNumber, Timestamp: h.Timestamp, SSRC: h.SSRC}
	k.data = append(k.data[:0], p...)
	k.at, k.again = o.s.since(time.Now()), 0
	o.mu.Unlock()
	n, err := o.send(h, p)
	if n > 0 && err == nil {
		err = o.protect(h, p)
	}
	return n, err
}

// send stamps, numbers and counts a packet, and sends it.
func (o *outgoing) send(h *rtp.Header, p []byte) (int, error) {
	now := time.Now()
	if o.ids.sendTime != 0 {
		abs, err := rtp.NewAbsSendTimeExtension(now).Marshal()
		if err != nil {
			return 0, err
		}
		if err := h.SetExtension(o.ids.sendTime, abs); err != nil {
			return 0, err
		}
	}
	if o.ids.delay != 0 { // least and most delay: show a picture when it is there
		if err := h.SetExtension(o.ids.delay, []byte{0, 0, 0}); err != nil {
			return 0, err
		}
	}
	seq := o.s.sent(now, len(p)+wireExtra, o.ids.number != 0)
	if o.ids.number != 0 {
		if err := h.SetExtension(o.ids.number, binary.BigEndian.AppendUint16(nil, seq)); err != nil {
			return 0, err
		}
	}
	return o.next.Write(h, p, nil)
}

// protect adds a packet to its picture and, behind the last one, sends what
// protects it: parity packets, or for viewers that take none a copy of what is
// small. It is called by the one goroutine that writes.
func (o *outgoing) protect(h *rtp.Header, p []byte) error {
	care := o.s.care()
	if care == careNone {
		o.picture = o.picture[:0]
		return nil
	}
	view, err := o.asReceived(h, p)
	if err != nil {
		return err
	}
	o.picture = append(o.picture, view)
	if !h.Marker && len(o.picture) < parityMost {
		return nil
	}
	list := o.picture
	o.picture = o.picture[:0]
	if h.Marker {
		o.s.pictureOf(len(list))
	}
	if o.parity != nil {
		return o.parity.protect(list, h.Timestamp, care == careStrong, func(h *rtp.Header, b []byte) error {
			_, err := o.send(h, b)
			return err
		})
	}
	if len(list) > smallPicture {
		return nil
	}
	for i := range list {
		if err := o.again(h.SequenceNumber-uint16(len(list)-1-i), false); err != nil {
			return err
		}
	}
	return nil
}

// smallPicture is how many packets a picture may have that is sent twice.
const smallPicture = 3

// asReceived is a packet as receivers look at it for parity: extensions that
// change on the way are zero (libwebrtc's RtpPacket::ZeroMutableExtensions).
func (o *outgoing) asReceived(h *rtp.Header, p []byte) ([]byte, error) {
	c := h.Clone()
	if o.ids.sendTime != 0 {
		if err := c.SetExtension(o.ids.sendTime, []byte{0, 0, 0}); err != nil {
			return nil, err
		}
	}
	if o.ids.number != 0 {
		if err := c.SetExtension(o.ids.number, []byte{0, 0}); err != nil {
			return nil, err
		}
	}
	b, err := c.Marshal()
	if err != nil {
		return nil, err
	}
	return append(b, p...), nil
}

// again sends a kept packet once more, in the stream that is for that where the
// viewer takes one. asked: the viewer lacks it, so it is of use only for a while.
func (o *outgoing) again(seq uint16, asked bool) error {
	now := o.s.since(time.Now())
	o.mu.Lock()
	k := &o.kept[seq%keptPackets]
	if k.at == 0 || k.header.SequenceNumber != seq || asked && (now-k.at > keptFor || k.again != 0 && now-k.again < resendGap || o.known && int16(seq-o.useless) < 0) {
		o.mu.Unlock()
		return nil
	}
	if !o.s.mayResend(len(k.data), asked) {
		o.mu.Unlock()
		return nil
	}
	h := k.header.Clone()
	data := append([]byte(nil), k.data...)
	if asked {
		k.again = now
	}
	if o.info.SSRCRetransmission != 0 && o.info.PayloadTypeRetransmission != 0 {
		data = append(binary.BigEndian.AppendUint16(nil, seq), k.data...) // RFC 4588
		o.rtxSeq++
		h.SSRC, h.PayloadType, h.SequenceNumber = o.info.SSRCRetransmission, o.info.PayloadTypeRetransmission, o.rtxSeq
	}
	o.mu.Unlock()
	_, err := o.send(&h, data)
	return err
}

// from says that only packets from seq on are of use: a keyframe begins there.
func (o *outgoing) from(seq uint16) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.useless, o.known = seq, true
}
