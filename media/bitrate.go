package media

import "github.com/perigee-cloud/perigee/api"

// Limits are the lowest and highest bitrate of a picture size, in kb/s.
type Limits struct{ MinKbps, MaxKbps int }

// BitrateLimits gives the bitrates between which a picture is streamed. The
// anchors are Anbox's published defaults (720p30 1–3 Mb/s, 720p60 2.5–5,
// 1080p30 3–6, 1080p60 3–7); other sizes scale with macroblocks per second.
func BitrateLimits(s api.Screen) Limits {
	const base = 216_000 // macroblocks per second of 1280x720@60
	mbs := api.Macroblocks(s.Width, s.Height, s.FPS)
	scale := func(kbps uint64) int { return int(kbps * mbs / base) }
	return Limits{MinKbps: min(max(scale(1500), 200), 10_000), MaxKbps: min(max(scale(5000), 1000), 30_000)}
}
