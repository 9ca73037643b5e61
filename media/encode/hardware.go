package encode

/*
#cgo pkg-config: libavutil
#cgo LDFLAGS: -lyuv
#include <string.h>
#include <libavutil/frame.h>
#include <libavutil/avutil.h>
#include <libyuv/convert_from_argb.h>

// runs of touched macroblocks of a picture, each a rectangle.
#define PERIGEE_RUNS(f, touched, cols, rows, x, y, w, h, body)              \
	for (int row = 0; row < rows; row++) {                              \
		const uint8_t *line = touched + (size_t)row * cols;                 \
		for (int col = 0; col < cols; col++) {                          \
			if (!line[col])                                             \
				continue;                                               \
			int first = col;                                            \
			while (col < cols && line[col])                             \
				col++;                                                  \
			int x = first * 16, y = row * 16;                           \
			int w = col * 16 - x, h = 16;                               \
			if (x + w > f->width)                                       \
				w = f->width - x;                                       \
			if (y + h > f->height)                                      \
				h = f->height - y;                                      \
			body                                                        \
		}                                                               \
	}

// perigee_copy copies the touched macroblocks of a BGRA picture as they are.
static void perigee_copy(AVFrame *f, const uint8_t *bgra, int stride, const uint8_t *touched, int cols, int rows) {
	PERIGEE_RUNS(f, touched, cols, rows, x, y, w, h, {
		for (int i = 0; i < h; i++)
			memcpy(f->data[0] + (size_t)(y + i) * f->linesize[0] + (size_t)x * 4,
			       bgra + (size_t)(y + i) * stride + (size_t)x * 4, (size_t)w * 4);
	})
}

// perigee_nv12 converts them to NV12, BT.601 studio range.
static int perigee_nv12(AVFrame *f, const uint8_t *bgra, int stride, const uint8_t *touched, int cols, int rows) {
	PERIGEE_RUNS(f, touched, cols, rows, x, y, w, h, {
		if (ARGBToNV12(bgra + (size_t)y * stride + (size_t)x * 4, stride,
			f->data[0] + (size_t)y * f->linesize[0] + x, f->linesize[0],
			f->data[1] + (size_t)(y / 2) * f->linesize[1] + x, f->linesize[1], w, h))
			return -1;
	})
	return 0;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/asticode/go-astiav"

	"github.com/perigee-cloud/perigee/api"
)

// Version names what encodes, for certificates: FFmpeg's own version.
func Version() string { return "FFmpeg " + C.GoString(C.av_version_info()) }

// hardware is what a recipe of a graphics processor has beside the common parts.
type hardware struct {
	// pixels is the format of the picture in memory.
	pixels astiav.PixelFormat
	// load writes the touched blocks of a BGRA picture into the frame.
	load func(v *Video, pix []byte, stride int) error
	// prepare readies the context before it is opened; what it allocates is freed
	// by the function it gives.
	prepare func(c Config, cc *astiav.CodecContext) (free func(), err error)
	// upload gives the frame to encode, in the device's memory; nil: the
	// encoder takes the picture itself.
	upload func(v *Video) (*astiav.Frame, error)
}

// pixels is the format of the picture in memory.
func (r recipe) pixels() astiav.PixelFormat {
	if r.hardware != nil {
		return r.hardware.pixels
	}
	return astiav.PixelFormatYuv420P
}

// prepare readies a context; free is never nil without an error.
func (r recipe) prepare(c Config, cc *astiav.CodecContext) (free func(), err error) {
	if r.hardware == nil || r.hardware.prepare == nil {
		return func() {}, nil
	}
	return r.hardware.prepare(c, cc)
}

// hardwareRecipe gives the recipe of a codec on a hardware pool.
func hardwareRecipe(c Config) (recipe, bool) {
	switch {
	case c.Pool == api.PoolNVENC && c.Codec == api.H264:
		return nvencH264(), true
	case c.Pool == api.PoolNVENC && c.Codec == api.H265:
		return nvencH265(), true
	case c.Pool == api.PoolNVENC && c.Codec == api.AV1:
		return nvencAV1(), true
	case c.Pool == api.PoolVAAPI && c.Codec == api.H264:
		return vaapi("h264_vaapi", "constrained_baseline"), true
	case c.Pool == api.PoolVAAPI && c.Codec == api.H265:
		return vaapi("hevc_vaapi", "main"), true
	}
	return recipe{}, false
}

// take has the recipe load the touched blocks; all of them count as changed.
func (h *hardware) take(v *Video, pix []byte, stride int) error {
	if !v.frame.IsWritable() { // the encoder still reads it
		if err := v.frame.MakeWritable(); err != nil {
			return fmt.Errorf("copy picture: %w", err)
		}
	}
	if err := h.load(v, pix, stride); err != nil {
		return err
	}
	for i, t := range v.blocks.touched {
		if t != 0 {
			v.blocks.age[i] = 0
		}
	}
	v.blocks.looked()
	return nil
}

func planes(v *Video, pix []byte) (*C.AVFrame, *C.uint8_t, *C.uint8_t) {
	return (*C.AVFrame)(v.frame.UnsafePointer()), (*C.uint8_t)(unsafe.Pointer(&pix[0])), (*C.uint8_t)(unsafe.Pointer(&v.blocks.touched[0]))
}

// loadBGRA hands the picture on as it is: the device converts.
func loadBGRA(v *Video, pix []byte, stride int) error {
	f, p, touched := planes(v, pix)
	C.perigee_copy(f, p, C.int(stride), touched, C.int(v.blocks.cols), C.int(v.blocks.rows))
	return nil
}

func loadNV12(v *Video, pix []byte, stride int) error {
	f, p, touched := planes(v, pix)
	if C.perigee_nv12(f, p, C.int(stride), touched, C.int(v.blocks.cols), C.int(v.blocks.rows)) != 0 {
		return errors.New("convert picture: libyuv refused it")
	}
	return nil
}

// uploadFrame copies the picture into a frame of the device's pool.
func uploadFrame(v *Video) (*astiav.Frame, error) {
	if v.device == nil {
		v.device = astiav.AllocFrame()
	}
	v.device.Unref()
	if err := v.device.AllocHardwareBuffer(v.ctx.HardwareFramesContext()); err != nil {
		return nil, fmt.Errorf("take a picture of the device: %w", err)
	}
	if err := v.frame.TransferHardwareData(v.device); err != nil {
		return nil, fmt.Errorf("upload picture: %w", err)
	}
	v.device.SetPts(v.frame.Pts())
	v.device.SetPictureType(v.frame.PictureType())
	return v.device, nil
}
