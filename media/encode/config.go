package encode

import (
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/perigee-cloud/perigee/api"
)

// Config of a Video encoder.
type Config struct {
	Codec api.Codec
	// Pool is the kind of encoder; "" is the processors.
	Pool api.Pool
	// Device names the processor of a hardware pool: an index for NVENC, a render
	// node for VA-API; "" is the first.
	Device string
	// Width and Height in pixels, both even, 16 to api.MaxWidth x MaxHeight.
	Width, Height int
	// FPS is the rate that the bitrate is spread over, 1 to api.MaxFPS.
	FPS int
	// BitrateKbps in kb/s, at least 50.
	BitrateKbps int
	// Threads of the encoder; 0 = 1. More threads cost more processor time in
	// all, and one is enough up to 1080p60 for H.264.
	Threads int
	// Preset api.PresetFast takes less time for a worse picture, with the encoders
	// that have something faster (see Faster); the others stay as they are.
	Preset api.Preset
	// Content api.ContentDetail is for text and other drawn screens: VP9 then takes
	// what moved as a whole for that, at more time for a picture that all changes.
	// Other encoders know no difference. See Favour.
	Content string
}

// ErrConfig says that a configuration cannot be encoded.
var ErrConfig = errors.New("video configuration refused")

// Check refuses a configuration that cannot be encoded; the error wraps ErrConfig
// and names the field.
func (c Config) Check() error {
	refuse := func(field string, format string, a ...any) error {
		return fmt.Errorf("%s %s: %w", field, fmt.Sprintf(format, a...), ErrConfig)
	}
	side := func(field string, n, most int) error {
		if n < 16 || n > most {
			return refuse(field, "must be 16 to %d, got %d", most, n)
		}
		if n%2 != 0 {
			return refuse(field, "must be even, got %d: round it up", n)
		}
		return nil
	}
	if _, ok := recipes(c); !ok {
		if _, soft := recipes(Config{Codec: c.Codec}); soft {
			return refuse("pool", "%q has no encoder of %s; use %q", c.Pool, c.Codec, api.PoolCPU)
		}
		if c.Codec == api.H264 {
			return refuse("codec", "%q has no software encoder in this build (nox264): use another codec, or a build with libx264", c.Codec)
		}
		return refuse("codec", "%q is not one of %v", c.Codec, api.Codecs())
	}
	if err := errors.Join(side("width", c.Width, api.MaxWidth), side("height", c.Height, api.MaxHeight)); err != nil {
		return err
	}
	if c.FPS < 1 || c.FPS > api.MaxFPS {
		return refuse("fps", "must be 1 to %d, got %d", api.MaxFPS, c.FPS)
	}
	if c.Preset != api.PresetDefault && c.Preset != api.PresetFast {
		return refuse("preset", "must be %q or nothing, got %q", api.PresetFast, c.Preset)
	}
	if c.BitrateKbps < minKbps {
		return refuse("bitrate_kbps", "must be at least %d, got %d", minKbps, c.BitrateKbps)
	}
	return nil
}

const (
	minKbps = 50
	// endless is a keyframe interval in pictures that no session reaches (two
	// months at 200 a second): keys come when asked for.
	endless = 1 << 30
)

// common are the options that every encoder takes alike.
func (c Config) common() map[string]string {
	return map[string]string{
		"b":       strconv.Itoa(c.BitrateKbps * 1000),
		"g":       strconv.Itoa(endless),
		"bf":      "0",
		"threads": strconv.Itoa(c.Threads),
	}
}

// Faster says whether the encoder of a configuration has something faster than
// the default preset. libx264 (ultrafast) has nothing, SVT-AV1 nothing that is right.
func Faster(c Config) bool {
	r, ok := recipes(c)
	return ok && r.faster != nil
}

// settings are the encoder's options by the configuration's preset.
func (r recipe) settings(c Config) map[string]string {
	all := with(c.common(), r.options(c))
	if c.Preset == api.PresetFast {
		all = with(all, r.faster)
	}
	return all
}

// with joins option sets; later ones win.
func with(sets ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, s := range sets {
		maps.Copy(out, s)
	}
	return out
}
