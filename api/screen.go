package api

// Limits and defaults of a screen.
const (
	MaxWidth       = 3840
	MaxHeight      = 2160
	MaxFPS         = 240
	DefaultWidth   = 1280
	DefaultHeight  = 720
	DefaultFPS     = 60
	DefaultDensity = 240
	MinDensity     = 72
	minSide        = 16
)

// Screen is the size and rate of a session's picture: pixels, frames per
// second, dots per inch.
type Screen struct {
	Width   int `json:"width"`
	Height  int `json:"height"`
	FPS     int `json:"fps,omitempty"`
	Density int `json:"density,omitempty"`
}

// Normalize fills defaults (zero means default), rounds odd sizes up to even
// and refuses what lies outside the limits.
func (s Screen) Normalize() (Screen, error) {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&s.Width, DefaultWidth)
	def(&s.Height, DefaultHeight)
	def(&s.FPS, DefaultFPS)
	def(&s.Density, DefaultDensity)
	switch {
	case s.Width < 1 || s.Width > MaxWidth:
		return s, Invalidf("screen.width", "must be 1 to %d, got %d", MaxWidth, s.Width)
	case s.Height < 1 || s.Height > MaxHeight:
		return s, Invalidf("screen.height", "must be 1 to %d, got %d", MaxHeight, s.Height)
	case s.FPS < 1 || s.FPS > MaxFPS:
		return s, Invalidf("screen.fps", "must be 1 to %d, got %d", MaxFPS, s.FPS)
	case s.Density < MinDensity:
		return s, Invalidf("screen.density", "must be at least %d, got %d", MinDensity, s.Density)
	}
	s.Width = max(s.Width+s.Width%2, minSide)
	s.Height = max(s.Height+s.Height%2, minSide)
	return s, nil
}
