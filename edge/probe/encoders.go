package probe

import (
	"context"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gpu"
	"github.com/perigee-cloud/perigee/edge/gpu/nvml"
	"github.com/perigee-cloud/perigee/media/encode"
)

// Engine is the task of one codec on one engine, with the settings that streams
// use. Device names the processor of a hardware pool. fast: the faster preset is
// measured, too, where the encoder has one.
func Engine(engine string, pool api.Pool, device string, codec api.Codec, phase time.Duration, fast bool) Task {
	cfg := encode.Config{
		Codec: codec, Pool: pool, Device: device,
		Width: clipWidth, Height: clipHeight, FPS: clipFPS, BitrateKbps: clipKbps, Threads: 1,
	}
	t := Task{Engine: engine, Pool: pool, Codec: codec, Phase: phase, Open: func() (Encoder, error) { return encode.NewVideo(cfg) }}
	if fast && encode.Faster(cfg) {
		cheaper := cfg
		cheaper.Preset = api.PresetFast
		t.OpenFast = func() (Encoder, error) { return encode.NewVideo(cheaper) }
	}
	return t
}

// Inventory lists what this machine has to encode with; program is the version
// of this one, library the driver's ("" = where the loader finds it).
func Inventory(ctx context.Context, program, library string) gpu.Inventory {
	inv := gpu.Inventory{Software: "perigee " + program + ", " + encode.Version(), VAAPI: gpu.Renders("/")}
	inv.Machine, inv.Cores = gpu.Machine()
	d := nvml.Open(library)
	defer d.Close()
	inv.Devices, inv.State, inv.Detail = d.Devices(ctx)
	inv.Driver = d.Version()
	return inv
}
