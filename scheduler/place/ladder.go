package place

import "github.com/perigee-cloud/perigee/api"

// step is one rung of the ladder: how good a stream is looked for, and on which
// pools.
type step struct {
	fps    int
	preset api.Preset
	pools  poolSet
	name   string // api.Step…; "" = as it was asked for
}

// poolSet has a bit for each of poolOrder.
type poolSet uint8

const (
	allPools poolSet = 1<<len(poolOrder) - 1
	software poolSet = 1 << (len(poolOrder) - 1) // the last of poolOrder
	hardware         = allPools &^ software
)

// maxSteps bounds the ladder: 240 frames a second halved down to 1, and the
// preset, twice.
const maxSteps = 20

// ladder lists what is tried one after the other: the picture as it was asked
// for, lower frame rates, a cheaper preset, and, where the policy takes software
// encoders last, the same on those.
func ladder(out []step, fps int, p *api.PlacementPolicy) []step {
	if p == nil {
		return append(out, step{fps: fps, pools: allPools})
	}
	pools := allPools
	if p.Software != api.SoftwareAny {
		pools = hardware
	}
	out = rungs(out, fps, p, pools, "")
	if p.Software == api.SoftwareLast {
		out = rungs(out, fps, p, software, api.StepSoftware)
	}
	return out
}

func rungs(out []step, fps int, p *api.PlacementPolicy, pools poolSet, name string) []step {
	lower := name
	for {
		out = append(out, step{fps: fps, pools: pools, name: lower})
		if p.MinFPS == 0 || fps <= p.MinFPS {
			break
		}
		fps = max(fps/2, p.MinFPS)
		if name == "" {
			lower = api.StepFPS
		}
	}
	if p.LowerPreset {
		if name == "" {
			lower = api.StepPreset
		}
		out = append(out, step{fps: fps, preset: api.PresetFast, pools: pools, name: lower})
	}
	return out
}

// MayFitLater says whether a refused session may find room when it waits: some
// node was refused for what passes.
func MayFitLater(refusals []api.Refusal, p *api.PlacementPolicy) bool {
	for _, r := range refusals {
		switch r.Code {
		case api.RefusedEncoder, api.RefusedSessions, api.RefusedHeadroom, api.RefusedLost, api.RefusedDrain, api.RefusedNoNodes,
			api.RefusedCPU, api.RefusedMemory, api.RefusedUplink, api.RefusedVRAM, api.RefusedKept:
			return true
		case api.RefusedLatency:
			if p != nil && p.RelaxMSPerS > 0 {
				return true
			}
		}
	}
	return false
}
