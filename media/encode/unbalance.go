package encode

/*
#cgo pkg-config: libavcodec vpx
#include <stdlib.h>
#include <libavcodec/avcodec.h>
#include <vpx/vp8.h>
#include <vpx/vpx_encoder.h>
#include "job.h"

#define PERIGEE_SHIFT 2 // of 219 steps
// The least change of a part's luma, summed up, that is left as it is: libvpx
// takes sse for equal to variance up to 63 in 64x64.
#define PERIGEE_LEAST 128

// What libvpx may code as one: quarters of 64x64 (bits 0 to 3), their rows and
// columns, the whole.
static const int perigee_unions[] = {1, 2, 4, 8, 3, 12, 5, 10, 15};

// perigee_quarter is 32x32 of a picture, less at its edges.
struct perigee_quarter {
	int change;   // sum of what the picture has more than the one before as coded
	int room;     // by how much the change can be changed; 0: no block is new
	uint8_t *at;  // of that block
	int w, h;
};

static int perigee_min(int a, int b) { return a < b ? a : b; }

static void perigee_measure(struct perigee_quarter *q, const AVFrame *f, const vpx_image_t *before, const uint8_t *age,
		int cols, int x, int y) {
	const int w = perigee_min(32, f->width - x), h = perigee_min(32, f->height - y);
	for (int row = 0; row < h; row++) {
		const uint8_t *a = f->data[0] + (size_t)(y + row) * f->linesize[0] + x;
		const uint8_t *b = before->planes[0] + (size_t)(y + row) * before->stride[0] + x;
		int sum = 0;
		for (int i = 0; i < w; i++)
			sum += a[i] - b[i];
		q->change += sum;
	}
	for (int by = 0; by < h; by += 16)
		for (int bx = 0; bx < w; bx += 16) {
			const int bw = perigee_min(16, w - bx), bh = perigee_min(16, h - by);
			if (age[(y + by) / 16 * cols + (x + bx) / 16] || bw * bh * PERIGEE_SHIFT <= q->room)
				continue;
			q->room = bw * bh * PERIGEE_SHIFT;
			q->at = f->data[0] + (size_t)(y + by) * f->linesize[0] + x + bx;
			q->w = bw;
			q->h = bh;
		}
}

// perigee_uneven tells whether every union with a new block gets clearly lighter
// or darker when by says for each quarter in which direction its block is shifted.
static int perigee_uneven(const struct perigee_quarter *quarters, const int *by, int least) {
	for (int u = 0; u < 9; u++) {
		int sum = 0, fresh = 0;
		for (int i = 0; i < 4; i++)
			if (perigee_unions[u] >> i & 1) {
				sum += quarters[i].change + by[i] * quarters[i].room;
				fresh |= quarters[i].room;
			}
		if (fresh && abs(sum) < least)
			return 0;
	}
	return 1;
}

static void perigee_shift(const struct perigee_quarter *q, int stride, int by) {
	for (int y = 0; y < q->h; y++)
		for (int x = 0; x < q->w; x++)
			q->at[(size_t)y * stride + x] += by * PERIGEE_SHIFT; // studio range: 16 to 235
}

// perigee_part goes through the 64x64 at (x, y).
static void perigee_part(AVFrame *f, const vpx_image_t *before, const uint8_t *age, int cols, int x, int y, int least) {
	struct perigee_quarter quarters[4] = {0};
	for (int i = 0; i < 4; i++)
		if (x + i % 2 * 32 < f->width && y + i / 2 * 32 < f->height)
			perigee_measure(quarters + i, f, before, age, cols, x + i % 2 * 32, y + i / 2 * 32);
	for (int n = 0; n < 81; n++) {
		int by[4], rest = n;
		for (int i = 0; i < 4; i++, rest /= 3)
			by[i] = rest % 3 == 2 ? -1 : rest % 3;
		if (!perigee_uneven(quarters, by, least))
			continue;
		for (int i = 0; i < 4; i++)
			if (by[i] && quarters[i].room)
				perigee_shift(quarters + i, f->linesize[0], by[i]);
		return;
	}
}

static int perigee_fresh(const uint8_t *age, int cols, int rows, int left, int top) {
	for (int row = top; row < perigee_min(top + 4, rows); row++)
		for (int col = left; col < perigee_min(left + 4, cols); col++)
			if (!age[row * cols + col])
				return 1;
	return 0;
}

// perigee_unbalance does nothing without a picture before this one.
int perigee_unbalance(struct perigee_job *j) {
	AVFrame *f = j->frame;
	vp9_ref_frame_t before = {0};
	if (!j->vpx || !j->fresh || !j->count)
		return 0;
	if (vpx_codec_control((vpx_codec_ctx_t *)j->vpx, VP9_GET_REFERENCE, &before) != VPX_CODEC_OK || !before.img.planes[0] ||
			before.img.d_w < f->width || before.img.d_h < f->height)
		return 0;
	for (int top = 0; top < j->rows; top += 4)
		for (int left = 0; left < j->cols; left += 4)
			if (perigee_fresh(j->age, j->cols, j->rows, left, top))
				perigee_part(f, &before.img, j->age, j->cols, left * 16, top * 16, PERIGEE_LEAST);
	return 0;
}
*/
import "C"

import "unsafe"

// unbalance helps libvpx's VP9 to see changes that cancel out. Its fast mode
// (vp9_pickmode.c, model_rd_for_sb_y_large: "sse == var") takes a part of 32x32
// or more whose transform blocks each changed evenly, and whose changes sum up
// to nothing, for unchanged: two cells of a board that swap black and white stay
// as they were. Where that could be, one new macroblock becomes two steps of 219
// lighter or darker.
func unbalance() unsafe.Pointer { return C.perigee_unbalance }
