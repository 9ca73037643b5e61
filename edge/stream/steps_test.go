package stream

import (
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestStepsDownAtOnceAndUpSlowly(t *testing.T) {
	var s steps
	now := time.Unix(0, 0)
	s.set(api.Screen{Width: 1280, Height: 720, FPS: 60}, api.VP8, "")
	at := func(kbps int, after time.Duration, want int) {
		t.Helper()
		now = now.Add(after)
		if got := s.fps(kbps, now); got != want {
			t.Errorf("%d kb/s after %s: %d a second, want %d", kbps, after, got, want)
		}
	}
	at(5000, 0, 60)
	at(1500, time.Second, 60)
	at(1400, time.Second, 30)
	at(700, time.Second, 20)
	at(150, time.Second, 15)
	at(1700, time.Second, 15) // room, but since now only
	at(1700, 1900*time.Millisecond, 15)
	at(300, 200*time.Millisecond, 15) // and gone
	at(3000, time.Second, 15)
	at(3000, 2*time.Second, 20)
	at(3000, time.Second, 20)
	at(3000, 2*time.Second, 30)
	at(3000, time.Second, 30)
	at(3000, 2*time.Second, 60)
	at(1600, time.Hour, 60)
	s.set(api.Screen{Width: 1280, Height: 720, FPS: 60}, api.VP8, api.ContentMotion)
	at(150, time.Second, 30) // a game keeps its rate
	s.set(api.Screen{Width: 1280, Height: 720, FPS: 10}, api.VP8, "")
	at(150, time.Second, 10) // slow already
}

// What hardly moves keeps its rate on a way on which a scrolling text loses it; a
// picture that is measured to be a game is taken for one; text goes down earlier,
// where that makes it sharper.
func TestStepsFollowThePicture(t *testing.T) {
	hd := api.Screen{Width: 1280, Height: 720, FPS: 60}
	for name, c := range map[string]struct {
		codec      api.Codec
		hint, seen string
		motion     int
		kbps, want int
	}{
		"not measured yet":            {api.H264, "", "", 0, 700, 20},
		"typing":                      {api.H264, "", api.ContentDetail, 2, 700, 60},
		"typing, auto":                {api.H264, api.ContentAuto, api.ContentDetail, 2, 700, 60},
		"typing on a very narrow way": {api.H264, "", api.ContentDetail, 2, 300, 30},
		"a window moved":              {api.H264, "", api.ContentDetail, 20, 700, 30},
		"scrolling":                   {api.H264, "", api.ContentDetail, 90, 700, 20},
		"a game, measured":            {api.H264, "", api.ContentMotion, 90, 300, 30},
		"a game, said to be text":     {api.H264, api.ContentDetail, api.ContentMotion, 90, 300, 15},
		"text, said":                  {api.H264, api.ContentDetail, api.ContentDetail, 90, 2300, 30},
		"text, said, at rest":         {api.H264, api.ContentDetail, api.ContentDetail, 5, 700, 60},
		"text, measured":              {api.H264, "", api.ContentDetail, 90, 2300, 60},
		"text, said, VP9":             {api.VP9, api.ContentDetail, api.ContentDetail, 90, 2300, 30},
		"text, said, VP8":             {api.VP8, api.ContentDetail, api.ContentDetail, 90, 2300, 60},
	} {
		var s steps
		s.set(hd, c.codec, c.hint)
		s.saw(c.seen, c.motion)
		if got := s.fps(c.kbps, time.Unix(0, 0)); got != c.want {
			t.Errorf("%s: %d a second, want %d", name, got, c.want)
		}
	}
	var s steps
	s.set(hd, api.VP8, "")
	if got := s.fps(300, time.Unix(0, 0)); got != 15 {
		t.Errorf("%d a second before it is known", got)
	}
	s.saw(api.ContentMotion, 90)
	if got := s.fps(300, time.Unix(0, 0)); got != 30 {
		t.Errorf("%d a second of what turned out to be a game", got)
	}
}
