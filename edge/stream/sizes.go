package stream

import (
	"encoding/json"
	"math"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/rtc"
)

// sizes knows how large the picture is that a viewer points at: positions on the
// wire are pixels of the picture, and that may be smaller than the screen. Pages
// of ours say by which size they counted; for others it is the size that was
// sent when a round trip and a decode ago.
type sizes struct {
	mu     sync.Mutex
	screen api.Screen
	now    int // quarters that are sent
	before int
	since  time.Time
}

// showAfter is how long after its keyframe a size is taken to be on the viewer's
// screen, beside the round trip.
const showAfter = 100 * time.Millisecond

func (z *sizes) set(screen api.Screen, quarters int, now time.Time) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.screen = screen
	if quarters != z.now {
		z.before, z.now, z.since = z.now, quarters, now
	}
}

// shown gives the screen, and the picture that a viewer sees.
func (z *sizes) shown(now time.Time, trip time.Duration) (screen, picture api.Screen) {
	z.mu.Lock()
	defer z.mu.Unlock()
	q := z.now
	if now.Sub(z.since) < trip+showAfter {
		q = z.before
	}
	return z.screen, media.Shrink(z.screen, q)
}

// onScreen puts a message's position from the picture's pixels to the screen's.
func onScreen(c rtc.Control, screen, picture api.Screen) json.RawMessage {
	switch c.Type {
	case "input::mouse-move", "input::touch-start", "input::touch-move":
	default:
		return c.Data
	}
	if c.Width > 0 && c.Height > 0 {
		picture.Width, picture.Height = c.Width, c.Height
	}
	if picture.Width == 0 || picture.Height == 0 || picture.Width == screen.Width && picture.Height == screen.Height {
		return c.Data
	}
	var m map[string]any
	if json.Unmarshal(c.Data, &m) != nil {
		return c.Data // who reads it says what is wrong
	}
	scale := func(field string, by float64, whole bool) {
		if v, ok := m[field].(float64); ok {
			if v *= by; whole {
				v = math.Round(v)
			}
			m[field] = v
		}
	}
	x, y := float64(screen.Width)/float64(picture.Width), float64(screen.Height)/float64(picture.Height)
	scale("x", x, false)
	scale("y", y, false)
	scale("rx", x, true)
	scale("ry", y, true)
	out, err := json.Marshal(m)
	if err != nil {
		return c.Data
	}
	return out
}

// trip is the round trip to a viewer as last measured. It is called from anywhere.
func (v *viewer) trip() time.Duration { return time.Duration(v.tripNS.Load()) }
