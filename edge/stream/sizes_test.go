package stream

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media/rtc"
)

func TestPositionsStayOnTheScreen(t *testing.T) {
	var z sizes
	now := time.Unix(0, 0)
	full := api.Screen{Width: 1920, Height: 1080, FPS: 60}
	z.set(full, 4, now)
	at := func(c rtc.Control, after time.Duration, x, y, rx float64) {
		t.Helper()
		now = now.Add(after)
		screen, picture := z.shown(now, 50*time.Millisecond)
		var got struct {
			X, Y, RX float64
			ID       int
		}
		if err := json.Unmarshal(onScreen(c, screen, picture), &got); err != nil || got.X != x || got.Y != y || got.RX != rx || got.ID != 3 {
			t.Errorf("%s by %dx%d: %+v, %v; want %v, %v, %v", c.Type, c.Width, c.Height, got, err, x, y, rx)
		}
	}
	move := rtc.Control{Type: "input::mouse-move", Data: []byte(`{"x":480,"y":270,"rx":7,"id":3}`)}
	at(move, time.Second, 480, 270, 7)
	z.set(full, 2, now)
	at(move, 100*time.Millisecond, 480, 270, 7) // the smaller picture is not there yet
	at(move, 100*time.Millisecond, 960, 540, 14)
	touch := rtc.Control{Type: "input::touch-move", Data: []byte(`{"x":480,"y":270,"rx":7,"id":3}`)}
	at(touch, 0, 960, 540, 14)
	// A page of ours says by which size it counted: no guess.
	z.set(full, 4, now)
	move.Width, move.Height = 960, 540
	at(move, time.Hour, 960, 540, 14)
	move.Width, move.Height = 1920, 1080
	at(move, 0, 480, 270, 7)
	// What is no position, or no JSON, goes on as it is.
	for _, c := range []rtc.Control{{Type: "input::key", Data: []byte(`{"x":1}`), Width: 960, Height: 540}, {Type: "input::mouse-move", Data: []byte(`x`), Width: 960, Height: 540}} {
		if got := string(onScreen(c, full, full)); got != string(c.Data) {
			t.Errorf("%s became %s", c.Data, got)
		}
	}
}
