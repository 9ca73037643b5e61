package gamepad

import (
	"encoding/binary"
	"math"

	"github.com/perigee-cloud/perigee/api"
)

// Slots is how many gamepads an instance has room for.
const Slots = 4

// Kind of an Event.
type Kind byte

// Kinds of event.
const (
	Unplug Kind = iota
	Plug
	Button // Index: of the standard gamepad (W3C Gamepad, 2.7); Value: 0 to 255
	Axis   // Index: likewise; Value: -32767 to 32767
)

// Event is what happens to one gamepad.
type Event struct {
	Slot  int // 0 to Slots-1
	Kind  Kind
	Index int
	Value int
}

// EventSize is how many bytes an event is between the stream process and the shim.
const EventSize = 8

// Append appends the event's bytes.
func (e Event) Append(b []byte) []byte {
	b = append(b, byte(e.Slot), byte(e.Kind))
	b = binary.BigEndian.AppendUint16(b, uint16(e.Index))
	return binary.BigEndian.AppendUint32(b, uint32(int32(e.Value)))
}

// Parse reads the bytes of an event.
func Parse(b []byte) (Event, error) {
	if len(b) < EventSize {
		return Event{}, api.Invalidf("event", "%d bytes are too few", len(b))
	}
	e := Event{Slot: int(b[0]), Kind: Kind(b[1]), Index: int(binary.BigEndian.Uint16(b[2:])), Value: int(int32(binary.BigEndian.Uint32(b[4:])))}
	if e.Slot >= Slots || e.Kind > Axis {
		return e, api.Invalidf("event", "slot %d, kind %d is none", e.Slot, e.Kind)
	}
	return e, nil
}

// Pressure gives a button's value of 0 to 1 as an event's.
func Pressure(v float64) int { return int(math.Round(min(max(v, 0), 1) * 255)) }

// Tilt gives an axis' value of -1 to 1 as an event's.
func Tilt(v float64) int {
	if math.IsNaN(v) {
		return 0
	}
	return int(math.Round(min(max(v, -1), 1) * 32767))
}
