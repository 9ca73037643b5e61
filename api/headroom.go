package api

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// PoolHeadroom is the live room of one pool.
type PoolHeadroom struct {
	Pool     Pool   `json:"pool"`
	Free     uint64 `json:"free"`     // macroblocks per second
	Sessions int    `json:"sessions"` // encoder sessions running
}

// Headroom is what a node measured of itself: a vector whose binding part is named.
type Headroom struct {
	Boot string `json:"boot"`
	Seq  uint64 `json:"seq"` // grows within a boot
	// CPU and Memory are the used share in percent.
	CPU        int `json:"cpu"`
	Memory     int `json:"memory"`
	Saturation int `json:"saturation"` // the binding part's used share in percent
	// Binding names the part that binds: "cpu", "memory", "uplink", an engine
	// ("nvenc0"), "sm" or "vram" of a graphics processor, "pool:cpu" or
	// "sessions:nvenc" where our own streams fill what was certified.
	Binding string         `json:"binding"`
	Pools   []PoolHeadroom `json:"pools"`
	// Foreign is the share of the processors that programs take which are none of
	// ours, Uplink that of the network's way out that is used (0 when its speed
	// is not known), in percent.
	Foreign int `json:"foreign,omitempty"`
	Uplink  int `json:"uplink,omitempty"`
	// ForeignMemory and ForeignUplink are the shares of memory and of the way out
	// that are used, but not by our processes and streams.
	ForeignMemory int `json:"foreign_memory,omitempty"`
	ForeignUplink int `json:"foreign_uplink,omitempty"`
	// Engines are the hardware engines, at most 16.
	Engines []EngineHeadroom `json:"engines,omitempty"`
}

// ErrHeadroom says that bytes are no headroom this version reads.
var ErrHeadroom = errors.New("not a headroom message")

const (
	headroomVersion = 1
	freeStep        = 3600 // one frame of 1280x720: finer changes are noise
	maxPools        = 16
	maxShort        = 32
)

// AppendBinary appends the compact form that is gossiped: tens of bytes. Free is
// quantised to 3,600 macroblocks per second.
func (h Headroom) AppendBinary(b []byte) []byte {
	b = append(b, headroomVersion)
	b = appendShort(b, h.Boot)
	b = binary.AppendUvarint(b, h.Seq)
	b = append(b, percent(h.CPU), percent(h.Memory), percent(h.Saturation))
	b = appendShort(b, h.Binding)
	n := min(len(h.Pools), maxPools)
	b = append(b, byte(n))
	for _, p := range h.Pools[:n] {
		b = appendShort(b, string(p.Pool))
		b = binary.AppendUvarint(b, p.Free/freeStep)
		b = binary.AppendUvarint(b, uint64(max(p.Sessions, 0)))
	}
	return h.appendLive(b)
}

// ParseHeadroom reads the compact form.
func ParseHeadroom(b []byte) (Headroom, error) {
	r := reader{b: b}
	if v := r.byte(); v != headroomVersion && r.err == nil {
		return Headroom{}, fmt.Errorf("read headroom version %d: %w", v, ErrHeadroom)
	}
	h := Headroom{Boot: r.short(), Seq: r.uvarint()}
	h.CPU, h.Memory, h.Saturation = int(r.byte()), int(r.byte()), int(r.byte())
	h.Binding = r.short()
	n := int(r.byte())
	if n > maxPools {
		return Headroom{}, fmt.Errorf("read headroom of %d pools: %w", n, ErrHeadroom)
	}
	for range n {
		p := PoolHeadroom{Pool: Pool(r.short()), Free: r.uvarint()}
		if p.Free > 1<<50 {
			return Headroom{}, fmt.Errorf("read headroom free: %w", ErrHeadroom)
		}
		p.Free *= freeStep
		s := r.uvarint()
		if s > 1<<20 {
			return Headroom{}, fmt.Errorf("read headroom sessions: %w", ErrHeadroom)
		}
		p.Sessions = int(s)
		h.Pools = append(h.Pools, p)
	}
	if len(r.b) > 0 {
		if err := h.parseLive(&r); err != nil {
			return Headroom{}, err
		}
	}
	if r.err != nil {
		return Headroom{}, r.err
	}
	return h, nil
}

func percent(v int) byte { return byte(min(max(v, 0), 100)) }

func appendShort(b []byte, s string) []byte {
	s = s[:min(len(s), maxShort)]
	return append(append(b, byte(len(s))), s...)
}

type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = fmt.Errorf("read headroom: %w", ErrHeadroom)
	}
	r.b = nil
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) short() string {
	n := int(r.byte())
	if n > maxShort || n > len(r.b) {
		r.fail()
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}
