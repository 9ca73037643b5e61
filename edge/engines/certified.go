package engines

import "github.com/perigee-cloud/perigee/api"

// Certified lists the engines of a node in the order in which they are tried:
// those of its certificate, and the pools that are offered without one as an
// engine each.
func Certified(c *api.Certificate, pools []api.Capacity) []Engine {
	var out []Engine
	for _, p := range pools {
		hardware := p.Pool != api.PoolCPU
		at := len(out)
		if c != nil && hardware {
			for _, e := range c.Shares(p) {
				out = append(out, Engine{Name: e.Engine, Pool: p.Pool, Device: e.Device, Macroblocks: e.Macroblocks, Sessions: e.Sessions, Codecs: e.Codecs, Factors: p.Factors})
			}
		}
		if len(out) == at {
			e := Engine{Name: string(p.Pool), Pool: p.Pool, Macroblocks: p.Macroblocks, Sessions: p.Sessions, Codecs: p.Codecs, Factors: p.Factors}
			if hardware {
				e.Name += "0"
			}
			out = append(out, e)
		}
	}
	return out
}
