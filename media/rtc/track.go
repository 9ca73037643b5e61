package rtc

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
)

// packetSize bounds RTP payloads so that a packet with its extensions, SRTP
// and relay framing stays under common path limits (1,280 of IPv6 and tunnels).
const packetSize = 1160

// track sends the frames of one kind over one connection. pion calls Bind when
// the codec is negotiated.
type track struct {
	kind  webrtc.RTPCodecType
	order []api.Codec // of video: the first that was negotiated is sent
	bound func(api.Codec)
	now   func() time.Time
	// keyframe is told the stream and first packet of each; nil tells nobody.
	keyframe func(ssrc uint32, seq uint16)

	mu      sync.Mutex
	out     webrtc.TrackLocalWriter // nil until bound
	codec   api.Codec
	pt      uint8
	ssrc    uint32
	pay     rtp.Payloader
	seq     uint16
	capture uint8 // id of the header extension that says when a picture was taken; 0 = not agreed
	clock   clock
	sums    counted
	started bool // a keyframe of the codec went out
}

func newTrack(kind webrtc.RTPCodecType, order []api.Codec, bound func(api.Codec)) *track {
	return &track{kind: kind, order: order, bound: bound, now: time.Now, seq: uint16(rand.Uint32())}
}

// Bind is pion's.
func (t *track) Bind(ctx webrtc.TrackLocalContext) (webrtc.RTPCodecParameters, error) {
	chosen, err := t.choose(ctx.CodecParameters())
	if err != nil {
		return chosen, err
	}
	t.mu.Lock()
	t.out = ctx.WriteStream()
	t.pt, t.ssrc = uint8(chosen.PayloadType), uint32(ctx.SSRC())
	t.pay = payloader(chosen.MimeType)
	t.codec, _ = codecOf(chosen.MimeType)
	t.capture = 0
	for _, e := range ctx.HeaderExtensions() {
		if e.URI == uriAbsCaptureTime {
			t.capture = uint8(e.ID)
		}
	}
	t.clock, t.sums = clock{rate: uint64(chosen.ClockRate), base: rand.Uint32()}, counted{}
	t.started = t.kind == webrtc.RTPCodecTypeAudio
	codec := t.codec
	t.mu.Unlock()
	if t.kind == webrtc.RTPCodecTypeVideo {
		t.bound(codec)
	}
	return chosen, nil
}

func (t *track) choose(negotiated []webrtc.RTPCodecParameters) (webrtc.RTPCodecParameters, error) {
	for _, p := range negotiated {
		if t.kind == webrtc.RTPCodecTypeAudio && p.MimeType == webrtc.MimeTypeOpus {
			return p, nil
		}
	}
	for _, want := range t.order {
		for _, p := range negotiated {
			if c, ok := codecOf(p.MimeType); ok && c == want {
				return p, nil
			}
		}
	}
	return webrtc.RTPCodecParameters{}, fmt.Errorf("choose %s codec: %w", t.kind, errNoCodec)
}

// Unbind is pion's.
func (t *track) Unbind(webrtc.TrackLocalContext) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out = nil
	return nil
}

// ID is pion's.
func (t *track) ID() string { return t.kind.String() }

// RID is pion's.
func (t *track) RID() string { return "" }

// StreamID is pion's. Sound and picture are streams of their own: browsers
// would delay the picture to match the sound of the same stream.
func (t *track) StreamID() string { return "perigee-" + t.kind.String() }

// Kind is pion's.
func (t *track) Kind() webrtc.RTPCodecType { return t.kind }

// sent says what became of a frame: under which RTP timestamp all of it went out.
type sent struct {
	stamp uint32
	whole bool
}

// write sends one frame; it reports false when the frame cannot be used before
// a keyframe. Once a frame is lost, wholly or in part, only a keyframe is sent:
// the numbers that a receiver sees go on without a gap, so it would decode what
// follows from the wrong picture and never ask.
func (t *track) write(f media.Frame) (out sent, usable bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.out == nil {
		return sent{}, true, nil
	}
	if !t.started {
		if !f.Key || !isKeyOf(t.codec, f.Data) {
			return sent{}, false, nil
		}
		t.started = true
	}
	out.stamp = t.clock.stamp(f.PTS, t.now())
	if out.whole, err = t.send(f, out.stamp); out.whole {
		t.sums.frame(out.stamp, f.Captured)
	}
	if !out.whole && t.kind == webrtc.RTPCodecTypeVideo {
		t.started = false
		return out, false, err
	}
	return out, true, err
}

// send sends a frame's packets; false says that not all of them went out. mu is held.
func (t *track) send(f media.Frame, ts uint32) (bool, error) {
	parts := t.pay.Payload(packetSize, f.Data)
	if f.Key && t.keyframe != nil {
		t.keyframe(t.ssrc, t.seq+1)
	}
	for i, part := range parts {
		t.seq++
		h := rtp.Header{Version: 2, Marker: i == len(parts)-1 && t.kind == webrtc.RTPCodecTypeVideo,
			PayloadType: t.pt, SequenceNumber: t.seq, Timestamp: ts, SSRC: t.ssrc}
		if i == 0 && t.capture != 0 && f.Captured != 0 {
			if err := h.SetExtension(t.capture, captureTime(f.Captured, media.Now(), t.now())); err != nil {
				return false, fmt.Errorf("stamp %s packet: %w", t.kind, err)
			}
		}
		n, err := t.out.WriteRTP(&h, part)
		if err != nil {
			return false, fmt.Errorf("send %s packet: %w", t.kind, err)
		}
		if n == 0 { // pion's silent way to say that the keys are not there yet
			return false, nil
		}
		t.sums.packets, t.sums.octets = t.sums.packets+1, t.sums.octets+uint32(len(part))
	}
	return len(parts) > 0, nil
}

// captureTime is the abs-capture-time extension (webrtc.googlesource.com,
// docs/native-code/rtp-hdrext/abs-capture-time) of a picture taken at captured
// on the monotonic clock, which reads mono now: NTP seconds in 32.32 bits.
func captureTime(captured, mono int64, now time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, ntpTime(now.Add(time.Duration(captured-mono))))
}

// await has the next picture that is sent be a keyframe.
func (t *track) await() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.started = false
}

// restart waits for a keyframe: the frames that follow are another encoder's.
func (t *track) restart() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.started = t.kind == webrtc.RTPCodecTypeAudio
	t.clock.jumped = true
}

// clock turns presentation times into RTP timestamps that only grow, across
// encode processes whose times start afresh.
type clock struct {
	rate uint64
	base uint32

	begun  bool
	jumped bool
	offset time.Duration // added to a PTS
	pts    time.Duration // the last one, with offset
	at     time.Time     // when it came
}

func (c *clock) stamp(pts time.Duration, now time.Time) uint32 {
	p := pts + c.offset
	if c.begun && (c.jumped || p < c.pts) {
		p = c.pts + max(now.Sub(c.at), time.Millisecond)
		c.offset = p - pts
	}
	c.begun, c.jumped, c.pts, c.at = true, false, p, now
	return c.base + uint32(uint64(p)/1000*c.rate/1_000_000)
}
