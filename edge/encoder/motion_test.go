package encoder

import (
	"encoding/binary"
	"image"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/capture"
	"github.com/perigee-cloud/perigee/media/encode"
	"github.com/perigee-cloud/perigee/media/xvfb"
)

const sceneW, sceneH = 640, 360

// scene paints picture n of a kind and gives the share of it that changed.
type scene func(pix []byte, n int) (share float64, changed image.Rectangle)

func whole() image.Rectangle { return image.Rect(0, 0, sceneW, sceneH) }

// letters are dark strokes on paper, moved up by three pixels a picture.
func letters(pix []byte, n int) (float64, image.Rectangle) {
	for y := range sceneH {
		s := uint32((y+3*n)/13)*2654435761 + 1
		for x := range sceneW {
			rgb := uint32(0xf8f8f0)
			if s ^= s << 13; x%7 < 5 && (y+3*n)%13 > 3 && s>>(x/7%29)&3 == 0 {
				rgb = 0x202020
			}
			binary.LittleEndian.PutUint32(pix[(y*sceneW+x)*4:], rgb)
		}
	}
	return 0.8, whole()
}

// world is grained all over, as a camera moves through it.
func world(pix []byte, n int) (float64, image.Rectangle) {
	for y := range sceneH {
		for x := range sceneW {
			u, v := uint32(x+5*n), uint32(y+2*n)
			binary.LittleEndian.PutUint32(pix[(y*sceneW+x)*4:], (u*2654435761^v*40503)>>8)
		}
	}
	return 1, whole()
}

// film is a small window with grain in it, in a screen that stands still.
func film(pix []byte, n int) (float64, image.Rectangle) {
	world(pix, n)
	return 0.1, image.Rect(200, 100, 400, 175)
}

func cursor([]byte, int) (float64, image.Rectangle) { return 0.001, image.Rect(16, 16, 23, 30) }

// A second of each, at different rates, and what it is taken for.
func TestMotionIsToldFromText(t *testing.T) {
	for name, c := range map[string]struct {
		scene  scene
		fps    int
		grain  bool
		lo, hi int // percent
	}{
		"scrolling text":      {letters, 60, false, 45, 60},
		"slow scrolling text": {letters, 15, false, 45, 65},
		"a game":              {world, 60, true, 55, 70},
		"a game at half rate": {world, 30, true, 55, 70},
		"a film in a window":  {film, 60, false, 4, 8},
		"a cursor":            {cursor, 2, false, 0, 1},
	} {
		var m motion
		pix := make([]byte, sceneW*sceneH*4)
		now := int64(time.Hour)
		for n := range c.fps {
			share, changed := c.scene(pix, n)
			m.add(&capture.Picture{Pix: pix, Stride: sceneW * 4, Width: sceneW, Height: sceneH, Changed: []image.Rectangle{changed}, Taken: now}, share, c.fps)
			now += int64(time.Second) / int64(c.fps)
		}
		if got := m.percent(now); got < c.lo || got > c.hi || m.grained(now) != c.grain {
			t.Errorf("%s: %d %% moves, want %d to %d; grained %v; %.2f flat", name, got, c.lo, c.hi, m.grained(now), m.flat)
		}
		if m.grained(now + int64(2*time.Second)) {
			t.Errorf("%s: moves two seconds after it stopped", name)
		}
	}
}

// What an application says counts more than what is measured.
func TestHintBeforeMeasurement(t *testing.T) {
	now := media.Now()
	for _, c := range []struct {
		hint  string
		moves bool
		want  string
	}{
		{"", false, api.ContentDetail}, {"", true, api.ContentMotion}, {api.ContentAuto, true, api.ContentMotion},
		{api.ContentDetail, true, api.ContentDetail}, {api.ContentMotion, false, api.ContentMotion},
	} {
		s := &session{}
		s.cfg.Content = c.hint
		if c.moves {
			s.picture.motion = motion{level: 0.9, flat: 0.1, last: now, looked: now, moves: true}
		}
		if got := s.content(); got != c.want {
			t.Errorf("%q, moves %v: %q, want %q", c.hint, c.moves, got, c.want)
		}
	}
}

// favoured notes what an encoder was told.
type favoured struct {
	Video
	told chan string
}

func (f favoured) Favour(content string) { f.told <- content; f.Video.Favour(content) }

// From the display to the encoder and the stream process: windows are drawn.
func TestContentIsMeasuredAndTold(t *testing.T) {
	told := make(chan string, 4096)
	x := xvfb.Start(t, "-screen", "0", "640x360x24").Display
	p, err := newPainter(x)
	if err != nil {
		t.Fatal(err)
	}
	defer p.x.Close()
	s := startEncoderWith(t, func(c encode.Config) (Video, error) {
		told <- c.Content
		v, err := openVideo(c)
		return favoured{v, told}, err
	})
	s.send(media.TypeConfigure, configure(x, api.VP9))
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				p.fill(i%200, 20, 400, 300, uint32(0x112233*i))
				p.x.Sync()
			}
		}
	}()
	st := s.until("motion", func(st media.State) bool { return st.Motion >= 40 })
	if st.Content != api.ContentDetail {
		t.Errorf("told %+v", st)
	}
	for range 20 {
		if got := <-told; got != api.ContentDetail {
			t.Fatalf("the encoder was told %q", got)
		}
	}
}
