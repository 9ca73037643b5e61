package media

import "github.com/perigee-cloud/perigee/api"

// Limits are the lowest and highest bitrate of a picture size, in kb/s.
type Limits struct{ MinKbps, MaxKbps int }

// BitrateLimits gives the bitrates between which a picture is streamed. The
// highest is what the schedulers count of the node's way out. The lowest is the
// same for all sizes: on a way that carries less than a size wants, fewer pictures
// are sent.
func BitrateLimits(s api.Screen) Limits {
	return Limits{MinKbps: api.MinKbps, MaxKbps: api.MostKbps(s)}
}

// Shrink gives a screen at so many quarters of its width and height, even and at
// least 16 as encoders want them; 0 and 4 are the whole.
func Shrink(s api.Screen, quarters int) api.Screen {
	if quarters <= 0 || quarters >= 4 {
		return s
	}
	side := func(n int) int { return max(n*quarters/4&^1, 16) }
	s.Width, s.Height = side(s.Width), side(s.Height)
	return s
}
