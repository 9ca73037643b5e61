package gamepad

import (
	"encoding/binary"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The device is an Xbox 360 controller, the one that every program has a
// mapping for. Numbers are linux/input-event-codes.h's.
const (
	deviceName = "Microsoft X-Box 360 pad"
	busUSB     = 3
	vendor     = 0x045e
	product    = 0x028e
	version    = 0x0110

	evSyn, evKey, evAbs   = 0, 1, 3
	synReport, synDropped = 0, 3
	absX, absY, absZ      = 0, 1, 2
	absRX, absRY, absRZ   = 3, 4, 5
	absHatX, absHatY      = 16, 17
	absCount              = 64
	keyBytes              = 96 // of a bit field of all keys
	stickMost             = 32767
	triggerMost           = 255
)

// buttonKeys are the keys of the standard gamepad's buttons; 0 = it is an axis here.
var buttonKeys = [...]uint16{
	0x130, 0x131, 0x133, 0x134, // A, B, X, Y
	0x136, 0x137, 0, 0, // shoulders, triggers
	0x13a, 0x13b, 0x13d, 0x13e, // back, start, sticks
	0, 0, 0, 0, // cross
	0x13c, // guide
}

// sticks are the axes of the standard gamepad's axes.
var sticks = [...]uint16{absX, absY, absRX, absRY}

// axes are all of the device's in the kernel's order, which is joydev's too.
var axes = [...]uint16{absX, absY, absZ, absRX, absRY, absRZ, absHatX, absHatY}

// keys are all of the device's in the kernel's order.
var keys = [...]uint16{0x130, 0x131, 0x133, 0x134, 0x136, 0x137, 0x13a, 0x13b, 0x13c, 0x13d, 0x13e}

// reach gives an axis' least and greatest value.
func reach(axis uint16) (lo, hi int32) {
	switch axis {
	case absZ, absRZ:
		return 0, triggerMost
	case absHatX, absHatY:
		return -1, 1
	}
	return -stickMost - 1, stickMost
}

// change is one value of the device.
type change struct {
	typ, code uint16
	value     int32
}

// device is the state of one gamepad.
type device struct {
	plugged bool
	abs     [absCount]int32
	key     map[uint16]bool
	cross   [4]bool // up, down, left, right
}

// apply gives what an event changes.
func (d *device) apply(e Event) (change, bool) {
	switch {
	case e.Kind == Axis && e.Index >= 0 && e.Index < len(sticks):
		return d.set(evAbs, sticks[e.Index], int32(min(max(e.Value, -stickMost), stickMost)))
	case e.Kind != Button || e.Index < 0 || e.Index >= len(buttonKeys):
		return change{}, false
	case e.Index == 6:
		return d.set(evAbs, absZ, int32(min(max(e.Value, 0), triggerMost)))
	case e.Index == 7:
		return d.set(evAbs, absRZ, int32(min(max(e.Value, 0), triggerMost)))
	case e.Index >= 12 && e.Index <= 15:
		d.cross[e.Index-12] = e.Value > 0
		axis, minus, plus := uint16(absHatY), d.cross[0], d.cross[1]
		if e.Index >= 14 {
			axis, minus, plus = absHatX, d.cross[2], d.cross[3]
		}
		v := int32(0)
		if minus {
			v--
		}
		if plus {
			v++
		}
		return d.set(evAbs, axis, v)
	default:
		v := int32(0)
		if e.Value > 0 {
			v = 1
		}
		return d.set(evKey, buttonKeys[e.Index], v)
	}
}

func (d *device) set(typ, code uint16, v int32) (change, bool) {
	if typ == evAbs {
		if d.abs[code] == v {
			return change{}, false
		}
		d.abs[code] = v
		return change{typ, code, v}, true
	}
	if d.key[code] == (v > 0) {
		return change{}, false
	}
	d.key[code] = v > 0
	return change{typ, code, v}, true
}

// inputEvent is struct input_event of 64-bit machines.
func inputEvent(b []byte, at unix.Timespec, c change) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(at.Sec))
	b = binary.LittleEndian.AppendUint64(b, uint64(at.Nsec/1000))
	b = binary.LittleEndian.AppendUint16(b, c.typ)
	b = binary.LittleEndian.AppendUint16(b, c.code)
	return binary.LittleEndian.AppendUint32(b, uint32(c.value))
}

// Types of struct js_event (linux/joystick.h).
const (
	jsButton = 1
	jsAxis   = 2
	jsInit   = 0x80
)

// jsEvent is struct js_event.
func jsEvent(b []byte, at time.Duration, c change, flags byte) []byte {
	number, typ, v := slices.Index(keys[:], c.code), byte(jsButton), c.value
	if c.typ == evAbs {
		number, typ = slices.Index(axes[:], c.code), jsAxis
		lo, hi := reach(c.code)
		v = int32((int64(c.value)-int64(lo))*2*stickMost/(int64(hi)-int64(lo)) - stickMost)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(at.Milliseconds()))
	b = binary.LittleEndian.AppendUint16(b, uint16(int16(v)))
	return append(b, typ|flags, byte(number))
}

// all lists the device's whole state.
func (d *device) all() []change {
	var out []change
	for _, k := range keys {
		v := int32(0)
		if d.key[k] {
			v = 1
		}
		out = append(out, change{evKey, k, v})
	}
	for _, a := range axes {
		out = append(out, change{evAbs, a, d.abs[a]})
	}
	return out
}
