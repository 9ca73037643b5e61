package rtc

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/rtp"
	"github.com/pion/rtp/codecs"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
)

// wire takes a track's packets; after spare of them it fails as told.
type wire struct {
	packets []*rtp.Packet
	failing bool
	spare   int
	err     error
}

// WriteRTP is pion's.
func (w *wire) WriteRTP(h *rtp.Header, payload []byte) (int, error) {
	if w.failing {
		if w.spare == 0 {
			return 0, w.err
		}
		w.spare--
	}
	w.packets = append(w.packets, &rtp.Packet{Header: *h, Payload: payload})
	return len(payload), nil
}

// Write is pion's.
func (w *wire) Write([]byte) (int, error) { return 0, errors.New("not used") }

// binding is what pion hands to Bind.
type binding struct {
	codec webrtc.RTPCodecParameters
	out   *wire
}

func (b binding) CodecParameters() []webrtc.RTPCodecParameters {
	return []webrtc.RTPCodecParameters{b.codec}
}
func (b binding) HeaderExtensions() []webrtc.RTPHeaderExtensionParameter { return nil }
func (b binding) SSRC() webrtc.SSRC                                      { return 7 }
func (b binding) SSRCRetransmission() webrtc.SSRC                        { return 0 }
func (b binding) SSRCForwardErrorCorrection() webrtc.SSRC                { return 0 }
func (b binding) WriteStream() webrtc.TrackLocalWriter                   { return b.out }
func (b binding) ID() string                                             { return "test" }
func (b binding) RTCPReader() interceptor.RTCPReader                     { return nil }

func newBound(t *testing.T, codec api.Codec) (*track, *wire) {
	t.Helper()
	tr, out := newTrack(webrtc.RTPCodecTypeVideo, []api.Codec{codec}, func(api.Codec) {}), &wire{}
	for _, p := range payloads {
		if p.codec != codec {
			continue
		}
		c := webrtc.RTPCodecParameters{RTPCodecCapability: webrtc.RTPCodecCapability{MimeType: p.mime, ClockRate: videoClock}, PayloadType: p.pt}
		if _, err := tr.Bind(binding{codec: c, out: out}); err != nil {
			t.Fatal(err)
		}
	}
	return tr, out
}

// delta gives the smallest thing that passes for a picture that needs an earlier one.
func delta(c api.Codec, size int) []byte {
	head := map[api.Codec][]byte{
		api.H264: {0, 0, 0, 1, 0x41},
		api.VP8:  {0x11, 0, 0},
		api.VP9:  {0x86, 0x00, 0x40, 0x92},
		api.AV1:  {0x12, 0x00, 0x30},
		api.H265: {0, 0, 0, 1, 0x02, 0x01},
	}[c]
	return append(head, make([]byte, size)...)
}

// asKey reads a picture's first packet as a browser does, which looks no further
// to tell whether the picture needs an earlier one (libwebrtc,
// modules/rtp_rtcp/source/video_rtp_depacketizer_*.cc).
func asKey(t *testing.T, c api.Codec, p []byte) bool {
	t.Helper()
	switch c {
	case api.H264:
		kind := p[0] & 0x1f
		if kind == 28 { // a fragment
			kind = p[1] & 0x1f
		}
		return kind == 24 || kind == 7 || kind == 5 // with its parameter sets in front
	case api.H265:
		kind := p[0] >> 1 & 0x3f
		if kind == 49 { // a fragment
			kind = p[2] & 0x3f
		}
		return kind == 48 || kind >= 32 && kind <= 34 || kind >= 16 && kind <= 21
	case api.VP8:
		var v codecs.VP8Packet
		b, err := v.Unmarshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return b[0]&1 == 0
	case api.VP9:
		var v codecs.VP9Packet
		if _, err := v.Unmarshal(p); err != nil {
			t.Fatal(err)
		}
		return !v.P
	default:
		return p[0]&0x08 != 0
	}
}

