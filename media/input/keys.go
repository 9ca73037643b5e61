package input

// xOffset is what X adds to the kernel's key codes.
const xOffset = 8

// codes are the kernel's (linux/input-event-codes.h) for the key codes of the
// wire contract (2.6.1), by wire code from firstCode on; 0 = not assigned.
var codes = [...]byte{
	30, 48, 46, 32, 18, 33, 34, 35, 23, 36, 37, 38, 50, // 4: A to M
	49, 24, 25, 16, 19, 31, 20, 22, 47, 17, 45, 21, 44, // 17: N to Z
	2, 3, 4, 5, 6, 7, 8, 9, 10, 11, // 30: 1 to 9, 0
	28, 1, 14, 15, 57, // 40: Enter, Escape, Backspace, Tab, Space
	12, 13, 26, 27, 43, 40, 39, // 45: Minus, Equal, brackets, Backslash, Quote, Semicolon
	0, 0, // 52, 53: none
	51, 52, 53, 58, // 54: Comma, Period, Slash, CapsLock
	59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 87, 88, // 58: F1 to F12
	99, 70, 119, 110, 102, 104, 111, 107, 109, // 70: PrintScreen, ScrollLock, Pause, Insert, Home, PageUp, Delete, End, PageDown
	106, 105, 108, 103, // 79: Right, Left, Down, Up
	29, 42, 56, 125, 100, 69, // 83: Control, Shift, Alt, Meta, AltGraph, NumLock
	114, 115, 116, 158, // 89: VolumeDown, VolumeUp, Power, Back
}

const firstCode = 4

// keycode gives the X key code of a wire code.
func keycode(wire int) (byte, bool) {
	i := wire - firstCode
	if i < 0 || i >= len(codes) || codes[i] == 0 {
		return 0, false
	}
	return codes[i] + xOffset, true
}
