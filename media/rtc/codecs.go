package rtc

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/pion/rtp"
	"github.com/pion/rtp/codecs"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
)

// payload is how a codec stands in an offer. The H.264 level is the lowest that
// every browser names; level asymmetry lets us send higher ones.
type payload struct {
	codec api.Codec
	mime  string
	fmtp  string
	pt    webrtc.PayloadType // its retransmissions: pt+1
}

var payloads = []payload{
	{api.VP8, webrtc.MimeTypeVP8, "", 96},
	{api.VP9, webrtc.MimeTypeVP9, "profile-id=0", 98},
	{api.H264, webrtc.MimeTypeH264, "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f", 102},
	{api.AV1, webrtc.MimeTypeAV1, "", 45},
	// Level 5.1, above all sizes: browsers answer with their own, and decode beyond it.
	{api.H265, webrtc.MimeTypeH265, "level-id=153;profile-id=1;tier-flag=0;tx-mode=SRST", 49},
}

const (
	videoClock = 90_000
	audioPT    = 111
	parityPT   = 118
	audioFmtp  = "minptime=10;useinbandfec=1;stereo=1;sprop-stereo=1"
)

// Header extensions we write.
const (
	uriTransportCC  = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
	uriAbsSendTime  = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
	uriPlayoutDelay = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
	// When a picture or a block of sound was taken, for receivers that measure.
	uriAbsCaptureTime = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time"
)

// Preference orders the allowed codecs: those the client named first, in its
// order, then the others. Names that are no codec are ignored.
func Preference(client []string, allowed []api.Codec) []api.Codec {
	var out []api.Codec
	add := func(c api.Codec) {
		if slices.Contains(allowed, c) && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	for _, name := range client {
		if c, err := api.ParseCodec(name); err == nil {
			add(c)
		}
	}
	for _, c := range allowed {
		add(c)
	}
	return out
}

// mediaEngine offers the codecs in their order.
func mediaEngine(order []api.Codec) (*webrtc.MediaEngine, error) {
	m := &webrtc.MediaEngine{}
	feedback := []webrtc.RTCPFeedback{{Type: "goog-remb"}, {Type: "transport-cc"}, {Type: "ccm", Parameter: "fir"},
		{Type: "nack"}, {Type: "nack", Parameter: "pli"}}
	register := func(pt webrtc.PayloadType, kind webrtc.RTPCodecType, c webrtc.RTPCodecCapability) error {
		if err := m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: c, PayloadType: pt}, kind); err != nil {
			return fmt.Errorf("register codec %s: %w", c.MimeType, err)
		}
		return nil
	}
	for _, c := range order {
		i := slices.IndexFunc(payloads, func(p payload) bool { return p.codec == c })
		if i < 0 {
			return nil, api.Invalidf("codecs", "%q cannot be streamed", c)
		}
		p := payloads[i]
		if err := register(p.pt, webrtc.RTPCodecTypeVideo, webrtc.RTPCodecCapability{
			MimeType: p.mime, ClockRate: videoClock, SDPFmtpLine: p.fmtp, RTCPFeedback: feedback}); err != nil {
			return nil, err
		}
		if err := register(p.pt+1, webrtc.RTPCodecTypeVideo, webrtc.RTPCodecCapability{
			MimeType: webrtc.MimeTypeRTX, ClockRate: videoClock, SDPFmtpLine: fmt.Sprintf("apt=%d", p.pt)}); err != nil {
			return nil, err
		}
	}
	// Parity packets: browsers decode this one (our test with a real one shows it).
	if err := register(parityPT, webrtc.RTPCodecTypeVideo, webrtc.RTPCodecCapability{
		MimeType: webrtc.MimeTypeFlexFEC03, ClockRate: videoClock, SDPFmtpLine: "repair-window=10000000"}); err != nil {
		return nil, err
	}
	if err := register(audioPT, webrtc.RTPCodecTypeAudio, webrtc.RTPCodecCapability{
		MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2, SDPFmtpLine: audioFmtp,
		RTCPFeedback: []webrtc.RTCPFeedback{{Type: "transport-cc"}}}); err != nil {
		return nil, err
	}
	for _, e := range []struct {
		uri  string
		kind webrtc.RTPCodecType
	}{
		{uriTransportCC, webrtc.RTPCodecTypeVideo}, {uriTransportCC, webrtc.RTPCodecTypeAudio},
		{uriAbsSendTime, webrtc.RTPCodecTypeVideo}, {uriPlayoutDelay, webrtc.RTPCodecTypeVideo},
		{uriAbsCaptureTime, webrtc.RTPCodecTypeVideo}, {uriAbsCaptureTime, webrtc.RTPCodecTypeAudio},
	} {
		if err := m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: e.uri}, e.kind); err != nil {
			return nil, fmt.Errorf("register header extension: %w", err)
		}
	}
	return m, nil
}

