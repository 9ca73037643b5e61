package main

import (
	"math/rand/v2"
	"testing"
)

// draw gives the grey levels of a state's cells in a picture of that width.
func draw(s State, width int) func(x, y int) int {
	grid, side := s.Encode(), cellSide(width)
	return func(x, y int) int {
		if grid[y/side][x/side] {
			return 255
		}
		return 0
	}
}

func TestDecodeReadsWhatEncodeWrites(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		s := State{
			Clock: rng.Uint32(), Counter: uint16(rng.Uint32()), X: uint16(rng.Uint32()), Y: uint16(rng.Uint32()),
			Kind: byte(rng.UintN(3)), Detail: byte(rng.Uint32()), Width: uint16(rng.Uint32()),
		}
		for _, width := range []int{320, 479, 480, 1280, 3840} {
			got, ok := Decode(width, draw(s, width))
			if !ok || got != s {
				t.Fatalf("width %d: got %+v, %v, want %+v", width, got, ok, s)
			}
		}
	}
}

func TestDecodeBearsNoise(t *testing.T) {
	s := State{Clock: 3_912_345_678, Counter: 77, Width: 1280}
	rng := rand.New(rand.NewPCG(3, 4))
	clean := draw(s, 1280)
	got, ok := Decode(1280, func(x, y int) int {
		v := clean(x, y)*6/10 + 50 // washed out
		return v + rng.IntN(101) - 50
	})
	if !ok || got != s {
		t.Fatalf("got %+v, %v, want %+v", got, ok, s)
	}
}

func TestDecodeRefusesEveryWrongCell(t *testing.T) {
	s := State{Clock: 1_700_000_000, Counter: 3, X: 640, Y: 360, Kind: 1, Detail: 38, Width: 1280}
	side := cellSide(1280)
	clean := draw(s, 1280)
	for r := range rows {
		for c := range columns {
			got, ok := Decode(1280, func(x, y int) int {
				v := clean(x, y)
				if x/side == c && y/side == r {
					return 255 - v
				}
				return v
			})
			if ok {
				t.Errorf("cell %d,%d turned over was read as %+v", r, c, got)
			}
		}
	}
}

func TestDecodeRefusesPicturesThatAreNotOurs(t *testing.T) {
	for name, grey := range map[string]func(x, y int) int{
		"black":   func(int, int) int { return 0 },
		"white":   func(int, int) int { return 255 },
		"stripes": func(x, _ int) int { return 255 * (x / 24 % 2) },
		"tiny":    func(int, int) int { return 255 },
	} {
		width := 1280
		if name == "tiny" {
			width = 30
		}
		if s, ok := Decode(width, grey); ok {
			t.Errorf("%s was read as %+v", name, s)
		}
	}
}

func TestCellSide(t *testing.T) {
	for width, want := range map[int]int{320: 16, 479: 23, 480: 24, 1280: 24, 3840: 24} {
		if got := cellSide(width); got != want {
			t.Errorf("cellSide(%d) = %d, want %d", width, got, want)
		}
		if need := columns * cellSide(width); need > width {
			t.Errorf("the grid needs %d of %d pixels", need, width)
		}
	}
}

func TestBounceStaysInside(t *testing.T) {
	last := bounce(0, 100)
	for n := range 1000 {
		v := bounce(n, 100)
		if v < 0 || v > 100 || v-last > 1 || last-v > 1 {
			t.Fatalf("bounce(%d, 100) = %d after %d", n, v, last)
		}
		last = v
	}
	if v := bounce(7, 0); v != 0 {
		t.Errorf("bounce(7, 0) = %d", v)
	}
}
