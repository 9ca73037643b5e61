package encode

import (
	"image"
	"testing"
)

func TestScalerFollowsChanges(t *testing.T) {
	const w, h = 64, 48
	pix := make([]byte, w*h*4)
	fill := func(r image.Rectangle, v byte) {
		for y := r.Min.Y; y < r.Max.Y; y++ {
			for x := r.Min.X * 4; x < r.Max.X*4; x++ {
				pix[y*w*4+x] = v
			}
		}
	}
	s := NewScaler(w, h, w/2, h/2)
	if !s.Fits(w, h, w/2, h/2) || s.Fits(w, h, w, h) || (*Scaler)(nil).Fits(w, h, w/2, h/2) {
		t.Error("fits what it is not for, or does not fit what it is for")
	}
	fill(image.Rect(0, 0, w, h), 40)
	out, stride, changed, err := s.Scale(pix, w*4, nil)
	if err != nil || stride != w/2*4 || len(changed) != 1 || changed[0] != image.Rect(0, 0, w/2, h/2) || out[0] != 40 || out[len(out)-1] != 40 {
		t.Fatalf("first picture: stride %d, changed %v, %v", stride, changed, err)
	}
	part := image.Rect(32, 16, 48, 32)
	fill(part, 200)
	out, _, changed, err = s.Scale(pix, w*4, []image.Rectangle{part})
	if err != nil || len(changed) != 1 || !image.Rect(16, 8, 24, 16).In(changed[0]) || changed[0].Dx() > 14 {
		t.Fatalf("changed %v, %v", changed, err)
	}
	at := func(x, y int) byte { return out[y*stride+x*4] }
	if at(20, 12) != 200 || at(4, 4) != 40 || at(28, 20) != 40 {
		t.Errorf("inside %d, outside %d and %d", at(20, 12), at(4, 4), at(28, 20))
	}
	if _, _, changed, err = s.Scale(pix, w*4, nil); err != nil || len(changed) != 0 {
		t.Errorf("nothing changed, but %v, %v", changed, err)
	}
	if _, _, _, err := s.Scale(pix[:100], w*4, nil); err == nil {
		t.Error("a picture that is too small was scaled")
	}
}
