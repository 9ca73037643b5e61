package api

// Bounds of a session's bitrate in kb/s and of what it may carry in an hour, in
// 10^9 bytes: 0.1 GB an hour is 222 kb/s, 45 are 100 Mb/s.
const (
	MinKbps = 150
	MaxKbps = 100_000

	minGBPerHour = 0.1
	maxGBPerHour = 45
)

func checkVolume(field string, gb float64) error {
	if gb != 0 && !(gb >= minGBPerHour && gb <= maxGBPerHour) { // NaN is refused too
		return Invalidf(field, "must be %g to %g, or 0 for no bound, got %g", minGBPerHour, float64(maxGBPerHour), gb)
	}
	return nil
}
