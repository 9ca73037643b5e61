package stream

import (
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestStepsDownAtOnceAndUpSlowly(t *testing.T) {
	var s steps
	now := time.Unix(0, 0)
	s.set(api.Screen{Width: 1280, Height: 720, FPS: 60}, "")
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
	s.set(api.Screen{Width: 1280, Height: 720, FPS: 60}, api.ContentMotion)
	at(150, time.Second, 30) // a game keeps its rate
	s.set(api.Screen{Width: 1280, Height: 720, FPS: 10}, "")
	at(150, time.Second, 10) // slow already
}
