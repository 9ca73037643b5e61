package encode

/*
#cgo pkg-config: libavcodec vpx
#include <libavcodec/avcodec.h>
#include <vpx/vpx_encoder.h>
#include <vpx/vp8cx.h>

// The start of FFmpeg's private VPxEncoderContext (libavcodec/libvpxenc.c,
// unchanged since 2010): a class, then libvpx's own context.
struct perigee_vpx {
	const void *class;
	vpx_codec_ctx_t encoder;
};

// perigee_vpx finds libvpx's context. The layout is private, so it is believed
// only if libvpx's own interface pointer stands where it should.
static vpx_codec_ctx_t *perigee_vpx(AVCodecContext *cc) {
	struct perigee_vpx *p = cc->priv_data;
	if (p->encoder.iface != vpx_codec_vp8_cx() && p->encoder.iface != vpx_codec_vp9_cx())
		return 0;
	return p->encoder.config.enc ? &p->encoder : 0;
}

// perigee_vpx_rate sets the bitrate of an open encoder, in kb/s: FFmpeg has no
// way to, libvpx has. Not 0: it cannot be done.
static int perigee_vpx_rate(AVCodecContext *cc, unsigned kbps) {
	vpx_codec_ctx_t *vpx = perigee_vpx(cc);
	if (!vpx)
		return 1;
	vpx_codec_enc_cfg_t cfg = *vpx->config.enc;
	cfg.rc_target_bitrate = kbps;
	return vpx_codec_enc_config_set(vpx, &cfg) != VPX_CODEC_OK;
}

// perigee_vpx_quantiser gives the quantiser of the picture encoded last, 0 to 63;
// 63 if it is not known.
static int perigee_vpx_quantiser(AVCodecContext *cc) {
	vpx_codec_ctx_t *vpx = perigee_vpx(cc);
	int q = 63;
	return !vpx || vpx_codec_control(vpx, VP8E_GET_LAST_QUANTIZER_64, &q) != VPX_CODEC_OK ? 63 : q;
}

// perigee_vpx_speed sets cpu-used, for which FFmpeg allows VP9 8 at most.
static void perigee_vpx_speed(AVCodecContext *cc, int speed) {
	vpx_codec_ctx_t *vpx = perigee_vpx(cc);
	if (vpx)
		vpx_codec_control(vpx, VP8E_SET_CPUUSED, speed);
}

// perigee_vpx_active makes libvpx pass over the macroblocks older than settled
// (0: over none), but for one in every refresh, another at each tick.
static int perigee_vpx_active(AVCodecContext *cc, const uint8_t *age, uint8_t *map, int cols, int rows, int settled,
		int refresh, int tick) {
	vpx_codec_ctx_t *vpx = perigee_vpx(cc);
	if (!vpx)
		return 0; // it encodes them all, as it does without us
	for (int i = 0; i < cols * rows; i++)
		map[i] = !settled || age[i] < settled || (i + tick) % refresh == 0;
	vpx_active_map_t active = {settled ? map : 0, rows, cols};
	return vpx_codec_control(vpx, VP8E_SET_ACTIVEMAP, &active) != VPX_CODEC_OK;
}
*/
import "C"

import (
	"errors"
	"strconv"
	"unsafe"

	"github.com/asticode/go-astiav"

	"github.com/perigee-cloud/perigee/api"
)

// Settings of libvpx as WebRTC's own encoders use them
// (modules/video_coding/codecs/vp8, vp9), but where a reason is given.
const (
	vp9Speed    = 8  // cpu-used
	vp9Fast     = 9  // the fastest of VP9 (libvpx takes -9 to 9)
	vp8Speed    = -6 // as WebRTC: fixed, where 6 itself may take half of a picture's time to look better
	vp8Fast     = -12
	vpxQMin     = 10 // 2 spends twice the bits, and the time to code them, on what no eye sees
	vpxQMax     = 56
	vpxBufferMS = 300 // how far the rate controller may run ahead
	vpxKeyMS    = 150 // a key may take this long at the bitrate
)

