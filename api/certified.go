package api

// EngineShare is what one engine carries of its pool, in the pool's unit.
type EngineShare struct {
	Engine      string
	Device      string // of a hardware pool
	Macroblocks uint64
	Sessions    int // at once; 0 = no limit
	Codecs      []Codec
}

// Certified gives the most that may be reserved on a pool. Its unit is a
// macroblock of H.264 as the pool encodes it, of the fastest codec where it
// encodes no H.264; the cost factors say what the other codecs take, so that no
// mix of them asks more of an engine than was measured. Sessions is 0 where an
// engine has no limit. ok is false when no engine of the pool was certified.
func (c Certificate) Certified(pool Pool) (k Capacity, ok bool) {
	k.Pool = pool
	rates := map[Codec]uint64{} // of all engines together
	for _, e := range c.Engines {
		if e.Pool == pool && e.State == EngineCertified {
			rates[e.Codec] += believed(e.Macroblocks)
		}
	}
	var base Codec
	for _, codec := range Codecs() {
		if _, has := rates[codec]; !has {
			continue
		}
		k.Codecs = append(k.Codecs, codec)
		if base == "" || base != H264 && rates[codec] > rates[base] {
			base = codec
		}
	}
	for _, codec := range k.Codecs {
		k.Factors = append(k.Factors, c.factors(pool, base, codec)...)
	}
	limited := true
	for _, e := range c.Shares(k) {
		k.Macroblocks += e.Macroblocks
		k.Sessions += e.Sessions
		limited = limited && e.Sessions > 0
	}
	if !limited {
		k.Sessions = 0
	}
	return k, len(k.Codecs) > 0
}

// factors gives what a codec costs by each preset that was measured: the most
// over the engines that encode both it and the base. None has both: no factor.
func (c Certificate) factors(pool Pool, base, codec Codec) (out []CostFactor) {
	bases := map[string]uint64{}
	for _, e := range c.Engines {
		if e.Pool == pool && e.State == EngineCertified && e.Codec == base {
			bases[e.Engine] = believed(e.Macroblocks)
		}
	}
	var usual, fast uint64
	everyFast := true
	for _, e := range c.Engines {
		have, both := bases[e.Engine]
		if e.Pool != pool || e.State != EngineCertified || e.Codec != codec {
			continue
		}
		everyFast = everyFast && both && e.Fast > e.Macroblocks
		if both {
			usual = max(usual, ratio(have, e.Macroblocks))
			fast = max(fast, ratio(have, e.Fast))
		}
	}
	if usual > 0 {
		out = append(out, CostFactor{Codec: codec, Thousandths: uint32(usual)})
	}
	if usual > 0 && everyFast && fast < usual {
		out = append(out, CostFactor{Codec: codec, Preset: PresetFast, Thousandths: uint32(fast)})
	}
	return out
}

// ratio is base/rate in thousandths, rounded up, 1 to MaxFactor.
func ratio(base, rate uint64) uint64 {
	rate = max(believed(rate), 1)
	return min(max((base*1000+rate-1)/rate, 1), MaxFactor)
}

// believed bounds a rate, so that its products with factors stay within 64 bits.
func believed(rate uint64) uint64 { return min(rate, 1<<46) }

// Shares says what each certified engine of a pool carries at the costs of p:
// the least over p's codecs that the engine encodes of (certified x cost), so
// that capacity divided by a codec's cost is never above what was measured.
func (c Certificate) Shares(p Capacity) []EngineShare {
	var out []EngineShare
	at := map[string]int{}
	for _, e := range c.Engines {
		if e.Pool != p.Pool || e.State != EngineCertified || !p.encodes(e.Codec) {
			continue
		}
		have := believed(e.Macroblocks) * p.thousandths(e.Codec, PresetDefault) / 1000
		if f, offered := p.factor(e.Codec, PresetFast); offered {
			have = min(have, believed(max(e.Fast, e.Macroblocks))*f/1000)
		}
		i, seen := at[e.Engine]
		if !seen {
			i = len(out)
			at[e.Engine] = i
			out = append(out, EngineShare{Engine: e.Engine, Device: e.Device, Macroblocks: have, Sessions: e.Sessions})
		}
		out[i].Macroblocks = min(out[i].Macroblocks, have)
		out[i].Sessions = max(out[i].Sessions, e.Sessions)
		out[i].Codecs = append(out[i].Codecs, e.Codec)
	}
	return out
}
