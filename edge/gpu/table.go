package gpu

import (
	"fmt"
	"slices"
	"strings"

	"github.com/perigee-cloud/perigee/api"
)

// Published is what is published of a model.
type Published struct {
	Engines int // encoders; 0 = none
	// Rates are macroblocks per second of all engines, for low latency, by the
	// codecs that the model encodes.
	Rates  map[api.Codec]uint64
	Source string
}

// Codecs lists what the model encodes, in the order in which it is measured.
func (p Published) Codecs() []api.Codec {
	return slices.DeleteFunc(hardwareCodecs(), func(c api.Codec) bool { return p.Rates[c] == 0 })
}

func hardwareCodecs() []api.Codec { return []api.Codec{api.H264, api.H265, api.AV1} }

// generation is what one engine of an architecture is published to encode:
// pictures of 1920x1080 a second, preset P3, constant bitrate, low latency. 0 =
// not at all: AV1 comes with Ada (the support matrix; H.265 with the second
// Maxwell, which is before all of these).
type generation struct{ h264, h265, av1 uint64 }

const (
	noteNVENC = "NVIDIA Video Codec SDK 13.0, NVENC application note, encoding performance at P3 for low latency"
	matrix    = "NVIDIA video encode and decode GPU support matrix"
	seedT4    = "37 streams of 1280x720@30 in H.264, the figure that planners of Anbox Cloud use; H.265 by Turing's ratio in the NVENC application note"

	hd1080 = 8160 // macroblocks of 1920x1080
)

func turing() generation    { return generation{600, 463, 0} }
func ampere() generation    { return generation{613, 467, 0} }
func ada() generation       { return generation{652, 494, 774} }
func blackwell() generation { return generation{718, 529, 798} }

// published gives the figures of so many engines; per1080 is the macroblocks that
// one picture of the table's stands for.
func (g generation) published(engines int, per1080 float64, source string) Published {
	p := Published{Engines: engines, Rates: map[api.Codec]uint64{}, Source: source}
	for c, fps := range map[api.Codec]uint64{api.H264: g.h264, api.H265: g.h265, api.AV1: g.av1} {
		if n := uint64(float64(fps*uint64(engines)) * per1080); n > 0 {
			p.Rates[c] = n
		}
	}
	return p
}

// model is one row: the first whose words all stand in a device's name holds.
type model struct {
	words   string
	engines int
	generation
}

// models lists parts before their families, so that "L40S" is found before "L4".
// A name in no row has an unknown number of engines: the probe finds out.
func models() []model {
	return []model{
		{"H100", 0, generation{}},
		{"H200", 0, generation{}},
		{"H800", 0, generation{}},
		{"A100", 0, generation{}},
		{"A30", 0, generation{}},
		{"B200", 0, generation{}},
		{"L40S", 3, ada()},
		{"L40", 3, ada()},
		{"L4", 2, ada()},
		{"A16", 1, ampere()}, // the board shows as four devices
		{"A10G", 1, ampere()},
		{"A10", 1, ampere()},
		{"A40", 1, ampere()},
		{"RTX 50", 1, blackwell()},
		{"RTX 40", 1, ada()},
		{"RTX 30", 1, ampere()},
		{"RTX 20", 1, turing()},
	}
}

// PublishedOf looks a device's name up. ok is false for a model that the table
// does not have.
func PublishedOf(name string) (p Published, ok bool) {
	if has(name, "T4") { // between P3 and P5 of Turing
		g := turing()
		return g.published(1, 37*108_000/float64(g.h264), seedT4), true
	}
	for _, m := range models() {
		if !has(name, m.words) {
			continue
		}
		if m.engines == 0 {
			return Published{Source: matrix}, true
		}
		return m.published(m.engines, hd1080, noteNVENC), true
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

// Estimate gives what the devices are published to encode, each codec at its own
// cost: it stands in for a certificate. It offers what every device does, for
// nobody knows yet which of them is asked, and H.265 only once it was measured:
// no other engine may take its sessions over. ok is false when no device is in
// the table.
func Estimate(devices []Device) (c api.Capacity, ok bool) {
	var known []Published
	codecs := []api.Codec{api.H264, api.AV1}
	for _, d := range devices {
		p, there := PublishedOf(d.Name)
		if !there || !d.Encodes() || p.Engines == 0 {
			continue
		}
		known = append(known, p)
		codecs = slices.DeleteFunc(codecs, func(c api.Codec) bool { return p.Rates[c] == 0 })
	}
	var as api.Certificate // what it would be if the figures were measured
	for i, p := range known {
		for _, codec := range codecs {
			as.Engines = append(as.Engines, api.EngineCertificate{Engine: fmt.Sprint(i), Pool: api.PoolNVENC, Codec: codec,
				State: api.EngineCertified, Macroblocks: p.Rates[codec]})
		}
	}
	return as.Certified(api.PoolNVENC)
}
