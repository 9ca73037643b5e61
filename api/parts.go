package api

// Part names a part of a node that a session takes beside its encoder pool.
type Part string

// The parts beside the pools.
const (
	PartCPU    Part = "cpu"    // thousandths of a core, for applications
	PartMemory Part = "memory" // MiB
	PartUplink Part = "uplink" // kb/s of the way out
	PartVRAM   Part = "vram"   // MiB of one graphics processor
)

// Unit is what a part is counted in.
func (p Part) Unit() string {
	switch p {
	case PartCPU:
		return "millicores"
	case PartUplink:
		return "kb/s"
	default:
		return "MiB"
	}
}

// Parts is what a session takes of a node beside its encoder pool. Software
// encoding is counted in the pool cpu alone: CPUMillis is the application's.
type Parts struct {
	CPUMillis  uint64 `json:"cpu_millis,omitempty"`
	MemoryMiB  uint64 `json:"memory_mib,omitempty"`
	UplinkKbps uint64 `json:"uplink_kbps,omitempty"` // the highest that each viewer is sent
	VRAMMiB    uint64 `json:"vram_mib,omitempty"`    // of the one graphics processor GPU
	GPU        int    `json:"gpu,omitempty"`         // its number in Machine.GPUs, from 1 on; 0 = none
}

// Machine is what a node has beside its encoders, as its operator lets it be
// promised: an amount of 0 is not known, and not limited. A nil Machine knows
// nothing.
type Machine struct {
	CPUMillis  uint64      `json:"cpu_millis,omitempty"`
	MemoryMiB  uint64      `json:"memory_mib,omitempty"`
	UplinkKbps uint64      `json:"uplink_kbps,omitempty"`
	GPUs       []GPUMemory `json:"gpus,omitempty"` // without one, nothing that asks for VRAM runs there
}

// GPUMemory is one graphics processor of a Machine.
type GPUMemory struct {
	Device  string `json:"device"` // as engines name it
	VRAMMiB uint64 `json:"vram_mib"`
}

// MaxGPUs bounds the graphics processors of a Machine. The ledger counts no
// others: it grows only when every replica knows the greater bound.
const MaxGPUs = 64

// maxAmount bounds each amount of a Machine: beyond it sums might not fit.
const maxAmount = 1 << 40

// Check refuses amounts that cannot be.
func (m *Machine) Check() error {
	if m == nil {
		return nil
	}
	for _, f := range []struct {
		name string
		v    uint64
	}{{"cpu_millis", m.CPUMillis}, {"memory_mib", m.MemoryMiB}, {"uplink_kbps", m.UplinkKbps}} {
		if f.v > maxAmount {
			return Invalidf("node.machine."+f.name, "must be at most %d, or 0 where it is not known, got %d", uint64(maxAmount), f.v)
		}
	}
	if len(m.GPUs) > MaxGPUs {
		return Invalidf("node.machine.gpus", "at most %d, got %d", MaxGPUs, len(m.GPUs))
	}
	for _, g := range m.GPUs {
		if g.VRAMMiB > maxAmount || len(g.Device) > maxIDLength {
			return Invalidf("node.machine.gpus", "the device %.32q with %d MiB cannot be", g.Device, g.VRAMMiB)
		}
	}
	return nil
}

// Takes is what an instance of the application takes of a node: what its control
// group lets it have, and the graphics memory that it says it needs.
func (r Resources) Takes() Parts {
	return Parts{CPUMillis: uint64(max(r.CPUMillis, 0)), MemoryMiB: uint64(max(r.MemoryMiB, 0)), VRAMMiB: uint64(max(r.GPUMemoryMiB, 0))}
}

// MostKbps is the highest bitrate at which a picture is streamed: 5 Mb/s for
// 720p60, Anbox's published default; others scale with macroblocks per second.
func MostKbps(s Screen) int {
	const base = 216_000 // macroblocks per second of 1280x720@60
	return min(max(int(5000*Macroblocks(s.Width, s.Height, s.FPS)/base), 1000), 30_000)
}

// Uplink is what one viewer of a picture takes of a node's way out, in kb/s: the
// highest bitrate that it is sent.
func Uplink(s Screen) uint64 { return uint64(MostKbps(s)) }

// PartUse is one part of a node as the ledger has it.
type PartUse struct {
	Part     Part   `json:"part"`
	Device   string `json:"device,omitempty"` // of vram
	Reserved uint64 `json:"reserved"`
	Most     uint64 `json:"most,omitempty"` // 0 = not known, and not limited
}

// Binding is the fullest part of a node as the ledger has it: "cpu", "memory",
// "uplink", "vram:0", "pool:cpu", "sessions:nvenc"; "" where nothing is limited.
type Binding struct {
	Part    string `json:"part"`
	Percent int    `json:"percent"`
}

// Full names the part of a node that binds, in the ledger.
func (v *NodeView) Full() Binding {
	var out Binding
	fill := func(name string, reserved, most uint64) {
		if most == 0 {
			return
		}
		if share := int(min(reserved*100/most, 1000)); out.Part == "" || share > out.Percent {
			out = Binding{Part: name, Percent: share}
		}
	}
	for _, p := range v.Node.Pools {
		fill("pool:"+string(p.Pool), v.Reserved[p.Pool], p.Macroblocks)
		fill("sessions:"+string(p.Pool), uint64(max(v.Running[p.Pool], 0)), uint64(max(p.Sessions, 0)))
	}
	for _, p := range v.Parts {
		name := string(p.Part)
		if p.Device != "" {
			name += ":" + p.Device
		}
		fill(name, p.Reserved, p.Most)
	}
	return out
}
