package rtc

import (
	"slices"
	"sync"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	"github.com/perigee-cloud/perigee/media"
)

// sender is the interceptor next to the wire. It numbers and stamps packets
// (transport-cc, abs-send-time, playout delay), reads the viewer's feedback
// into the congestion control, and mends losses within bounds. It never delays a
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
	sound   rateWindow // what is not pictures, with headers
	streams []*outgoing
	guard   guard
	// collapsed is told when so much was lost that a keyframe is there sooner than
	// what would be sent again; nil tells nobody. lowered: the target fell.
	collapsed, lowered func()
}

type sentPacket struct {
	seq  uint16
	at   time.Duration
	size int32
	live bool
}

const (
	historySize = 4096
	// Retransmissions may take a third of the rate, and at once as much as a
	// fifth of a second of it: a storm of NACKs must not fill the way.
	resendShare = 0.33
	resendBurst = 0.2
	// What nobody asked for leaves this share of the burst to what was.
	resendKept = 0.5
	wireExtra  = 12 + 16 + 28 // RTP header, extensions and SRTP tag, UDP and IP
)

func newSender(limits media.Limits) *sender {
	return &sender{start: time.Now(), cc: newCongestion(limits, 0), sound: rateWindow{span: 2 * rateSpan}}
}

// NewInterceptor is pion's: one sender serves one connection.
func (s *sender) NewInterceptor(string) (interceptor.Interceptor, error) { return s, nil }

func (s *sender) since(t time.Time) time.Duration { return t.Sub(s.start) }

// BindLocalStream is pion's.
func (s *sender) BindLocalStream(info *interceptor.StreamInfo, next interceptor.RTPWriter) interceptor.RTPWriter {
	o := newOutgoing(s, *info, next)
	s.mu.Lock()
	s.streams = append(s.streams, o)
	s.mu.Unlock()
	return interceptor.RTPWriterFunc(func(h *rtp.Header, p []byte, _ interceptor.Attributes) (int, error) { return o.write(h, p) })
}

// UnbindLocalStream is pion's.
func (s *sender) UnbindLocalStream(info *interceptor.StreamInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams = slices.DeleteFunc(s.streams, func(o *outgoing) bool { return o.info.SSRC == info.SSRC })
}

// stream gives the stream with an SSRC; nil: none.
func (s *sender) stream(ssrc uint32) *outgoing {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.streams {
		if o.info.SSRC == ssrc {
			return o
		}
	}
	return nil
}

// mayResend takes a packet to be sent again from the budget, if it is there.
// asked: the viewer lacks it.
func (s *sender) mayResend(size int, asked bool) bool {
	now := s.since(time.Now())
	s.mu.Lock()
	defer s.mu.Unlock()
	rate := s.cc.target * 1000 / 8 // bytes a second
	s.budget = min(s.budget+(now-s.refill).Seconds()*rate*resendShare, rate*resendBurst)
	s.refill = now
	kept := 0.0
	if !asked {
		kept = rate * resendBurst * resendKept
	}
	if s.budget < float64(size)+kept {
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
		case *rtcp.TransportLayerNack:
			s.asked(p)
		case *rtcp.ReceiverEstimatedMaximumBitrate:
			s.remb(float64(p.Bitrate) / 1000)
		}
	}
}

// asked sends again what a viewer lacks, as far as that is of use.
func (s *sender) asked(p *rtcp.TransportLayerNack) {
	o := s.stream(p.MediaSSRC)
	if o == nil || !o.video() {
		return
	}
	for _, pair := range p.Nacks {
		pair.Range(func(seq uint16) bool {
			return o.again(seq, true) == nil // else the connection has ended
		})
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
	lowered, collapsed := s.learn(now, p)
	if lowered && s.lowered != nil {
		s.lowered()
	}
	if collapsed && s.collapsed != nil {
		s.collapsed()
	}
}

// learn takes a feedback; it tells whether the target fell, and whether too much
// is missing to be sent again.
func (s *sender) learn(now time.Time, p *rtcp.TransportLayerCC) (lowered, collapsed bool) {
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
	if len(list) == 0 {
		return false, false
	}
	lowered = s.cc.feedback(s.since(now), list)
	return lowered, s.guard.collapse(s.since(now), list, s.cc.target)
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

// target gives the bitrate to encode at, in kb/s: what the way carries, without
// what packets, sound and mending take of it.
func (s *sender) target(now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.since(now)
	all := float64(s.cc.tick(at))
	s.guard.look(at, s.cc)
	s.cc.told = max((all-s.sound.rate(at))/(headShare*(1+s.guard.share())), float64(s.cc.limits.MinKbps)/2)
	return int(s.cc.told)
}

// headShare is what a packet of a picture is larger than its payload.
const headShare = 1.06

// wrote counts a packet of the application's: its payload.
func (s *sender) wrote(size int, video bool) {
	at := s.since(time.Now())
	s.mu.Lock()
	defer s.mu.Unlock()
	if video {
		s.cc.pictures.add(at, size)
	} else {
		s.sound.add(at, size+wireExtra)
	}
}

// care is how pictures are protected now.
func (s *sender) care() care {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.guard.care
}

// pictureOf notes how many packets a protected picture had.
func (s *sender) pictureOf(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.guard.packets += (float64(n) - s.guard.packets) / 16
}

// keyframe says that a keyframe begins with a packet: nothing older is of use.
func (s *sender) keyframe(ssrc uint32, seq uint16) {
	if o := s.stream(ssrc); o != nil {
		o.from(seq)
	}
}

func (s *sender) setLimits(l media.Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cc.setLimits(l)
}
