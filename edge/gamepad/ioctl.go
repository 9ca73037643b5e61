package gamepad

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// An ioctl's number (asm-generic/ioctl.h): 8 bits number, 8 bits type, 14 bits
// size, 2 bits direction.
func split(req uint32) (typ, nr byte, size int) {
	return byte(req >> 8), byte(req), int(req >> 16 & 0x3fff)
}

const (
	typeEvdev = 'E' // linux/input.h
	typeJoy   = 'j' // linux/joystick.h

	setClock = 0xa0 // EVIOCSCLOCKID
)

// answer is what an ioctl gives back.
type answer struct {
	out   []byte // to the caller's memory
	value int64
	errno unix.Errno
}

func refuse(e unix.Errno) answer { return answer{errno: e} }

// ints gives values of 32 bits, as much as the caller has room for.
func ints(values ...int32) answer {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	return answer{out: b}
}

// upTo gives bytes and says how many, as the kernel does of names and bit fields.
func upTo(size int, b []byte) answer {
	b = b[:min(size, len(b))]
	return answer{out: b, value: int64(len(b))}
}

// bits makes a bit field of n bytes.
func bits(n int, set ...uint16) []byte {
	b := make([]byte, n)
	for _, s := range set {
		b[s/8] |= 1 << (s % 8)
	}
	return b
}

// evdev answers an ioctl of the event device; in is what the caller gave.
func (c *client) evdev(d *device, req uint32, in []byte) answer {
	_, nr, size := split(req)
	switch {
	case nr == 0x01: // EVIOCGVERSION
		return ints(0x010001)
	case nr == 0x02: // EVIOCGID
		var b []byte
		for _, v := range []uint16{busUSB, vendor, product, version} {
			b = binary.LittleEndian.AppendUint16(b, v)
		}
		return answer{out: b}
	case nr == 0x06: // EVIOCGNAME
		return upTo(size, append([]byte(deviceName), 0))
	case nr == 0x07: // EVIOCGPHYS
		return upTo(size, append([]byte("perigee/"), '0'+byte(c.slot), 0))
	case nr == 0x08: // EVIOCGUNIQ
		return refuse(unix.ENOENT)
	case nr == 0x09: // EVIOCGPROP
		return upTo(size, make([]byte, 4))
	case nr == 0x18: // EVIOCGKEY
		var down []uint16
		for _, k := range keys {
			if d.key[k] {
				down = append(down, k)
			}
		}
		return upTo(size, bits(keyBytes, down...))
	case nr >= 0x19 && nr <= 0x1b: // EVIOCGLED, SND, SW
		return upTo(size, make([]byte, 8))
	case nr >= 0x20 && nr < 0x40: // EVIOCGBIT
		return c.has(uint16(nr-0x20), size)
	case nr >= 0x40 && nr < 0x80: // EVIOCGABS
		lo, hi := reach(uint16(nr - 0x40))
		fuzz, flat := int32(0), int32(0)
		if hi == stickMost {
			fuzz, flat = 16, 128 // as xpad.c
		}
		return ints(d.abs[nr-0x40], lo, hi, fuzz, flat, 0)
	case nr == 0x84: // EVIOCGEFFECTS
		return ints(0)
	case nr == 0x90: // EVIOCGRAB: there is nobody else
		return answer{}
	case nr == setClock && len(in) >= 4:
		switch id := int32(binary.LittleEndian.Uint32(in)); id {
		case unix.CLOCK_REALTIME, unix.CLOCK_MONOTONIC, unix.CLOCK_BOOTTIME:
			c.clock = id
			return answer{}
		}
	}
	return refuse(unix.EINVAL)
}

// has answers what types of event there are, and what codes of a type.
func (c *client) has(typ uint16, size int) answer {
	switch typ {
	case evSyn:
		return upTo(size, bits(8, evSyn, evKey, evAbs))
	case evKey:
		return upTo(size, bits(keyBytes, keys[:]...))
	case evAbs:
		return upTo(size, bits(8, axes[:]...))
	}
	return upTo(size, make([]byte, 8))
}

// joydev answers an ioctl of the joystick device.
func (c *client) joydev(req uint32) answer {
	_, nr, size := split(req)
	switch nr {
	case 0x01: // JSIOCGVERSION
		return ints(0x020100)
	case 0x11: // JSIOCGAXES
		return answer{out: []byte{byte(len(axes))}}
	case 0x12: // JSIOCGBUTTONS
		return answer{out: []byte{byte(len(keys))}}
	case 0x13: // JSIOCGNAME
		return upTo(size, append([]byte(deviceName), 0))
	case 0x21, 0x31, 0x33: // corrections and maps of the caller's own: it has these
		return answer{}
	case 0x22: // JSIOCGCORR: none
		return answer{out: make([]byte, min(size, len(axes)*36))}
	case 0x32: // JSIOCGAXMAP
		b := make([]byte, min(size, absCount))
		for i, a := range axes {
			if i < len(b) {
				b[i] = byte(a)
			}
		}
		return answer{out: b, value: int64(len(b))}
	case 0x34: // JSIOCGBTNMAP
		var b []byte
		for _, k := range keys {
			b = binary.LittleEndian.AppendUint16(b, k)
		}
		b = append(b, make([]byte, max(min(size, 1024)-len(b), 0))...)
		return answer{out: b[:min(size, len(b))], value: int64(min(size, len(b)))}
	}
	return refuse(unix.EINVAL)
}
