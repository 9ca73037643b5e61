package certify

import (
	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gpu"
)

// Pools says what a node may be reserved for: what is certified; where nothing
// was measured yet, what is published or estimated. An operator's own figure of
// the cpu pool (0 = none) holds as far as it is not above the certificate.
func Pools(c *api.Certificate, inv gpu.Inventory, operator uint64) []api.Capacity {
	cpu := gpu.CPUPool(inv.Cores)
	if operator > 0 {
		cpu.Macroblocks = operator
	}
	if c == nil || !measured(*c, api.PoolCPU) {
		out := []api.Capacity{cpu}
		if hw, ok := gpu.Estimate(inv.Devices); ok && (c == nil || !measured(*c, api.PoolNVENC)) {
			out = append([]api.Capacity{hw}, out...)
		}
		return out
	}
	var out []api.Capacity
	for _, p := range []api.Pool{api.PoolNVENC, api.PoolVAAPI} {
		if k, ok := c.Certified(p); ok {
			out = append(out, k)
		} else if hw, ok := gpu.Estimate(inv.Devices); ok && p == api.PoolNVENC && !measured(*c, p) {
			out = append(out, hw)
		}
	}
	k, _ := c.Certified(api.PoolCPU) // nothing certified: a pool without room, and named so
	k.Pool = api.PoolCPU
	if operator > 0 {
		k.Macroblocks = min(k.Macroblocks, operator)
	}
	return append(out, k)
}

// measured says whether a certificate judges a pool: every codec's turn came.
func measured(c api.Certificate, p api.Pool) bool {
	any := false
	for _, e := range c.Engines {
		if e.Pool == p {
			if e.State == api.EngineInterrupted {
				return false
			}
			any = true
		}
	}
	return any
}
