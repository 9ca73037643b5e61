package rtc

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	"github.com/perigee-cloud/perigee/media"
)

// sender is the interceptor next to the wire. It numbers and stamps packets
// (transport-cc, abs-send-time, playout delay), reads the viewer's feedback
// into the congestion control, and bounds retransmissions. It never delays a
// packet: pacing costs 14 ms at the 95th percentile and more.
type sender struct {
	interceptor.NoOp
	start time.Time

	mu      sync.Mutex
	cc      *congestion
	bytes   uint64 // sent, with all headers
	seq     uint16
	history [historySize]sentPacket
	budget  float64 // bytes that may be sent again
	refill  time.Duration
	ref     int64 // the viewer's reference time, unwrapped
	hasRef  bool
}

type sentPacket struct {
	seq  uint16
	at   time.Duration
	size int32
	live bool
}

const (
	historySize = 4096
	// Retransmissions may take a quarter of the rate, and at once as much as a
	// fifth of a second of it: a storm of NACKs must not fill the way.
	resendShare = 0.25
	resendBurst = 0.2
	wireExtra   = 12 + 16 + 28 // RTP header, extensions and SRTP tag, UDP and IP
)

func newSender(limits media.Limits) *sender {
	return &sender{start: time.Now(), cc: newCongestion(limits, 0)}
}

// NewInterceptor is pion's: one sender serves one connection.
func (s *sender) NewInterceptor(string) (interceptor.Interceptor, error) { return s, nil }

func (s *sender) since(t time.Time) time.Duration { return t.Sub(s.start) }

// BindLocalStream is pion's.
func (s *sender) BindLocalStream(info *interceptor.StreamInfo, next interceptor.RTPWriter) interceptor.RTPWriter {
	var seqID, timeID, delayID uint8
	for _, e := range info.RTPHeaderExtensions {
		switch e.URI {
		case uriTransportCC:
			seqID = uint8(e.ID)
		case uriAbsSendTime:
			timeID = uint8(e.ID)
		case uriPlayoutDelay:
			delayID = uint8(e.ID)
		}
	}
	return interceptor.RTPWriterFunc(func(h *rtp.Header, p []byte, a interceptor.Attributes) (int, error) {
		if h.SSRC != info.SSRC { // sent again; its header belongs to the responder's buffer
			if !s.mayResend(len(p)) {
				return len(p), nil
			}
			c := h.Clone()
			h = &c
		}
		now := time.Now()
		if timeID != 0 {
			abs, err := rtp.NewAbsSendTimeExtension(now).Marshal()
			if err != nil {
				return 0, err
			}
			if err := h.SetExtension(timeID, abs); err != nil {
				return 0, err
			}
		}
		if delayID != 0 { // least and most delay: show a picture when it is there
			if err := h.SetExtension(delayID, []byte{0, 0, 0}); err != nil {
				return 0, err
			}
		}
		seq := s.sent(now, len(p)+wireExtra, seqID != 0)
		if seqID != 0 {
			if err := h.SetExtension(seqID, binary.BigEndian.AppendUint16(nil, seq)); err != nil {
				return 0, err
			}
		}
		return next.Write(h, p, a)
	})
}

func (s *sender) mayResend(size int) bool {
	now := s.since(time.Now())
	s.mu.Lock()
	defer s.mu.Unlock()
	rate := s.cc.target * 1000 / 8 // bytes a second
	s.budget = min(s.budget+(now-s.refill).Seconds()*rate*resendShare, rate*resendBurst)
	s.refill = now
	if s.budget < float64(size) {
		return false
	}
	s.budget -= float64(size)
	return true
}

func (s *sender) sent(now time.Time, size int, numbered bool) uint16 {
	at := s.since(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cc.onSent(at, size)
	s.bytes += uint64(size)
	if !numbered {
		return 0
	}
	seq := s.seq
	s.seq++
	s.history[seq%historySize] = sentPacket{seq: seq, at: at, size: int32(size), live: true}
	return seq
}

// BindRTCPReader is pion's.
func (s *sender) BindRTCPReader(next interceptor.RTCPReader) interceptor.RTCPReader {
	return interceptor.RTCPReaderFunc(func(b []byte, a interceptor.Attributes) (int, interceptor.Attributes, error) {
		n, attr, err := next.Read(b, a)
		if err != nil {
			return 0, nil, err
		}
		if attr == nil {
			attr = make(interceptor.Attributes)
		}
		if packets, err := attr.GetRTCPPackets(b[:n]); err == nil { // broken RTCP of a viewer is its own loss
			s.heard(packets)
		}
		return n, attr, nil
	})
}

func (s *sender) heard(packets []rtcp.Packet) {
	for _, p := range packets {
		switch p := p.(type) {
		case *rtcp.TransportLayerCC:
			s.feedback(time.Now(), p)
		case *rtcp.ReceiverEstimatedMaximumBitrate:
			s.remb(float64(p.Bitrate) / 1000)
		}
	}
}

func (s *sender) remb(kbps float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.cc.hears { // with transport-cc the estimate is ours
		s.cc.remb(kbps)
	}
}

func (s *sender) feedback(now time.Time, p *rtcp.TransportLayerCC) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The reference time counts 64 ms in 24 bits.
	const wrap = 1 << 24
	ref := int64(p.ReferenceTime)
	if s.hasRef {
		d := (ref - s.ref) % wrap
		if d > wrap/2 {
			d -= wrap
		} else if d < -wrap/2 {
			d += wrap
		}
		ref = s.ref + d
	}
	s.ref, s.hasRef = ref, true
	at := time.Duration(ref) * 64 * time.Millisecond
	seq, delta := p.BaseSequenceNumber, 0
	var list []arrival
	for i, status := range statuses(p) {
		n := seq + uint16(i)
		received := status == rtcp.TypeTCCPacketReceivedSmallDelta || status == rtcp.TypeTCCPacketReceivedLargeDelta
		if received {
			if delta >= len(p.RecvDeltas) {
				break
			}
			at += time.Duration(p.RecvDeltas[delta].Delta) * time.Microsecond
			delta++
		}
		h := &s.history[n%historySize]
		if !h.live || h.seq != n {
			continue // reported before, or too old
		}
		// A packet reported missing may still be under way and come with the
		// next feedback; it then counts as both, which only slows an increase.
		h.live = !received
		list = append(list, arrival{sent: h.at, size: int(h.size), received: received, at: at})
	}
	if len(list) > 0 {
		s.cc.feedback(s.since(now), list)
	}
}

// statuses unpacks the status of each packet a feedback covers.
func statuses(p *rtcp.TransportLayerCC) []uint16 {
	out := make([]uint16, 0, p.PacketStatusCount)
	for _, c := range p.PacketChunks {
		switch c := c.(type) {
		case *rtcp.RunLengthChunk:
			for range c.RunLength {
				if len(out) == int(p.PacketStatusCount) {
					return out
				}
				out = append(out, c.PacketStatusSymbol)
			}
		case *rtcp.StatusVectorChunk:
			for _, s := range c.SymbolList {
				if len(out) == int(p.PacketStatusCount) {
					return out
				}
				out = append(out, s)
			}
		}
	}
	return out
}

// target gives the bitrate to encode at, in kb/s.
func (s *sender) target(now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cc.tick(s.since(now))
}

func (s *sender) setLimits(l media.Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cc.setLimits(l)
}
