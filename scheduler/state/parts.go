package state

import (
	"fmt"
	"slices"

	"github.com/perigee-cloud/perigee/api"
)

// PartsSince is the version of entries from which on they say what a session takes
// beside its pool.
const PartsSince = 4

// partsUsed is what the ledger holds of a node beside its pools.
type partsUsed struct {
	cpu, memory, uplink uint64
	vram                []uint64 // by graphics processor
}

// Parts gives what the ledger holds of the node beside its pools, and the most
// that it may: processors, memory, way out, then each graphics processor.
func (n *Node) Parts() []api.PartUse {
	var m api.Machine
	if n.Machine != nil {
		m = *n.Machine
	}
	out := []api.PartUse{
		{Part: api.PartCPU, Reserved: n.parts.cpu, Most: m.CPUMillis},
		{Part: api.PartMemory, Reserved: n.parts.memory, Most: m.MemoryMiB},
		{Part: api.PartUplink, Reserved: n.parts.uplink, Most: m.UplinkKbps},
	}
	for i, g := range m.GPUs {
		out = append(out, api.PartUse{Part: api.PartVRAM, Device: g.Device, Reserved: n.parts.vramOf(i + 1), Most: g.VRAMMiB})
	}
	return out
}

func (u *partsUsed) vramOf(gpu int) uint64 {
	if gpu < 1 || gpu > len(u.vram) {
		return 0
	}
	return u.vram[gpu-1]
}

// Carries says whether the node has room beside its pools for what a session
// takes, and else which part binds. What is not known is not limited; nor does a
// part bind of which nothing is asked, however full it is.
func (n *Node) Carries(p api.Parts) (api.Refusal, bool) {
	m := n.Machine
	if m == nil {
		return api.Refusal{}, true
	}
	for _, x := range [...]struct {
		part             api.Part
		want, used, most uint64
	}{
		{api.PartCPU, p.CPUMillis, n.parts.cpu, m.CPUMillis},
		{api.PartMemory, p.MemoryMiB, n.parts.memory, m.MemoryMiB},
		{api.PartUplink, p.UplinkKbps, n.parts.uplink, m.UplinkKbps},
	} {
		if x.want > 0 && x.most > 0 && (x.used >= x.most || x.most-x.used < x.want) {
			return n.full(x.part, "", x.want, x.used, x.most), false
		}
	}
	if p.VRAMMiB == 0 {
		return api.Refusal{}, true
	}
	if p.GPU < 1 || p.GPU > len(m.GPUs) {
		return api.Refusal{Node: n.ID, Region: n.Region, Code: api.RefusedVRAM, Detail: fmt.Sprintf("the node has no graphics processor number %d", p.GPU)}, false
	}
	g, used := m.GPUs[p.GPU-1], n.parts.vramOf(p.GPU)
	if used >= g.VRAMMiB || g.VRAMMiB-used < p.VRAMMiB {
		return n.full(api.PartVRAM, " of "+g.Device, p.VRAMMiB, used, g.VRAMMiB), false
	}
	return api.Refusal{}, true
}

func (n *Node) full(part api.Part, of string, want, used, most uint64) api.Refusal {
	return api.Refusal{Node: n.ID, Region: n.Region, Code: api.RefusalCode(part),
		Detail: fmt.Sprintf("%d of %d %s%s reserved, %d are needed", used, most, part.Unit(), of, want)}
}

// add reserves beside the pools, whatever is free.
func (u *partsUsed) add(p api.Parts) {
	u.cpu += p.CPUMillis
	u.memory += p.MemoryMiB
	u.uplink += p.UplinkKbps
	if p.VRAMMiB > 0 && p.GPU > 0 && p.GPU <= api.MaxGPUs {
		for len(u.vram) < p.GPU {
			u.vram = append(u.vram, 0)
		}
		u.vram[p.GPU-1] += p.VRAMMiB
	}
}

func (u *partsUsed) sub(p api.Parts) {
	u.cpu -= min(p.CPUMillis, u.cpu)
	u.memory -= min(p.MemoryMiB, u.memory)
	u.uplink -= min(p.UplinkKbps, u.uplink)
	if p.GPU > 0 && p.GPU <= len(u.vram) {
		u.vram[p.GPU-1] -= min(p.VRAMMiB, u.vram[p.GPU-1])
	}
}

func (u partsUsed) clone() partsUsed {
	u.vram = slices.Clone(u.vram)
	return u
}

// partsFields writes or reads what version 4 brought: a vector beside the pool.
func partsFields(c *coder, p *api.Parts) {
	if c.version < PartsSince {
		return
	}
	for _, v := range []*uint64{&p.CPUMillis, &p.MemoryMiB, &p.UplinkKbps, &p.VRAMMiB} {
		c.uint(v)
	}
	num(c, &p.GPU)
}

// watched counts the viewers of a session beyond the first, one for each share:
// each takes of the node's way out what the first does, and nothing else, since
// one picture is encoded for all. s may be changed.
func (t *tx) watched(s *Session, more int) error {
	if t.EntryVersion() < PartsSince {
		return nil
	}
	before := s.Takes()
	fewer := uint32(more) <= s.MoreViewers
	if n, ok := t.edit(s.Node); ok {
		n.parts.sub(before)
		was := s.MoreViewers
		s.MoreViewers = uint32(more)
		if r, fits := n.Carries(api.Parts{UplinkKbps: s.Takes().UplinkKbps}); !fits && !fewer {
			s.MoreViewers = was
			n.parts.add(before)
			e := api.Errorf(api.CodeNoCapacity, "the session's node has no room on its way out for %d viewers", more+1)
			e.Refusals = []api.Refusal{r}
			return e
		}
		n.parts.add(s.Takes())
	}
	s.MoreViewers = uint32(more)
	t.put(s)
	return nil
}

// OnGPU names the graphics processor that a session's memory is best taken of:
// the fullest with room, so that larger needs find a whole one; the last where
// none has.
func (n *Node) OnGPU(p api.Parts) api.Parts {
	if p.VRAMMiB == 0 {
		return p
	}
	p.GPU = 1
	if n.Machine == nil {
		return p
	}
	least := uint64(0)
	for i, g := range n.Machine.GPUs {
		used := n.parts.vramOf(i + 1)
		if free := g.VRAMMiB - min(used, g.VRAMMiB); free >= p.VRAMMiB && (least == 0 || free < least) {
			p.GPU, least = i+1, free
		}
	}
	return p
}
