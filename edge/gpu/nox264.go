//go:build nox264

package gpu

import (
	"slices"

	"github.com/perigee-cloud/perigee/api"
)

// Software gives the codecs that this build encodes on processors: it has no
// libx264.
func Software() []api.Codec {
	return slices.DeleteFunc(api.SoftwareCodecs(), func(c api.Codec) bool { return c == api.H264 })
}
