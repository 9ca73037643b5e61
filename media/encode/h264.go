//go:build !nox264

package encode

/*
#cgo pkg-config: libavutil
#include <libavutil/frame.h>
#include <libavutil/video_hint.h>
#include "job.h"

// perigee_x264_hint attaches the runs of changed macroblocks (age 0) to the
// picture; FFmpeg hands them to x264, which skips the others without a look,
// unless it can now afford to code them finer than they are.
int perigee_x264_hint(struct perigee_job *j) {
	AVFrame *f = j->frame;
	const uint8_t *age = j->age;
	const int cols = j->cols, rows = j->rows;
	av_frame_remove_side_data(f, AV_FRAME_DATA_VIDEO_HINT);
	if (j->fresh == cols * rows)
		return 0;
	size_t n = 0;
	for (int i = 0; i < cols * rows; i++)
		n += !age[i] && (i % cols == 0 || age[i - 1]);
	AVVideoHint *hint = av_video_hint_create_side_data(f, n);
	if (!hint)
		return AVERROR(ENOMEM);
	hint->type = AV_VIDEO_HINT_TYPE_CHANGED;
	AVVideoRect *r = n ? av_video_hint_rects(hint) : 0;
	for (int row = 0; row < rows; row++) {
		const uint8_t *line = age + (size_t)row * cols;
		for (int col = 0; col < cols; col++) {
			if (line[col])
				continue;
			r->x = col * 16;
			r->y = row * 16;
			r->height = 16;
			while (col < cols && !line[col])
				col++;
			r->width = col * 16 - r->x;
			r++;
		}
	}
	return 0;
}
*/
import "C"

import (
	"strconv"
	"unsafe"

	"github.com/asticode/go-astiav"
)

// vbvFrames is how many pictures' worth of bits x264 may spend on one: small,
// so that no picture, not even a key, is long on the wire.
const vbvFrames = 3

// x264Sharp is the quantiser up to which text comes out at 45 dB or more (24 gave
// 46 to 48 dB on recordings of text and a game).
const x264Sharp = 22

// h264 is libx264. ultrafast is the one preset whose cost leaves room for
// several streams a core (22 % of one at 720p60, ground measurements);
// zerolatency has no look-ahead and no B-frames; forced-idr makes a picture
// that is asked to be a key an IDR, which a decoder can start with.
func h264() (recipe, bool) {
	vbv := func(c Config) int { return c.BitrateKbps * 1000 / c.FPS * vbvFrames }
	return recipe{
		name: "libx264", sharp: x264Sharp,
		options: func(c Config) map[string]string {
			return map[string]string{
				"preset":     "ultrafast",
				"tune":       "zerolatency",
				"profile":    "baseline", // what every WebRTC peer must decode (RFC 7742, 6.2)
				"forced-idr": "1",
				"mb_info":    "1",
				"maxrate":    strconv.Itoa(c.BitrateKbps * 1000),
				"bufsize":    strconv.Itoa(vbv(c)),
			}
		},
		// libx264's wrapper compares these with what it last set, at each frame.
		rate: func(cc *astiav.CodecContext, c Config) error {
			cc.SetBitRate(int64(c.BitrateKbps) * 1000)
			cc.SetRateControlMaxRate(int64(c.BitrateKbps) * 1000)
			cc.SetRateControlBufferSize(vbv(c))
			return nil
		},
		hints: []unsafe.Pointer{C.perigee_x264_hint},
	}, true
}
