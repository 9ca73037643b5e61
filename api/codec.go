package api

import "strings"

// Codec is a video codec by its name on the wire.
type Codec string

// The video codecs Perigee can stream.
const (
	H264 Codec = "H264"
	VP8  Codec = "VP8"
	VP9  Codec = "VP9"
	AV1  Codec = "AV1"
	// H265 is encoded by hardware alone; few browsers take it.
	H265 Codec = "H265"
)

// Codecs lists every codec: those that processors encode, the cheapest first,
// then what only hardware does.
func Codecs() []Codec { return append(SoftwareCodecs(), H265) }

// SoftwareCodecs lists those that processors encode.
func SoftwareCodecs() []Codec { return []Codec{H264, VP8, VP9, AV1} }

// ParseCodec reads a codec's name in any case.
func ParseCodec(s string) (Codec, error) {
	for _, c := range Codecs() {
		if strings.EqualFold(s, string(c)) {
			return c, nil
		}
	}
	return "", Invalidf("codec", "%q is not a codec; use one of H264, VP8, VP9, AV1, H265", s)
}

// softwareCost is processor time per macroblock relative to libx264
// ultrafast, in thousandths: 1280x720@60 on one core took 22, 28, 46 and 55 %
// (EPYC, 2026-11-20).
func softwareCost(c Codec) uint64 {
	switch c {
	case VP8:
		return 1270
	case VP9:
		return 2090
	case AV1:
		return 2500
	default:
		return 1000
	}
}

// macroblockSide is the side of a macroblock in pixels (ITU-T H.264, 3.84).
const macroblockSide = 16

// Macroblocks gives the macroblocks per second of a picture of width x height
// pixels at fps frames per second: 1280x720@30 is 108,000.
func Macroblocks(width, height, fps int) uint64 {
	mbs := func(n int) uint64 { return uint64((n + macroblockSide - 1) / macroblockSide) }
	return mbs(width) * mbs(height) * uint64(fps)
}

// Scaled multiplies macroblocks by a factor in thousandths; a stream costs at
// least 1.
func Scaled(macroblocks, thousandths uint64) uint64 { return max(macroblocks*thousandths/1000, 1) }

// Cost gives what a stream takes from a pool, in macroblocks per second of
// H.264: the unit of reservations.
func Cost(pool Pool, c Codec, s Screen) uint64 {
	mbs := Macroblocks(s.Width, s.Height, s.FPS)
	if pool == PoolCPU {
		return mbs * softwareCost(c) / 1000
	}
	return mbs
}