// A picture that passes for a keyframe may be shown without the ones before it.
func TestPacketsSayWhichPicturesAreKeys(t *testing.T) {
	for _, codec := range api.Codecs() {
		t.Run(string(codec), func(t *testing.T) {
			tr, out := newBound(t, codec)
			for i, key := range []bool{true, false, false, true, false} {
				f := media.Frame{Kind: media.Video, Key: key, PTS: time.Duration(i) * time.Millisecond, Data: delta(codec, 3000)}
				if key {
					f.Data = keyframe(codec, 3000)
				}
				out.packets = nil
				if _, usable, err := tr.write(f); !usable || err != nil {
					t.Fatalf("picture %d: usable %v, %v", i, usable, err)
				}
				if len(out.packets) < 3 {
					t.Fatalf("picture %d: %d packets, want several", i, len(out.packets))
				}
				if got := asKey(t, codec, out.packets[0].Payload); got != key {
					t.Errorf("picture %d passes for a keyframe: %v, want %v", i, got, key)
				}
			}
		})
	}
}

// A receiver cannot see that a picture is missing which was never numbered.
func TestAfterALostPictureComesAKeyframe(t *testing.T) {
	for _, lost := range []struct {
		name  string
		spare int
		err   error
	}{
		{"silently", 0, nil}, {"in part", 1, nil}, {"with an error", 0, errors.New("no way")}, {"in part with an error", 2, errors.New("no way")},
	} {
		t.Run(lost.name, func(t *testing.T) {
			for _, codec := range api.Codecs() {
				tr, out := newBound(t, codec)
				write := func(key bool) (bool, error) {
					f := media.Frame{Kind: media.Video, Key: key, Data: delta(codec, 3000)}
					if key {
						f.Data = keyframe(codec, 3000)
					}
					_, usable, err := tr.write(f)
					return usable, err
				}
				for _, key := range []bool{true, false} {
					if usable, err := write(key); !usable || err != nil {
						t.Fatalf("%s: usable %v, %v", codec, usable, err)
					}
				}
				out.failing, out.spare, out.err = true, lost.spare, lost.err
				if usable, err := write(false); usable || !errors.Is(err, lost.err) {
					t.Errorf("%s: a lost picture: usable %v, %v", codec, usable, err)
				}
				out.failing, out.packets = false, nil
				if usable, err := write(false); usable || err != nil || len(out.packets) > 0 {
					t.Errorf("%s: the picture after it: usable %v, %v, %d packets", codec, usable, err, len(out.packets))
				}
				if usable, err := write(true); !usable || err != nil || len(out.packets) == 0 {
					t.Errorf("%s: the keyframe after it: usable %v, %v, %d packets", codec, usable, err, len(out.packets))
				}
			}
		})
	}
}

// Bytes of RFC 5905's NTP time: 2026-01-01 00:00:00.5 UTC is 3976214400.5 s.
func TestCaptureTime(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 2, 0, time.UTC)
	const mono = int64(7e9)
	got := captureTime(mono-int64(1500*time.Millisecond), mono, now)
	if want := []byte{0xed, 0x00, 0x37, 0x80, 0x80, 0, 0, 0}; !bytes.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
}

// What the payloader cannot cut is lost, too.
func TestAPictureWithoutPacketsIsLost(t *testing.T) {
	tr, out := newBound(t, api.VP9)
	if _, usable, err := tr.write(media.Frame{Kind: media.Video, Key: true, Data: keyframe(api.VP9, 10)}); !usable || err != nil {
		t.Fatalf("usable %v, %v", usable, err)
	}
	out.packets = nil
	if _, usable, err := tr.write(media.Frame{Kind: media.Video, Data: []byte{0}}); usable || err != nil {
		t.Errorf("a broken picture: usable %v, %v", usable, err)
	}
	if _, usable, _ := tr.write(media.Frame{Kind: media.Video, Data: delta(api.VP9, 10)}); usable || len(out.packets) > 0 {
		t.Error("the picture after it went out")
	}
}
