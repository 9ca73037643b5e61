package encode

/*
#cgo pkg-config: libavutil
#cgo LDFLAGS: -lyuv
#include <stdint.h>
#include <string.h>
#include <libavutil/frame.h>
#include <libyuv/convert.h>

// Vectors of the compiler's: 16 and 8 pixels of a row.
typedef uint64_t perigee_16 __attribute__((vector_size(16)));

static inline uint64_t perigee_differ16(const uint8_t *a, int a_stride, const uint8_t *b, int b_stride) {
	perigee_16 d = {0, 0};
	for (int y = 0; y < 16; y++, a += a_stride, b += b_stride) {
		perigee_16 p, q;
		memcpy(&p, a, 16);
		memcpy(&q, b, 16);
		d |= p ^ q;
	}
	return d[0] | d[1];
}

static inline uint64_t perigee_differ8(const uint8_t *a, int a_stride, const uint8_t *b, int b_stride) {
	uint64_t d = 0;
	for (int y = 0; y < 8; y++, a += a_stride, b += b_stride) {
		uint64_t p, q;
		memcpy(&p, a, 8);
		memcpy(&q, b, 8);
		d |= p ^ q;
	}
	return d;
}

// perigee_take copies a part of a plane where it differs, and tells whether it
// does.
static inline int perigee_take(uint8_t *to, int to_stride, const uint8_t *from, int from_stride, int w, int h) {
	int differs = 0;
	if (w == 16 && h == 16) {
		differs = perigee_differ16(to, to_stride, from, from_stride) != 0;
	} else if (w == 8 && h == 8) {
		differs = perigee_differ8(to, to_stride, from, from_stride) != 0;
	} else {
		for (int y = 0; y < h && !differs; y++)
			differs = memcmp(to + (size_t)y * to_stride, from + (size_t)y * from_stride, w) != 0;
	}
	if (differs)
		for (int y = 0; y < h; y++)
			memcpy(to + (size_t)y * to_stride, from + (size_t)y * from_stride, w);
	return differs;
}

// perigee_convert converts the touched macroblocks, each run of them in a row at
// once, into scratch (three planes of 16, 8 and 8 rows) and from there into the
// picture where they differ; their age is then 0. all: take them as changed.
// BGRA in memory is what libyuv calls ARGB (a little-endian word).
static int perigee_convert(AVFrame *f, const uint8_t *bgra, int stride, const uint8_t *touched, uint8_t *age,
		int cols, int rows, uint8_t *scratch, int all) {
	const int line = cols * 16, half = cols * 8;
	uint8_t *sy = scratch, *su = sy + (size_t)line * 16, *sv = su + (size_t)half * 8;
	for (int row = 0; row < rows; row++) {
		const uint8_t *t = touched + (size_t)row * cols;
		uint8_t *a = age + (size_t)row * cols;
		for (int col = 0; col < cols; col++) {
			if (!t[col])
				continue;
			int first = col;
			while (col < cols && t[col])
				col++;
			const int x = first * 16, y = row * 16;
			const int w = (col * 16 < f->width ? col * 16 : f->width) - x;
			const int h = (y + 16 < f->height ? y + 16 : f->height) - y;
			if (ARGBToI420(bgra + (size_t)y * stride + (size_t)x * 4, stride,
					sy, line, su, half, sv, half, w, h))
				return -1;
			for (int i = first; i < col; i++) {
				const int bx = i * 16, bw = bx + 16 < f->width ? 16 : f->width - bx;
				int differs = perigee_take(f->data[0] + (size_t)y * f->linesize[0] + bx, f->linesize[0],
					sy + (bx - x), line, bw, h);
				differs |= perigee_take(f->data[1] + (size_t)(y / 2) * f->linesize[1] + bx / 2, f->linesize[1],
					su + (bx - x) / 2, half, bw / 2, h / 2);
				differs |= perigee_take(f->data[2] + (size_t)(y / 2) * f->linesize[2] + bx / 2, f->linesize[2],
					sv + (bx - x) / 2, half, bw / 2, h / 2);
				if (differs || all)
					a[i] = 0;
			}
		}
	}
	return 0;
}
*/
import "C"

import (
	"errors"
	"unsafe"

	"github.com/asticode/go-astiav"
)

// converter turns pixels into an encoder's picture.
type converter struct{ scratch []byte }

// convert looks at the touched blocks of a BGRA picture and writes into an I420
// frame those that differ from what it holds; all: every one counts as changed.
// libyuv takes a tenth of libswscale's time for this.
func (c *converter) convert(to *astiav.Frame, pix []byte, stride int, b *blocks, all bool) error {
	if c.scratch == nil {
		c.scratch = make([]byte, b.cols*blockSide*blockSide*3/2)
	}
	n := C.int(0)
	if all {
		n = 1
	}
	if C.perigee_convert((*C.AVFrame)(to.UnsafePointer()), (*C.uint8_t)(unsafe.Pointer(&pix[0])), C.int(stride),
		(*C.uint8_t)(unsafe.Pointer(&b.touched[0])), (*C.uint8_t)(unsafe.Pointer(&b.age[0])), C.int(b.cols), C.int(b.rows),
		(*C.uint8_t)(unsafe.Pointer(&c.scratch[0])), n) != 0 {
		return errors.New("convert picture: libyuv refused it")
	}
	b.looked()
	return nil
}
