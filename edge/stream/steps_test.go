package stream

import (
	"fmt"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestLadderOfSizesAndRates(t *testing.T) {
	for _, c := range []struct {
		screen  api.Screen
		content string
		want    string // rate/quarters of the size:kb/s
	}{
		{api.Screen{Width: 1280, Height: 720, FPS: 60}, "", "60/4:1500 30/4:750 20/4:500 15/4:375 15/3:212 15/2:95"},
		{api.Screen{Width: 1280, Height: 720, FPS: 60}, api.ContentMotion, "60/4:1500 30/4:750 30/3:425 30/2:191"},
		{api.Screen{Width: 1920, Height: 1080, FPS: 60}, "", "60/4:3400 30/4:1700 30/3:956 30/2:425 20/2:283 15/2:212"},
		{api.Screen{Width: 640, Height: 360, FPS: 10}, "", "10/4:63"},
	} {
		var got string
		for i, r := range ladderOf(c.screen, c.content == api.ContentMotion) {
			if i > 0 {
				got += " "
			}
			got += fmt.Sprintf("%d/%d:%d", r.fps, r.quarters, r.wants)
		}
		if got != c.want {
			t.Errorf("%v %s:\n got %s\nwant %s", c.screen, c.content, got, c.want)
		}
	}
}

func TestSizeChangesLaterThanTheRate(t *testing.T) {
	var s steps
	now := time.Unix(0, 0)
	s.set(api.Screen{Width: 1920, Height: 1080, FPS: 60}, api.VP8, "")
	at := func(kbps int, after time.Duration, fps, quarters int) {
		t.Helper()
		now = now.Add(after)
		if r := s.at(kbps, false, now); r.fps != fps || r.quarters != quarters {
			t.Errorf("%d kb/s after %s: %d a second at %d quarters, want %d at %d", kbps, after, r.fps, r.quarters, fps, quarters)
		}
	}
	at(1000, 0, 30, 4) // the rate at once
	at(1000, 900*time.Millisecond, 30, 4)
	at(1000, 200*time.Millisecond, 30, 3)
	at(1000, time.Hour, 30, 3)
	at(5000, 0, 30, 3)
	at(5000, 5*time.Second, 30, 3)
	at(900, time.Second, 30, 3) // the room is gone again, and it is too much for a moment only
	at(5000, 500*time.Millisecond, 30, 3)
	at(5000, 6*time.Second, 30, 4)
	at(5000, time.Millisecond, 30, 4)
	at(5000, 2*time.Second, 60, 4)
	for range 5 { // nothing is heard of the viewer
		now = now.Add(time.Second)
		if r := s.at(150, true, now); r.quarters != 4 || r.fps != 30 {
			t.Errorf("silent: %+v", r)
		}
	}
	at(150, 900*time.Millisecond, 30, 4)
	at(150, 200*time.Millisecond, 15, 2)
}

func TestStepsDownAtOnceAndUpSlowly(t *testing.T) {
	var s steps
	now := time.Unix(0, 0)
	s.set(api.Screen{Width: 1280, Height: 720, FPS: 60}, api.VP8, "")
	at := func(kbps int, after time.Duration, want int) {
		t.Helper()
		now = now.Add(after)
		if got := s.at(kbps, false, now).fps; got != want {
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
		if got := s.at(c.kbps, false, time.Unix(0, 0)).fps; got != c.want {
			t.Errorf("%s: %d a second, want %d", name, got, c.want)
		}
	}
	var s steps
	s.set(hd, api.VP8, "")
	if got := s.at(300, false, time.Unix(0, 0)).fps; got != 15 {
		t.Errorf("%d a second before it is known", got)
	}
	s.saw(api.ContentMotion, 90)
	if got := s.at(300, false, time.Unix(0, 0)).fps; got != 30 {
		t.Errorf("%d a second of what turned out to be a game", got)
	}
}

// A game that is recognised at a bitrate that stays gets its own rate at once.
func TestStepsTellAnotherLadder(t *testing.T) {
	var s steps
	now := time.Unix(0, 0)
	s.set(api.Screen{Width: 1280, Height: 720, FPS: 60}, api.VP8, "")
	if r := s.at(400, false, now); r.fps != 15 {
		t.Fatalf("before: %+v", r)
	}
	if s.due(400, false, now) {
		t.Error("nothing has changed, but something is due")
	}
	s.saw(api.ContentMotion, 100)
	if !s.due(400, false, now) {
		t.Error("the other ladder is not told")
	}
	if r := s.at(400, false, now); r.fps != 30 || r.quarters != full {
		t.Errorf("after: %+v", r)
	}
}
