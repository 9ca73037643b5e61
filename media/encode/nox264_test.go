//go:build nox264

package encode

import (
	"errors"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// A build without libx264 says so, and the other codecs work.
func TestWithoutX264(t *testing.T) {
	cfg := Config{Codec: api.H264, Width: 320, Height: 180, FPS: 60, BitrateKbps: 1000}
	_, err := NewVideo(cfg)
	if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "nox264") {
		t.Errorf("H.264 gave %v", err)
	}
	for _, c := range []api.Codec{api.VP8, api.VP9, api.AV1} {
		cfg.Codec = c
		v, err := NewVideo(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := v.Encode(true); err != nil || !p.Key {
			t.Errorf("%s: key %v, %v", c, p.Key, err)
		}
		v.Close()
	}
}
