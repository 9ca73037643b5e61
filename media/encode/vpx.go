package encode

/*
#cgo pkg-config: libavcodec vpx
#include <libavcodec/avcodec.h>
#include <vpx/vpx_encoder.h>
#include <vpx/vp8cx.h>
#include "job.h"

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

// perigee_vpx_speed sets cpu-used, for which FFmpeg allows VP9 8 at most.
static void perigee_vpx_speed(AVCodecContext *cc, int speed) {
	vpx_codec_ctx_t *vpx = perigee_vpx(cc);
	if (vpx)
		vpx_codec_control(vpx, VP8E_SET_CPUUSED, speed);
}

// How often a block that is passed over is looked at all the same: the loop
// filter wears it off.
#define PERIGEE_REFRESH 4

// perigee_vpx_hint makes libvpx pass over the macroblocks that did not change for
// a while, but for one in every PERIGEE_REFRESH, another in each picture. None
// while the bitrate holds the picture down, or when it is encoded again just to
// get sharper.
int perigee_vpx_hint(struct perigee_job *j) {
	vpx_codec_ctx_t *vpx = j->vpx;
	if (!vpx)
		return 0; // it encodes them all, as it does without us
	j->sharp = j->count && j->quantiser >= 0 && j->quantiser <= PERIGEE_SHARP ? j->sharp + 1 : 0;
	const int n = j->cols * j->rows, pass = j->sharp >= PERIGEE_SETTLED && j->fresh && j->fresh < n;
	for (int i = 0; pass && i < n; i++)
		j->map[i] = j->age[i] < PERIGEE_SETTLED || (i + j->count) % PERIGEE_REFRESH == 0;
	vpx_active_map_t active = {pass ? j->map : 0, j->rows, j->cols};
	return vpx_codec_control(vpx, VP8E_SET_ACTIVEMAP, &active) == VPX_CODEC_OK ? 0 : AVERROR_EXTERNAL;
}
*/
import "C"

import (
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

// vp8 is libvpx's VP8. static-thresh 1 lets it skip blocks that did not change
// at all, the common case on a screen.
func vp8() recipe {
	return recipe{name: "libvpx", sharp: C.PERIGEE_SHARP, rate: vpxRate, hints: []unsafe.Pointer{C.perigee_vpx_hint}, faster: map[string]string{"cpu-used": strconv.Itoa(vp8Fast)}, options: func(c Config) map[string]string {
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
	return recipe{name: "libvpx-vp9", sharp: C.PERIGEE_SHARP, rate: vpxRate, hints: []unsafe.Pointer{unbalance(), C.perigee_vpx_hint}, faster: map[string]string{}, opened: vp9Opened, favour: vp9Favour, options: func(c Config) map[string]string {
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
