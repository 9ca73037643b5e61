package encode

/*
#cgo pkg-config: libavutil
#cgo LDFLAGS: -lyuv
#include <string.h>
#include <libavutil/frame.h>
#include <libyuv/convert.h>
#include "job.h"

// A vector of the compiler's: 16 pixels of a row.
typedef uint64_t perigee_16 __attribute__((vector_size(16)));

#define PERIGEE_LINE 4096 // pixels of a row at most, a whole number of vectors

// perigee_plane compares a strip of a plane with the picture's, row after row as
// they lie in memory, and marks in differs which of its parts, side pixels wide,
// are not the same.
static void perigee_plane(const uint8_t *to, int to_stride, const uint8_t *from, int from_stride, int w, int h,
		int side, uint8_t *differs) {
	perigee_16 sum[PERIGEE_LINE / 16];
	const int n = (w + 15) / 16;
	memset(sum, 0, (size_t)n * 16);
	for (int y = 0; y < h; y++, to += to_stride, from += from_stride)
		for (int i = 0; i < n; i++) {
			perigee_16 p, q;
			memcpy(&p, to + i * 16, 16);
			memcpy(&q, from + i * 16, 16);
			sum[i] |= p ^ q;
		}
	const uint8_t *s = (const uint8_t *)sum;
	for (int x = 0, i = 0; x < w; x += side, i++) {
		uint64_t d[2] = {0, 0};
		memcpy(d, s + x, x + side < w ? side : w - x);
		differs[i] |= (d[0] | d[1]) != 0;
	}
}

static void perigee_put(uint8_t *to, int to_stride, const uint8_t *from, int from_stride, int w, int h) {
	for (int y = 0; y < h; y++)
		memcpy(to + (size_t)y * to_stride, from + (size_t)y * from_stride, w);
}

static int perigee_less(int a, int b) { return a < b ? a : b; }

// perigee_strip takes a run of macroblocks in a row, of w by h pixels at (x, y),
// that scratch holds as three planes of 16, 8 and 8 rows.
static void perigee_strip(struct perigee_job *j, int x, int y, int w, int h, uint8_t *age) {
	AVFrame *f = j->frame;
	const int line = j->cols * 16, half = j->cols * 8, n = (w + 15) / 16;
	const uint8_t *from[3] = {j->scratch, j->scratch + (size_t)line * 16, j->scratch + (size_t)line * 16 + (size_t)half * 8};
	uint8_t *to[3] = {f->data[0] + (size_t)y * f->linesize[0] + x, f->data[1] + (size_t)(y / 2) * f->linesize[1] + x / 2,
		f->data[2] + (size_t)(y / 2) * f->linesize[2] + x / 2};
	uint8_t differs[PERIGEE_LINE / 16] = {0};
	perigee_plane(to[0], f->linesize[0], from[0], line, w, h, 16, differs);
	perigee_plane(to[1], f->linesize[1], from[1], half, w / 2, h / 2, 8, differs);
	perigee_plane(to[2], f->linesize[2], from[2], half, w / 2, h / 2, 8, differs);
	for (int i = 0; i < n; i++) {
		if (j->all)
			age[i] = 0;
		if (!differs[i])
			continue;
		const int first = i;
		for (; i < n && differs[i]; i++)
			age[i] = 0;
		const int left = first * 16, wide = perigee_less(i * 16, w) - left;
		perigee_put(to[0] + left, f->linesize[0], from[0] + left, line, wide, h);
		perigee_put(to[1] + left / 2, f->linesize[1], from[1] + left / 2, half, wide / 2, h / 2);
		perigee_put(to[2] + left / 2, f->linesize[2], from[2] + left / 2, half, wide / 2, h / 2);
		i--;
	}
}

// perigee_convert converts the touched macroblocks, each run of them in a row at
// once, into scratch and from there into the picture where they differ; their age
// is then 0. BGRA in memory is what libyuv calls ARGB (a little-endian word).
int perigee_convert(struct perigee_job *j) {
	if (av_frame_make_writable(j->frame) < 0) // the encoder may still read it
		return -1;
	const int line = j->cols * 16, half = j->cols * 8;
	uint8_t *sy = j->scratch, *su = sy + (size_t)line * 16, *sv = su + (size_t)half * 8;
	for (int row = 0; row < j->rows; row++) {
		const uint8_t *t = j->touched + (size_t)row * j->cols;
		for (int col = 0; col < j->cols; col++) {
			if (!t[col])
				continue;
			const int first = col;
			while (col < j->cols && t[col])
				col++;
			const int x = first * 16, y = row * 16;
			const int w = perigee_less(col * 16, j->frame->width) - x, h = perigee_less(y + 16, j->frame->height) - y;
			if (ARGBToI420(j->bgra + (size_t)y * j->stride + (size_t)x * 4, j->stride, sy, line, su, half, sv, half, w, h))
				return -1;
			perigee_strip(j, x, y, w, h, j->age + (size_t)row * j->cols + first);
		}
	}
	return 0;
}
*/
import "C"

import (
	"errors"
	"runtime"
	"unsafe"
)

// convert looks at the touched blocks of a BGRA picture and writes into the I420
// frame those that differ from what it holds; all: every one counts as changed.
// libyuv takes a tenth of libswscale's time for this.
func (v *Video) convert(pix []byte, stride int, all bool) error {
	var pin runtime.Pinner // does nothing for shared memory
	pin.Pin(&pix[0])
	defer pin.Unpin()
	j := v.job
	j.bgra, j.stride, j.all = (*C.uint8_t)(unsafe.Pointer(&pix[0])), C.int(stride), 0
	if all {
		j.all = 1
	}
	n, err := v.worker.do(C.perigee_convert, unsafe.Pointer(j))
	if err == nil && n != 0 {
		err = errors.New("convert picture: refused, or out of memory")
	}
	v.blocks.looked()
	return err
}
