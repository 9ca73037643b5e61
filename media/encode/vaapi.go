package encode

import (
	"fmt"
	"os"
	"strconv"

	"github.com/asticode/go-astiav"
)

// vaapiDevice is the first render node of a machine with one processor.
const vaapiDevice = "/dev/dri/renderD128"

// vaapi is an encoder of VA-API (Intel, AMD): no B-frames, one picture in flight,
// constant bitrate with a buffer of one picture.
func vaapi(name, profile string) recipe {
	return recipe{
		name: name,
		options: func(c Config) map[string]string {
			bits := c.BitrateKbps * 1000
			return map[string]string{
				"async_depth":  "1",
				"rc_mode":      "CBR",
				"profile":      profile,
				"idr_interval": "0",
				"maxrate":      strconv.Itoa(bits),
				"bufsize":      strconv.Itoa(bits / c.FPS),
			}
		},
		// The driver's rate control is set when it is opened.
		rate:     func(*astiav.CodecContext, Config) error { return errReopen },
		hardware: &hardware{pixels: astiav.PixelFormatNv12, load: loadNV12, prepare: vaapiPrepare, upload: uploadFrame},
	}
}

// vaapiPool is the pictures in the device's memory: the reference, the one
// encoded, the one uploaded, one spare.
const vaapiPool = 4

func vaapiPrepare(c Config, cc *astiav.CodecContext) (func(), error) {
	path := c.Device
	if path == "" {
		path = vaapiDevice
	}
	// FFmpeg's own error is "invalid argument" for either.
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("no render node: %w", err)
	}
	device, err := astiav.CreateHardwareDeviceContext(astiav.HardwareDeviceTypeVAAPI, path, nil, 0)
	if err != nil {
		return nil, fmt.Errorf("no VA-API driver answers at %s (intel-media-va-driver, mesa-va-drivers; rights of the group render): %w", path, err)
	}
	frames := astiav.AllocHardwareFramesContext(device)
	if frames == nil {
		device.Free()
		return nil, fmt.Errorf("open %s for VA-API: out of memory", path)
	}
	free := func() { frames.Free(); device.Free() }
	frames.SetHardwarePixelFormat(astiav.PixelFormatVaapi)
	frames.SetSoftwarePixelFormat(astiav.PixelFormatNv12)
	frames.SetWidth(c.Width)
	frames.SetHeight(c.Height)
	frames.SetInitialPoolSize(vaapiPool)
	if err := frames.Initialize(); err != nil {
		free()
		return nil, fmt.Errorf("make pictures of %s: %w", path, err)
	}
	cc.SetPixelFormat(astiav.PixelFormatVaapi)
	cc.SetHardwareFramesContext(frames)
	return free, nil
}
