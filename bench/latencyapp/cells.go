package main

// The cells: how the picture says what a machine can read.
//
// The picture's top left corner holds a grid of 18 columns and 8 rows of
// square cells, each wholly white (1) or black (0). A cell's side is 24 pixels
// where the picture is at least 480 pixels wide, else width/20 rounded down.
// Column 0 and column 17 are markers: in even rows column 0 is white and
// column 17 black, in odd rows the reverse. Columns 1 to 16 hold sixteen bits,
// the most significant first:
//
//	row 0  clock, bits 31 to 16
//	row 1  clock, bits 15 to 0
//	row 2  number of key and button presses so far, modulo 65536
//	row 3  pointer x in pixels, modulo 65536
//	row 4  pointer y
//	row 5  last press: kind (0 none, 1 key, 2 button) in the high byte, keycode or button in the low
//	row 6  display width in pixels
//	row 7  checksum: CRC-8 (polynomial 0x07, start 0) of rows 0 to 6 as big-endian bytes in the
//	       high byte, its complement in the low
//
// The clock is the wall clock in milliseconds since 1970, modulo 2^32, read
// just before the picture was painted: on one machine the same as the page's
// performance.timeOrigin + performance.now().
//
// A reader takes the mean of each cell's inner half and cuts at half grey.
// decode.js is that reader in a page, Decode the same in Go.
const (
	columns  = 18
	rows     = 8
	dataRows = rows - 1
	fullCell = 24
)

// State is what one picture says.
type State struct {
	Clock   uint32 // wall clock, milliseconds modulo 2^32
	Counter uint16 // presses so far
	X, Y    uint16 // pointer
	Kind    byte   // of the last press: 0 none, 1 key, 2 button
	Detail  byte   // keycode or button of the last press
	Width   uint16 // of the display
}

func (s State) words() [dataRows]uint16 {
	return [dataRows]uint16{
		uint16(s.Clock >> 16), uint16(s.Clock), s.Counter, s.X, s.Y,
		uint16(s.Kind)<<8 | uint16(s.Detail), s.Width,
	}
}

// cellSide gives the side of a cell in a picture of that width, in pixels.
func cellSide(width int) int {
	if width >= 20*fullCell {
		return fullCell
	}
	return width / 20
}

// Encode gives the cells of a state, row by row; true is white.
func (s State) Encode() [rows][columns]bool {
	var grid [rows][columns]bool
	words := s.words()
	sum := crc8(words)
	for r := range rows {
		w := uint16(sum)<<8 | uint16(^sum)
		if r < dataRows {
			w = words[r]
		}
		grid[r][0] = r%2 == 0
		grid[r][columns-1] = r%2 == 1
		for b := range 16 {
			grid[r][1+b] = w&(1<<(15-b)) != 0
		}
	}
	return grid
}

// Decode reads a picture of the given width whose pixel (x, y) has the grey
// level grey(x, y), 0 to 255. ok is false when the markers or the checksum are
// wrong: no picture of ours, or one broken beyond reading.
func Decode(width int, grey func(x, y int) int) (s State, ok bool) {
	side := cellSide(width)
	if side < 2 {
		return s, false
	}
	bit := func(row, col int) bool {
		sum, n := 0, 0
		for y := row*side + side/4; y < row*side+side-side/4; y++ {
			for x := col*side + side/4; x < col*side+side-side/4; x++ {
				sum += grey(x, y)
				n++
			}
		}
		return sum > 127*n
	}
	var words [rows]uint16
	for r := range rows {
		if bit(r, 0) != (r%2 == 0) || bit(r, columns-1) != (r%2 == 1) {
			return s, false
		}
		for b := range 16 {
			if bit(r, 1+b) {
				words[r] |= 1 << (15 - b)
			}
		}
	}
	s = State{
		Clock: uint32(words[0])<<16 | uint32(words[1]), Counter: words[2], X: words[3], Y: words[4],
		Kind: byte(words[5] >> 8), Detail: byte(words[5]), Width: words[6],
	}
	sum := crc8(s.words())
	return s, words[dataRows] == uint16(sum)<<8|uint16(^sum)
}

// crc8 is CRC-8 with polynomial 0x07 over the words, high byte first.
func crc8(words [dataRows]uint16) byte {
	var crc byte
	for _, w := range words {
		for _, b := range [2]byte{byte(w >> 8), byte(w)} {
			crc ^= b
			for range 8 {
				if crc&0x80 != 0 {
					crc = crc<<1 ^ 0x07
				} else {
					crc <<= 1
				}
			}
		}
	}
	return crc
}
