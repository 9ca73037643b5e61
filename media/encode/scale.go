package encode

/*
#cgo LDFLAGS: -lyuv
#include <libyuv/scale_argb.h>
*/
import "C"

import (
	"fmt"
	"image"
	"runtime"
	"unsafe"
)

// Scaler makes pictures smaller before they are encoded. It keeps the last one,
// so that only what changed is scaled. It is for one goroutine.
type Scaler struct {
	width, height, toWidth, toHeight int
	pix                              []byte
	filled                           bool
}

// NewScaler scales from one size to another, in pixels.
func NewScaler(width, height, toWidth, toHeight int) *Scaler {
	return &Scaler{width: width, height: height, toWidth: toWidth, toHeight: toHeight, pix: make([]byte, toWidth*toHeight*4)}
}

// Fits says whether the scaler is for these sizes.
func (s *Scaler) Fits(width, height, toWidth, toHeight int) bool {
	return s != nil && s.width == width && s.height == height && s.toWidth == toWidth && s.toHeight == toHeight
}

// Scale scales the parts of a picture that may have changed, the first time all
// of it: rows of 4-byte pixels, stride bytes apart. It gives the smaller picture,
// valid until the next call, its stride, and which parts of that changed.
func (s *Scaler) Scale(pix []byte, stride int, changed []image.Rectangle) ([]byte, int, []image.Rectangle, error) {
	if stride < s.width*4 || len(pix) < (s.height-1)*stride+s.width*4 {
		return nil, 0, nil, fmt.Errorf("picture of %d bytes, %d a row, is too small for %dx%d", len(pix), stride, s.width, s.height)
	}
	whole := image.Rect(0, 0, s.toWidth, s.toHeight)
	clip := whole
	if s.filled {
		clip = image.Rectangle{}
		for _, r := range changed {
			clip = clip.Union(s.smaller(r))
		}
		clip = clip.Intersect(whole)
	}
	to := s.toWidth * 4
	if clip.Empty() {
		return s.pix, to, nil, nil
	}
	var pin runtime.Pinner // does nothing for shared memory
	pin.Pin(&pix[0])
	defer pin.Unpin()
	// The box filter takes the mean of what becomes one pixel: text stays readable.
	if n := C.ARGBScaleClip((*C.uint8_t)(unsafe.Pointer(&pix[0])), C.int(stride), C.int(s.width), C.int(s.height),
		(*C.uint8_t)(unsafe.Pointer(&s.pix[0])), C.int(to), C.int(s.toWidth), C.int(s.toHeight),
		C.int(clip.Min.X), C.int(clip.Min.Y), C.int(clip.Dx()), C.int(clip.Dy()), C.kFilterBox); n != 0 {
		return nil, 0, nil, fmt.Errorf("scale picture to %dx%d: libyuv refused", s.toWidth, s.toHeight)
	}
	s.filled = true
	return s.pix, to, []image.Rectangle{clip}, nil
}

// smaller gives the part of the smaller picture that a part of the whole one
// touches, with what the filter looks at beside it.
func (s *Scaler) smaller(r image.Rectangle) image.Rectangle {
	const beside = 2
	return image.Rect(r.Min.X*s.toWidth/s.width-beside, r.Min.Y*s.toHeight/s.height-beside,
		(r.Max.X*s.toWidth+s.width-1)/s.width+beside, (r.Max.Y*s.toHeight+s.height-1)/s.height+beside)
}
