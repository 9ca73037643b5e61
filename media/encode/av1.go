package encode

import (
	"fmt"
	"os"
	"strconv"

	"github.com/asticode/go-astiav"
)

// av1Preset is the fastest of SVT-AV1 2.3 that codes every change of a screen:
// from 9 on it leaves small ones out for seconds, 10 to 80 of 300 pictures of a
// board whose cells turn. It takes twice the time of 13.
const av1Preset = 8

// av1 is SVT-AV1 at low delay (pred-struct 1: its call returns
// with the picture's packet, and a picture asked to be a key is one) at a
// constant bitrate (rc 2). Tools that buy little on a screen stay off:
// temporal filtering, look-ahead. Its wrapper cannot change the bitrate while open.
func av1() recipe {
	return recipe{
		name: "libsvtav1",
		options: func(c Config) map[string]string {
			quiet()
			return map[string]string{
				"preset":        strconv.Itoa(av1Preset),
				"svtav1-params": fmt.Sprintf("pred-struct=1:rc=2:lp=%d:enable-tf=0:lookahead=0:scm=0", c.Threads),
			}
		},
		rate: func(*astiav.CodecContext, Config) error { return errReopen },
	}
}

// quiet keeps SVT-AV1, which knows only an environment variable, from writing a
// page to stderr at each opening; an operator's own setting stays.
func quiet() {
	const level = "SVT_LOG"
	if _, set := os.LookupEnv(level); !set {
		_ = os.Setenv(level, "0") // fatal only; it fails for malformed names
	}
}
