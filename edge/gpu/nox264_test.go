//go:build nox264

package gpu

import (
	"slices"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// A build without libx264 does not offer H.264.
func TestWithoutX264(t *testing.T) {
	if c := CPUPool(2).Codecs; slices.Contains(c, api.H264) || len(c) != len(api.SoftwareCodecs())-1 {
		t.Errorf("codecs %v", c)
	}
}
