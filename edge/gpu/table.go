package gpu

import (
	"slices"
	"strings"

	"github.com/perigee-cloud/perigee/api"
)

// Published is what is published of a model.
type Published struct {
	Engines     int    // encoders; 0 = none
	Macroblocks uint64 // per second, all engines, H.264 for low latency; of other codecs nothing is tabled
	Codecs      []api.Codec
	Source      string
}

// Sources of the table. Frames per second are of 1920x1080 (8,160 macroblocks),
// H.264, preset P3, low latency, for one engine.
const (
	noteNVENC = "NVIDIA Video Codec SDK 13.0, NVENC application note, table of H.264 P3 low latency"
	matrix    = "NVIDIA video encode and decode GPU support matrix"
	seedT4    = "37 streams of 1280x720@30, the figure that planners of Anbox Cloud use"

	hd1080     = 8160
	fpsTuring  = 600
	fpsAmpere  = 613
	fpsAda     = 652
	fpsModernB = 718 // Blackwell
)

// model is one row: the first whose words all stand in a device's name holds.
type model struct {
	words   string
	engines int
	fps     uint64 // of one engine
	av1     bool
	source  string
}

// models lists parts before their families, so that "L40S" is found before "L4".
// A name in no row has an unknown number of engines: the probe finds out.
func models() []model {
	return []model{
		{"H100", 0, 0, false, matrix},
		{"H200", 0, 0, false, matrix},
		{"H800", 0, 0, false, matrix},
		{"A100", 0, 0, false, matrix},
		{"A30", 0, 0, false, matrix},
		{"B200", 0, 0, false, matrix},
		{"L40S", 3, fpsAda, true, noteNVENC},
		{"L40", 3, fpsAda, true, noteNVENC},
		{"L4", 2, fpsAda, true, noteNVENC},
		{"A16", 1, fpsAmpere, false, noteNVENC}, // the board shows as four devices
		{"A10G", 1, fpsAmpere, false, noteNVENC},
		{"A10", 1, fpsAmpere, false, noteNVENC},
		{"A40", 1, fpsAmpere, false, noteNVENC},
		{"RTX 50", 1, fpsModernB, true, noteNVENC},
		{"RTX 40", 1, fpsAda, true, noteNVENC},
		{"RTX 30", 1, fpsAmpere, false, noteNVENC},
		{"RTX 20", 1, fpsTuring, false, noteNVENC},
	}
}

// PublishedOf looks a device's name up. ok is false for a model that the table
// does not have.
func PublishedOf(name string) (p Published, ok bool) {
	if has(name, "T4") { // between P3 and P5 of Turing
		return Published{Engines: 1, Macroblocks: 37 * 108_000, Codecs: []api.Codec{api.H264, api.H265}, Source: seedT4}, true
	}
	for _, m := range models() {
		if !has(name, m.words) {
			continue
		}
		p = Published{Engines: m.engines, Macroblocks: uint64(m.engines) * m.fps * hd1080, Source: m.source}
		if m.engines > 0 {
			p.Codecs = []api.Codec{api.H264, api.H265} // every NVENC since Pascal
		}
		if m.av1 {
			p.Codecs = append(p.Codecs, api.AV1)
		}
		return p, true
	}
	return Published{}, false
}

// has says whether the words begin a word of the name: "RTX 40" is in "NVIDIA
// GeForce RTX 4070", "L4" is in "NVIDIA L4" and not in "NVIDIA L40S".
func has(name, words string) bool {
	i := strings.Index(name, words)
	if i < 0 || i > 0 && name[i-1] != ' ' && name[i-1] != '-' {
		return false
	}
	if strings.HasPrefix(words, "RTX") {
		return true // a family: digits follow
	}
	rest := name[i+len(words):]
	return rest == "" || rest[0] == ' ' || rest[0] == '-'
}

// Estimate gives what the devices are published to encode: it stands in for a
// certificate. H.265 waits for one: its speed is not in the table, and no other
// engine may take its sessions over. ok is false when no device is in the table.
func Estimate(devices []Device) (c api.Capacity, ok bool) {
	c.Pool = api.PoolNVENC
	for _, d := range devices {
		p, known := PublishedOf(d.Name)
		if !known || !d.Encodes() || p.Macroblocks == 0 {
			continue
		}
		c.Macroblocks += p.Macroblocks
		if c.Codecs == nil || len(p.Codecs) < len(c.Codecs) {
			c.Codecs = p.Codecs // what every device does
		}
		ok = true
	}
	c.Codecs = slices.DeleteFunc(slices.Clone(c.Codecs), func(k api.Codec) bool { return k == api.H265 })
	return c, ok
}
