package edge

import (
	"strings"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gpu"
)

// Engine is one hardware engine as it was certified.
type Engine struct {
	Name        string // "nvenc0"
	Pool        api.Pool
	Macroblocks uint64 // per second
}

// maxEngines bounds what is told of the hardware.
const maxEngines = 16

// graphics fills the hardware engines' part of a headroom and gives what others
// take of each pool, in macroblocks per second.
func (m measured) graphics(h *api.Headroom, bind func(string, int)) map[api.Pool]uint64 {
	own := map[string]uint64{}
	for _, c := range m.costs {
		own[c.engine] += c.mbs
	}
	foreign := map[api.Pool]uint64{}
	for _, r := range m.sample.Readings {
		name, pool := r.Name(), api.PoolNVENC
		if strings.HasPrefix(name, string(api.PoolVAAPI)) {
			pool = api.PoolVAAPI
		}
		e := api.EngineHeadroom{
			Engine: name, State: string(r.State), Encoder: r.Encoder, Foreign: api.Unknown, SM: r.GPU, VRAM: r.Memory,
			Sessions: max(r.Sessions, 0), LatencyUS: max(r.LatencyUS, 0),
		}
		var certified uint64
		for _, c := range m.engines {
			if c.Name == name {
				certified = c.Macroblocks
			}
		}
		if r.Encoder >= 0 {
			ours := 0
			if certified > 0 {
				ours = int(min(own[name]*100/certified, 100))
			}
			e.Foreign = max(r.Encoder-ours, 0)
			bind(name, r.Encoder)
		}
		switch r.State {
		case gpu.StateLost, gpu.StateFailed, gpu.StateNonsense, gpu.StateQuarantined, gpu.StateDenied, gpu.StateClaimed:
			foreign[pool] += certified - min(own[name], certified) // nothing more is to be had of it
		default:
			foreign[pool] += certified * uint64(max(e.Foreign, 0)) / 100
		}
		if certified > 0 || r.State == gpu.StateOK {
			bind("sm", r.GPU)
			bind("vram", r.Memory)
		}
		if len(h.Engines) < maxEngines {
			h.Engines = append(h.Engines, e)
		}
	}
	return foreign
}

func (a *Agent) sample() gpu.Sample {
	if a.cfg.Graphics == nil {
		return gpu.Sample{}
	}
	return a.cfg.Graphics()
}

func (a *Agent) engines() []Engine {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.certified
}

// SetEngines replaces what is known of the hardware engines.
func (a *Agent) SetEngines(e []Engine) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.certified = e
}

// roots lists the processes that are ours with all that they started.
func (a *Agent) roots() []int {
	out := []int{a.pid}
	a.mu.Lock()
	notes := make([]string, 0, len(a.units))
	for _, u := range a.units {
		notes = append(notes, u.dir.Path(fileProcesses))
	}
	a.mu.Unlock()
	for _, n := range notes {
		p, err := readProcesses(n)
		if err != nil {
			continue // being made or removed
		}
		for _, q := range []*process{p.Shim, p.Stream} {
			if q != nil {
				out = append(out, q.PID)
			}
		}
	}
	return out
}

// alarm logs what became of the hardware engines since the last look: one that
// is out is somebody's to see to, while the rest of the machine goes on.
func (m *meter) alarm(s gpu.Sample) {
	if m.states == nil {
		m.states = map[string]gpu.State{}
	}
	for _, r := range s.Readings {
		name := r.Name()
		was, known := m.states[name]
		m.states[name] = r.State
		switch {
		case r.State == was:
		case r.State != gpu.StateOK && r.State != gpu.StateNoEncoder:
			m.agent.log.Warn("encoder engine is out", "engine", name, "state", r.State, "detail", r.Detail)
		case known:
			m.agent.log.Info("encoder engine is back", "engine", name, "was", was)
		}
	}
}
