package engines

import (
	"slices"

	"github.com/perigee-cloud/perigee/api"
)

// Certified lists the engines of a node in the order in which they are tried:
// those of its certificate, and the pools that are offered without one as an
// engine each.
func Certified(c *api.Certificate, pools []api.Capacity) []Engine {
	var out []Engine
	for _, p := range pools {
		hardware := p.Pool != api.PoolCPU
		at := len(out)
		if c != nil && hardware {
			out = append(out, ofPool(*c, p.Pool)...)
		}
		if len(out) == at {
			e := Engine{Name: string(p.Pool), Pool: p.Pool, Macroblocks: p.Macroblocks, Sessions: p.Sessions, Codecs: p.Codecs}
			if hardware {
				e.Name += "0"
			}
			out = append(out, e)
		}
	}
	return out
}

// ofPool lists a pool's engines: each carries the least that it does over its
// codecs, so that no mix of them is too much.
func ofPool(c api.Certificate, pool api.Pool) []Engine {
	var out []Engine
	for _, e := range c.Engines {
		if e.Pool != pool || e.State != api.EngineCertified {
			continue
		}
		i := slices.IndexFunc(out, func(o Engine) bool { return o.Name == e.Engine })
		if i < 0 {
			out = append(out, Engine{Name: e.Engine, Pool: pool, Device: e.Device, Macroblocks: e.Macroblocks, Sessions: e.Sessions})
			i = len(out) - 1
		}
		o := &out[i]
		o.Macroblocks = min(o.Macroblocks, e.Macroblocks)
		o.Codecs = append(o.Codecs, e.Codec)
	}
	return out
}
