package encode

import (
	"maps"
	"strconv"

	"github.com/asticode/go-astiav"
)

// vbvFrames is how many pictures' worth of bits x264 may spend on one: small,
// so that no picture, not even a key, is long on the wire.
const vbvFrames = 3

// h264 is libx264. ultrafast is the one preset whose cost leaves room for
// several streams a core (22 % of one at 720p60, ground measurements);
// zerolatency has no look-ahead and no B-frames; forced-idr makes a picture
// that is asked to be a key an IDR, which a decoder can start with.
func h264() recipe {
	vbv := func(c Config) int { return c.BitrateKbps * 1000 / c.FPS * vbvFrames }
	return recipe{
		name: "libx264",
		options: func(c Config) map[string]string {
			return map[string]string{
				"preset":     "ultrafast",
				"tune":       "zerolatency",
				"profile":    "baseline", // what every WebRTC peer must decode (RFC 7742, 6.2)
				"forced-idr": "1",
				"maxrate":    strconv.Itoa(c.BitrateKbps * 1000),
				"bufsize":    strconv.Itoa(vbv(c)),
			}
		},
		// libx264's wrapper compares these with what it last set, at each frame.
		rate: func(cc *astiav.CodecContext, c Config) error {
			cc.SetBitRate(int64(c.BitrateKbps) * 1000)
			cc.SetRateControlMaxRate(int64(c.BitrateKbps) * 1000)
			cc.SetRateControlBufferSize(vbv(c))
			return nil
		},
	}
}

// with joins option sets; later ones win.
func with(sets ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, s := range sets {
		maps.Copy(out, s)
	}
	return out
}
