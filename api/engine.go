package api

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// Unknown marks a share that nobody measures.
const Unknown = -1

// EngineHeadroom is what one hardware engine shows of itself. Shares are percent;
// Unknown where it does not say.
type EngineHeadroom struct {
	Engine   string `json:"engine"`  // "nvenc0", "vaapi1"
	State    string `json:"state"`   // "ok", or what is wrong: "lost", "no_encoder", "quarantined" ...
	Encoder  int    `json:"encoder"` // used, by all
	Foreign  int    `json:"foreign"` // of that, not by our streams
	SM       int    `json:"sm"`      // used, of the processor itself
	VRAM     int    `json:"vram"`    // used, of its memory
	Sessions int    `json:"sessions"`
	// LatencyUS is the encoder's own average, µs; gossiped in steps of 100.
	LatencyUS int `json:"latency_us"`
}

const (
	maxEngines  = 16
	latencyStep = 100
	unknownByte = 255
	maxIndex    = 63
)

// engineStates in the order of their bytes on the wire; never reordered.
var engineStates = [...]string{"ok", "no_driver", "no_gpu", "no_encoder", "missing_symbol", "lost", "nonsense", "no_permission", "failed", "quarantined", "claimed"}

// enginePools in the order of their bits on the wire.
var enginePools = [...]Pool{PoolNVENC, PoolVAAPI}

// appendLive appends what came with the engines: after what the first version
// reads, which ignores it. Nothing when there is nothing to say.
func (h Headroom) appendLive(b []byte) []byte {
	if h.Foreign == 0 && h.Uplink == 0 && len(h.Engines) == 0 && h.ForeignMemory == 0 && h.ForeignUplink == 0 {
		return b
	}
	b = append(b, percent(h.Foreign), percent(h.Uplink))
	at := len(b)
	b = append(b, 0)
	for _, e := range h.Engines[:min(len(h.Engines), maxEngines)] {
		code, ok := engineCode(e.Engine)
		if !ok {
			continue
		}
		b[at]++
		b = append(b, code, stateCode(e.State), share(e.Encoder), share(e.Foreign), share(e.SM), share(e.VRAM))
		b = binary.AppendUvarint(b, uint64(max(e.Sessions, 0)))
		b = binary.AppendUvarint(b, uint64(max(e.LatencyUS, 0)/latencyStep))
	}
	if h.ForeignMemory > 0 || h.ForeignUplink > 0 { // came later: the engines' readers pass it over
		b = append(b, percent(h.ForeignMemory), percent(h.ForeignUplink))
	}
	return b
}

// parseLive reads what appendLive wrote; r has bytes left.
func (h *Headroom) parseLive(r *reader) error {
	h.Foreign, h.Uplink = shareOf(r.byte()), shareOf(r.byte())
	n := int(r.byte())
	if n > maxEngines || h.Foreign < 0 || h.Uplink < 0 {
		return fmt.Errorf("read headroom of %d engines: %w", n, ErrHeadroom)
	}
	for range n {
		code, state := r.byte(), r.byte()
		e := EngineHeadroom{Encoder: shareOf(r.byte()), Foreign: shareOf(r.byte()), SM: shareOf(r.byte()), VRAM: shareOf(r.byte())}
		sessions, latency := r.uvarint(), r.uvarint()
		if sessions > 1<<20 || latency > 1<<30 {
			return fmt.Errorf("read headroom of an engine: %w", ErrHeadroom)
		}
		if int(code>>6) >= len(enginePools) {
			continue // of a kind that a later version knows
		}
		e.Engine = string(enginePools[code>>6]) + strconv.Itoa(int(code&maxIndex))
		e.State = engineStates[stateCode("")] // of a state that a later version knows: "failed"
		if int(state) < len(engineStates) {
			e.State = engineStates[state]
		}
		e.Sessions, e.LatencyUS = int(sessions), int(latency)*latencyStep
		h.Engines = append(h.Engines, e)
	}
	if r.err == nil && len(r.b) >= 2 {
		h.ForeignMemory, h.ForeignUplink = int(percent(int(r.byte()))), int(percent(int(r.byte())))
	}
	return r.err
}

func engineCode(name string) (byte, bool) {
	for i, p := range enginePools {
		rest, ok := strings.CutPrefix(name, string(p))
		if n, err := strconv.Atoi(rest); ok && err == nil && n >= 0 && n <= maxIndex {
			return byte(i<<6 | n), true
		}
	}
	return 0, false
}

func stateCode(s string) byte {
	failed := byte(0)
	for i, known := range engineStates {
		if s == known {
			return byte(i)
		}
		if known == "failed" {
			failed = byte(i)
		}
	}
	return failed
}

func share(v int) byte {
	if v < 0 {
		return unknownByte
	}
	return percent(v)
}

func shareOf(b byte) int {
	if b > 100 {
		return Unknown
	}
	return int(b)
}
