package api

import (
	"math/rand/v2"
	"testing"
)

func engine(name string, pool Pool, codec Codec, mbs uint64) EngineCertificate {
	return EngineCertificate{Engine: name, Pool: pool, Codec: codec, State: EngineCertified, Macroblocks: mbs}
}

func TestCapacityIsOfTheCheapestCodecNotTheDearest(t *testing.T) {
	c := Certificate{Engines: []EngineCertificate{
		engine("cpu", PoolCPU, H264, 1_000_000), engine("cpu", PoolCPU, VP8, 800_000), engine("cpu", PoolCPU, VP9, 300_000),
		{Engine: "cpu", Pool: PoolCPU, Codec: AV1, State: EngineSlow},
	}}
	c.Engines[2].Fast = 500_000
	k, ok := c.Certified(PoolCPU)
	hd := Screen{Width: 1280, Height: 720, FPS: 30}
	if !ok || k.Macroblocks != 1_000_000 || len(k.Codecs) != 3 {
		t.Fatalf("certified %+v, %v", k, ok)
	}
	for _, w := range []struct {
		codec  Codec
		preset Preset
		cost   uint64
	}{{H264, "", 108_000}, {VP8, "", 135_000}, {VP9, "", 108_000 * 3334 / 1000}, {VP9, PresetFast, 216_000}, {VP8, PresetFast, 135_000}} {
		if got := k.Cost(w.codec, w.preset, hd); got != w.cost {
			t.Errorf("%s %q costs %d, want %d", w.codec, w.preset, got, w.cost)
		}
	}
	c.Engines[0].State = EngineUnavailable // no libx264: the fastest of the others is the unit
	if k, ok = c.Certified(PoolCPU); !ok || k.Macroblocks != 800_000 || k.Cost(VP8, "", hd) != 108_000 || k.Cost(VP9, "", hd) != 108_000*2667/1000 {
		t.Errorf("without H.264: %+v", k)
	}
	if _, ok = c.Certified(PoolNVENC); ok {
		t.Error("a pool that was not measured is certified")
	}
}

// Whatever was measured of however many engines, no codec by no preset is
// offered above its certified rate, on any engine.
func TestNoCodecIsOfferedAboveItsRate(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	some := func() uint64 { return 1 + dice.Uint64N(1<<dice.UintN(40)) }
	for range 3000 {
		c, pool := Certificate{}, []Pool{PoolCPU, PoolNVENC}[dice.IntN(2)]
		for n := range 1 + dice.IntN(3) {
			for _, codec := range Codecs() {
				if dice.IntN(4) == 0 {
					continue
				}
				e := engine(string(rune('a'+n)), pool, codec, some())
				if dice.IntN(2) == 0 {
					e.Fast = e.Macroblocks + some()
				}
				c.Engines = append(c.Engines, e)
			}
		}
		k, ok := c.Certified(pool)
		if ok != (len(c.Engines) > 0) {
			t.Fatalf("certified %+v: %v", c, ok)
		}
		var sum uint64
		for _, share := range c.Shares(k) {
			sum += share.Macroblocks
			for _, e := range c.Engines {
				if e.Engine != share.Engine {
					continue
				}
				if most := share.Macroblocks * 1000 / k.thousandths(e.Codec, PresetDefault); most > e.Macroblocks {
					t.Fatalf("%d macroblocks/s of %s on an engine certified for %d: %+v of %+v", most, e.Codec, e.Macroblocks, k, c)
				}
				if f, offered := k.factor(e.Codec, PresetFast); offered && share.Macroblocks*1000/f > e.Fast {
					t.Fatalf("fast %s above %d: %+v of %+v", e.Codec, e.Fast, k, c)
				}
			}
		}
		if sum != k.Macroblocks {
			t.Fatalf("the engines carry %d, the pool %d", sum, k.Macroblocks)
		}
		for _, f := range k.Factors {
			if f.Thousandths < 1 || f.Thousandths > MaxFactor {
				t.Fatalf("factor %+v", f)
			}
		}
	}
}
