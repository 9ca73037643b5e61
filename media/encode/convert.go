package encode

/*
#cgo pkg-config: libavutil
#cgo LDFLAGS: -lyuv
#include <libavutil/frame.h>
#include <libyuv/convert.h>

// BGRA in memory is what libyuv calls ARGB (a little-endian word).
static int perigee_convert(AVFrame *f, const uint8_t *bgra, int stride, int x, int y, int w, int h) {
	return ARGBToI420(
		bgra + (size_t)y * stride + (size_t)x * 4, stride,
		f->data[0] + (size_t)y * f->linesize[0] + x, f->linesize[0],
		f->data[1] + (size_t)(y / 2) * f->linesize[1] + x / 2, f->linesize[1],
		f->data[2] + (size_t)(y / 2) * f->linesize[2] + x / 2, f->linesize[2],
		w, h);
}
*/
import "C"

import (
	"fmt"
	"image"
	"unsafe"

	"github.com/asticode/go-astiav"
)

// convert writes a part (even on all sides) of a BGRA picture into an I420
// frame. libyuv takes a tenth of libswscale's time for this.
func convert(to *astiav.Frame, pix []byte, stride int, part image.Rectangle) error {
	if r := C.perigee_convert((*C.AVFrame)(to.UnsafePointer()), (*C.uint8_t)(unsafe.Pointer(&pix[0])), C.int(stride),
		C.int(part.Min.X), C.int(part.Min.Y), C.int(part.Dx()), C.int(part.Dy())); r != 0 {
		return fmt.Errorf("convert picture: libyuv refused %v", part)
	}
	return nil
}
