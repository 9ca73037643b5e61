//go:build !nox264

package gpu

import "github.com/perigee-cloud/perigee/api"

// Software gives the codecs that this build encodes on processors.
func Software() []api.Codec { return api.SoftwareCodecs() }