func vpxOptions(c Config) map[string]string {
	bits := strconv.Itoa(c.BitrateKbps * 1000)
	return map[string]string{
		"deadline":          "realtime",
		"lag-in-frames":     "0",
		"error-resilient":   "default",
		"auto-alt-ref":      "0",
		"keyint_min":        strconv.Itoa(endless), // with g the same: no key unasked
		"minrate":           bits,
		"maxrate":           bits,
		"bufsize":           strconv.Itoa(c.BitrateKbps * vpxBufferMS),
		"rc_init_occupancy": strconv.Itoa(c.BitrateKbps * vpxBufferMS / 2),
		"max-intra-rate":    strconv.Itoa(max(c.FPS*vpxKeyMS/10, 300)), // % of one picture's share
		"undershoot-pct":    "100",
		"overshoot-pct":     "15",
		"qmin":              strconv.Itoa(vpxQMin),
		"qmax":              strconv.Itoa(vpxQMax),
	}
}

func vpxRate(cc *astiav.CodecContext, c Config) error {
	if C.perigee_vpx_rate((*C.AVCodecContext)(cc.UnsafePointer()), C.uint(c.BitrateKbps)) != 0 {
		return errReopen
	}
	return nil
}

const (
	// vpxSettled is after how many pictures without a change a block is passed
	// over, all of them encoded with a quantiser of vpxSharp or less: libvpx then
	// copies it as it is, so it must be as sharp as it gets.
	vpxSettled = 10
	vpxSharp   = vpxQMin + 4
	// vpxRefresh is how often a block that is passed over is looked at all the
	// same: the loop filter wears it off.
	vpxRefresh = 4
)

// vpxHint tells libvpx which blocks may be passed over; none while the bitrate
// holds the picture down, or when it is encoded again just to get sharper.
func vpxHint(v *Video) error {
	cc := (*C.AVCodecContext)(v.ctx.UnsafePointer())
	if v.sharp++; v.count == 0 || C.perigee_vpx_quantiser(cc) > vpxSharp {
		v.sharp = 0
	}
	settled := C.int(vpxSettled)
	if v.sharp < vpxSettled || v.blocks.fresh == 0 || v.blocks.fresh == len(v.blocks.age) {
		settled = 0
	}
	if v.active == nil {
		v.active = make([]byte, len(v.blocks.age))
	}
	if C.perigee_vpx_active(cc, (*C.uint8_t)(unsafe.Pointer(&v.blocks.age[0])),
		(*C.uint8_t)(unsafe.Pointer(&v.active[0])), C.int(v.blocks.cols), C.int(v.blocks.rows), settled,
		vpxRefresh, C.int(v.count%vpxRefresh)) != 0 {
		return errors.New("libvpx refused the active map")
	}
	return nil
}

// vp8 is libvpx's VP8. static-thresh 1 lets it skip blocks that did not change
// at all, the common case on a screen.
func vp8() recipe {
	return recipe{name: "libvpx", rate: vpxRate, hint: vpxHint, faster: map[string]string{"cpu-used": strconv.Itoa(vp8Fast)}, options: func(c Config) map[string]string {
		return with(vpxOptions(c), map[string]string{
			"cpu-used":      strconv.Itoa(vp8Speed),
			"static-thresh": "1",
		})
	}}
}

// vpxContext gives libvpx's context; nil if it is not where it should be.
func vpxContext(cc *astiav.CodecContext) unsafe.Pointer {
	return unsafe.Pointer(C.perigee_vpx((*C.AVCodecContext)(cc.UnsafePointer())))
}

func vp9Hint(v *Video) error {
	v.unbalance()
	return vpxHint(v)
}

// vp9Opened sets the speed that FFmpeg does not let through. Where libvpx cannot
// be reached the default stays: it then measures no faster, and is not offered.
func vp9Opened(cc *astiav.CodecContext, c Config) {
	if c.Preset == api.PresetFast {
		C.perigee_vpx_speed((*C.AVCodecContext)(cc.UnsafePointer()), vp9Fast)
	}
}

// vp9 is libvpx's VP9. No adaptive quantisation: it helps cameras, costs a tenth
// of the time and does nothing for drawn pictures. Tile columns only where there
// are threads for them.
func vp9() recipe {
	return recipe{name: "libvpx-vp9", rate: vpxRate, hint: vp9Hint, faster: map[string]string{}, opened: vp9Opened, options: func(c Config) map[string]string {
		tiles := 0
		for 1<<(tiles+1) <= c.Threads && tiles < 2 {
			tiles++
		}
		return with(vpxOptions(c), map[string]string{
			"cpu-used":       strconv.Itoa(vp9Speed),
			"aq-mode":        "0",
			"row-mt":         strconv.Itoa(min(c.Threads-1, 1)),
			"tile-columns":   strconv.Itoa(tiles),
			"frame-parallel": "0",
		})
	}}
}