// codecOf names the codec of a MIME type.
func codecOf(mime string) (api.Codec, bool) {
	for _, p := range payloads {
		if strings.EqualFold(p.mime, mime) {
			return p.codec, true
		}
	}
	return "", false
}

// payloader cuts frames of a codec into packets.
func payloader(mime string) rtp.Payloader {
	switch {
	case strings.EqualFold(mime, webrtc.MimeTypeVP8):
		return &codecs.VP8Payloader{EnablePictureID: true}
	case strings.EqualFold(mime, webrtc.MimeTypeVP9):
		// Not flexible mode: pion leaves the P bit out there, browsers take every
		// picture for a keyframe, pass over late ones and decode from what they have.
		return &codecs.VP9Payloader{}
	case strings.EqualFold(mime, webrtc.MimeTypeAV1):
		return &codecs.AV1Payloader{}
	case strings.EqualFold(mime, webrtc.MimeTypeH264):
		return &codecs.H264Payloader{}
	case strings.EqualFold(mime, webrtc.MimeTypeH265):
		return &codecs.H265Payloader{}
	default:
		return &codecs.OpusPayloader{}
	}
}

// isKeyOf says whether a keyframe's first bytes are of this codec. After a
// change of codec the encode process may still send the old one's frames.
func isKeyOf(c api.Codec, data []byte) bool {
	switch c {
	case api.H264, api.H265:
		unit, ok := afterStartCode(data)
		return ok && isH265(unit) == (c == api.H265)
	case api.VP8: // RFC 6386, 9.1
		return len(data) > 5 && data[0]&1 == 0 && bytes.Equal(data[3:6], []byte{0x9d, 0x01, 0x2a})
	case api.VP9: // frame_marker, and frame_sync_code of a key frame of profile 0
		return len(data) > 3 && data[0]&0xc0 == 0x80 && bytes.Equal(data[1:4], []byte{0x49, 0x83, 0x42})
	case api.AV1: // a temporal delimiter or a sequence header
		return len(data) > 1 && (data[0] == 0x12 && data[1] == 0 || data[0] == 0x0a)
	}
	return false
}

// afterStartCode gives what follows the first start code (Rec. ITU-T H.264, annex B).
func afterStartCode(data []byte) ([]byte, bool) {
	unit, ok := bytes.CutPrefix(data, []byte{0, 0, 0, 1})
	if !ok {
		unit, ok = bytes.CutPrefix(data, []byte{0, 0, 1})
	}
	return unit, ok && len(unit) > 1
}

// isH265 tells the unit that a keyframe of H.265 begins with from one of H.264: a
// delimiter, parameter set, SEI or picture of random access (Rec. ITU-T H.265,
// 7.3.1.2 and table 7-1) in the base layer; H.264 has no unit with such a header.
func isH265(unit []byte) bool {
	const layers = 0x81 // of the first byte: forbidden_zero_bit, and nuh_layer_id's highest
	kind := unit[0] >> 1
	return unit[0]&layers == 0 && unit[1] == 1 && (kind >= 32 && kind <= 35 || kind == 39 || kind >= 16 && kind <= 21)
}
