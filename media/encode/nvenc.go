package encode

import (
	"fmt"
	"os"
	"strconv"

	"github.com/asticode/go-astiav"
)

// nvencOptions are NVENC's for the least delay (NVIDIA Video Codec SDK,
// programming guide, low-latency settings): ultra-low-latency tuning, no
// B-frames, no look-ahead, nothing held back, constant bitrate with a buffer of
// one picture, no scene-cut keys. A gop of -1 is NVENC's endless one.
//
// FFmpeg's intra-refresh only makes refreshes that come periodically, all the
// time, in place of periodic keys (7.1, nvenc.c: intraRefreshPeriod from "g"); one
// on demand (forceIntraRefreshWithFrameCnt) and reference invalidation it never
// asks for. So loss is answered by a key, which the one-picture buffer keeps short.
func nvencOptions(c Config) map[string]string {
	bits := c.BitrateKbps * 1000
	return map[string]string{
		"g":            "-1",
		"preset":       nvencPreset,
		"tune":         "ull",
		"rc":           "cbr",
		"zerolatency":  "1",
		"delay":        "0",
		"surfaces":     "2", // one being encoded, one being read: fewer hold up
		"forced-idr":   "1",
		"no-scenecut":  "1",
		"strict_gop":   "1",
		"rc-lookahead": "0",
		"gpu":          strconv.Itoa(nvencIndex(c.Device)),
		"maxrate":      strconv.Itoa(bits),
		"bufsize":      strconv.Itoa(bits / c.FPS),
		"spatial-aq":   "0",
		"temporal-aq":  "0",
	}
}

// nvencPreset is P3: the published figures that planners use are of it.
const nvencPreset = "p3"

// nvencFast is P1, the fastest.
func nvencFast() map[string]string { return map[string]string{"preset": "p1"} }

// nvencIndex reads the device's index; the first when it is not given.
func nvencIndex(device string) int {
	n, err := strconv.Atoi(device)
	if err != nil {
		return 0
	}
	return n
}

// nvencRate uses NVENC's reconfiguration: FFmpeg compares these fields with what
// it last set, at each picture.
func nvencRate(cc *astiav.CodecContext, c Config) error {
	bits := c.BitrateKbps * 1000
	cc.SetBitRate(int64(bits))
	cc.SetRateControlMaxRate(int64(bits))
	cc.SetRateControlBufferSize(bits / c.FPS)
	return nil
}

// nvencInput is BGRA as it was captured: NVENC converts on the device (BT.601,
// studio range), which costs the processor one copy.
func nvencInput() *hardware {
	return &hardware{pixels: astiav.PixelFormatBgr0, load: loadBGRA, prepare: nvencPrepare}
}

// nvencPrepare has CUDA, which reads it when it is first used, count the devices
// as NVML does: by their place on the bus. By itself it puts the fastest first.
func nvencPrepare(Config, *astiav.CodecContext) (func(), error) {
	if err := os.Setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID"); err != nil {
		return nil, fmt.Errorf("order the devices: %w", err)
	}
	return func() {}, nil
}

func nvencH264() recipe {
	return recipe{name: "h264_nvenc", rate: nvencRate, hardware: nvencInput(), faster: nvencFast(), options: func(c Config) map[string]string {
		return with(nvencOptions(c), map[string]string{"profile": "baseline", "coder": "cavlc"})
	}}
}

func nvencH265() recipe {
	return recipe{name: "hevc_nvenc", rate: nvencRate, hardware: nvencInput(), faster: nvencFast(), options: func(c Config) map[string]string {
		return with(nvencOptions(c), map[string]string{"profile": "main", "tier": "main"})
	}}
}

func nvencAV1() recipe {
	return recipe{name: "av1_nvenc", rate: nvencRate, hardware: nvencInput(), faster: nvencFast(), options: nvencOptions}
}
