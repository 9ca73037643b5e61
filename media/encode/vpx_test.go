package encode

import (
	"errors"
	"image"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// Blocks are passed over only where nothing better could be coded: not while the
// bitrate holds the picture down.
func TestBlocksAreSharpBeforeTheyArePassedOver(t *testing.T) {
	for _, codec := range []api.Codec{api.VP8, api.VP9} {
		for _, c := range []struct {
			name  string
			kbps  int
			noisy bool
			sharp bool
		}{{"held down", 200, true, false}, {"at its best", 8000, false, true}} {
			v, err := NewVideo(Config{Codec: codec, Width: 320, Height: 192, FPS: 60, BitrateKbps: c.kbps})
			if err != nil {
				t.Fatal(err)
			}
			pic := newCanvas(320, 192)
			for i := range 60 {
				part := image.Rect(16*(i%10), 0, 16*(i%10)+160, 96)
				if c.noisy {
					pic.noise(i)
				} else {
					pic.fill(part, uint32(i)*0x030201)
				}
				if err := v.Load(pic.pix, pic.stride(), part); err != nil {
					t.Fatal(err)
				}
				if _, err := v.Encode(false); err != nil {
					t.Fatal(err)
				}
			}
			if got := v.passes(); got != c.sharp {
				t.Errorf("%s %s: passes over %v, want %v", codec, c.name, got, c.sharp)
			}
			v.Close()
		}
	}
}

// The faster preset is known by every encoder and refused by none; another is.
func TestPresets(t *testing.T) {
	for _, codec := range api.SoftwareCodecs() {
		v := open(t, Config{Codec: codec, Preset: api.PresetFast, Width: 320, Height: 192, FPS: 30, BitrateKbps: 1000})
		pic := newCanvas(320, 192)
		if err := v.Load(pic.pix, pic.stride(), pic.all()); err != nil {
			t.Fatal(err)
		}
		if p, err := v.Encode(true); err != nil || !p.Key {
			t.Errorf("%s: key %v, %v", codec, p.Key, err)
		}
	}
	c := Config{Codec: api.VP9, Preset: "slow", Width: 320, Height: 192, FPS: 30, BitrateKbps: 1000}
	if err := c.Check(); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "preset") {
		t.Errorf("an unknown preset: %v", err)
	}
}
