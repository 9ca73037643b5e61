package place

import (
	"fmt"
	"math"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// What a host has beside its pools, by these indexes.
const (
	cpu = iota
	memory
	uplink
	amountsLen
)

// amounts is one figure of each part beside the pools.
type amounts [amountsLen]int64

// unlimited is left of what is not known: more than anybody takes together.
const unlimited = math.MaxInt64 / 2

// maxAmount is the most that anybody asks for.
const maxAmount = math.MaxInt64 / 4

var partOrder = [amountsLen]api.Part{api.PartCPU, api.PartMemory, api.PartUplink}

func amountsOf(p api.Parts) amounts {
	return amounts{clip(p.CPUMillis), clip(p.MemoryMiB), clip(p.UplinkKbps)}
}

func clip(v uint64) int64 { return int64(min(v, maxAmount)) }

// beside is what a host has beside its pools: most of 0 is not known, and not
// limited.
type beside struct {
	most, used amounts
	gpus       []graphics
}

// graphics is the memory of one graphics processor, MiB.
type graphics struct {
	device           string
	most, used, held uint64
}

// besideOf gives nil for a node that says nothing of itself.
func besideOf(n *state.Node) *beside {
	if n.Machine == nil {
		return nil
	}
	return besideFrom(n.Parts())
}

func besideFrom(parts []api.PartUse) *beside {
	if len(parts) == 0 {
		return nil
	}
	b := &beside{}
	for _, u := range parts {
		switch u.Part {
		case api.PartVRAM:
			b.gpus = append(b.gpus, graphics{device: u.Device, most: u.Most, used: u.Reserved})
		default:
			for i, p := range partOrder {
				if u.Part == p {
					b.most[i], b.used[i] = clip(u.Most), clip(u.Reserved)
				}
			}
		}
	}
	return b
}

// settle works out what is left of each part, beside what placements under way hold.
func (h *host) settle() {
	for i := range h.left {
		h.left[i] = unlimited
		if h.beside != nil && h.beside.most[i] > 0 {
			h.left[i] = h.beside.most[i] - h.beside.used[i]
		}
		h.left[i] -= h.held[i]
	}
}

// gpu picks a graphics processor with so much memory left, by its number from 1
// on: the fullest of them, so that larger needs find a whole one. 0 = none.
func (b *beside) gpu(want uint64) int {
	if b == nil {
		return 1 // nobody says that it has none
	}
	best, least := 0, uint64(math.MaxUint64)
	for i := range b.gpus {
		g := &b.gpus[i]
		if free := g.most - min(g.used+g.held, g.most); free >= want && free < least {
			best, least = i+1, free
		}
	}
	return best
}

// take holds what a placement under way takes, or gives it back.
func (h *host) take(p api.Parts, back bool) {
	for i, v := range amountsOf(p) {
		if back {
			v = -min(v, h.held[i]) // a node that was removed and came back holds nothing
		}
		h.held[i] += v
		h.left[i] -= v
	}
	if b := h.beside; b != nil && p.GPU > 0 && p.GPU <= len(b.gpus) {
		held := &b.gpus[p.GPU-1].held
		if back {
			*held -= min(p.VRAMMiB, *held)
		} else {
			*held += p.VRAMMiB
		}
	}
}

// keep takes over what placements under way hold, when the ledger changed.
func (h *host) keep(old *host) {
	h.held = old.held
	if h.beside != nil && old.beside != nil {
		for i := range h.beside.gpus {
			if i < len(old.beside.gpus) {
				h.beside.gpus[i].held = old.beside.gpus[i].held
			}
		}
	}
	h.settle()
}

// record shows what a host has beside its pools, with what is under way.
func (h *host) record() []api.PartUse {
	b := h.beside
	if b == nil {
		return nil
	}
	var out []api.PartUse
	for i, p := range partOrder {
		out = append(out, api.PartUse{Part: p, Reserved: uint64(b.used[i] + h.held[i]), Most: uint64(b.most[i])})
	}
	for _, g := range b.gpus {
		out = append(out, api.PartUse{Part: api.PartVRAM, Device: g.device, Reserved: g.used + g.held, Most: g.most})
	}
	return out
}

// Takes is what a session with one viewer takes beside a pool at a frame rate.
func Takes(n *api.Need, fps int) api.Parts {
	p := n.Parts
	if n.Counted {
		screen := n.Screen
		screen.FPS = fps
		p.UplinkKbps = api.Uplink(screen)
	}
	return p
}

// want works out what the session takes beside a pool at the present step.
func (s *search) want() {
	s.parts = Takes(s.need, s.step.fps)
	all := api.Session{Parts: s.parts, MoreViewers: s.need.MoreViewers}
	s.amounts = amountsOf(all.Takes())
	s.f.notice(&s.amounts)
	for i, v := range s.amounts {
		if v > 0 {
			s.marks |= s.f.partMarks[i]
		}
	}
}

// aside says whether a host has room beside its pools, and which graphics
// processor for what needs one.
func (s *search) aside(h *host) (gpu int, ok bool) {
	for i, want := range s.amounts {
		if want > 0 && h.left[i] < want { // a part may be overdrawn: only who asks for it is refused
			return 0, false
		}
	}
	if s.parts.VRAMMiB == 0 {
		return 0, true
	}
	gpu = h.beside.gpu(s.parts.VRAMMiB)
	return gpu, gpu > 0
}

// notice follows the least that anybody asks of each part: a host with less
// than that is full for everyone, and searches pass it over. It halves, so that
// all hosts are looked at again a few times only.
func (f *Fleet) notice(a *amounts) {
	changed := false
	for i, v := range a {
		if v > 0 && v < f.smallest[i] {
			f.smallest[i], changed = v/2+1, true // halved: seldom again
		}
	}
	if changed {
		for i := range f.hosts {
			f.mark(int32(i))
		}
	}
}

// roomMarks are borne by a host for each part of which it has room for the least
// that anybody asks.
func (f *Fleet) roomMarks(h *host) uint64 {
	marks := uint64(0)
	for i, least := range f.smallest {
		if h.left[i] >= least {
			marks |= f.partMarks[i]
		}
	}
	return marks
}

// unaside says which part beside the pools binds.
func (s *search) unaside(h *host) *api.Refusal {
	b := h.beside
	for i, want := range s.amounts {
		if want == 0 || h.left[i] >= want {
			continue
		}
		part := partOrder[i]
		if want > b.most[i] {
			return h.refusal(api.RefusedSize, fmt.Sprintf("%s: %d %s are needed, it has %d in all", part, want, part.Unit(), b.most[i]))
		}
		return h.refusal(api.RefusalCode(part), fmt.Sprintf("%d of %d %s reserved, %d are needed", b.used[i]+h.held[i], b.most[i], part.Unit(), want))
	}
	if want := s.parts.VRAMMiB; want > 0 && b.gpu(want) == 0 {
		var most, free uint64
		for _, g := range b.gpus {
			most, free = max(most, g.most), max(free, g.most-min(g.used+g.held, g.most))
		}
		if want > most {
			return h.refusal(api.RefusedSize, fmt.Sprintf("vram: %d MiB of one graphics processor are needed, the largest has %d in all", want, most))
		}
		return h.refusal(api.RefusedVRAM, fmt.Sprintf("no graphics processor has over %d MiB left, %d are needed", free, want))
	}
	return nil
}
