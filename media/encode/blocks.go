package encode

import "image"

// blockSide is the side of a macroblock in pixels: H.264, VP8, and the unit of
// libvpx's active map in VP9 too.
const blockSide = 16

// blocks remembers for each macroblock of a picture how many pictures ago it
// changed, so that conversion and encoders pass over what did not.
type blocks struct {
	cols, rows    int
	width, height int
	// touched blocks may have changed since the last picture: they are to be
	// looked at.
	touched []uint8
	touches int // how many
	// age counts encoded pictures since the block changed: 0 = changed since
	// the last one; it stops at ageMost.
	age   []uint8
	fresh int // blocks of age 0
}

const ageMost = 255

func newBlocks(width, height int) blocks {
	b := blocks{
		cols: (width + blockSide - 1) / blockSide, rows: (height + blockSide - 1) / blockSide,
		width: width, height: height,
	}
	b.age, b.touched = make([]uint8, b.cols*b.rows), make([]uint8, b.cols*b.rows)
	for i := range b.age {
		b.age[i] = ageMost
	}
	return b
}

// touch marks the blocks that parts touch.
func (b *blocks) touch(parts []image.Rectangle) {
	all := image.Rect(0, 0, b.width, b.height)
	for _, p := range parts {
		if p = p.Intersect(all); p.Empty() {
			continue
		}
		first, last := p.Min.X/blockSide, (p.Max.X-1)/blockSide
		for row := p.Min.Y / blockSide; row <= (p.Max.Y-1)/blockSide; row++ {
			line := b.touched[row*b.cols:][first : last+1]
			for i, t := range line {
				if t == 0 {
					line[i] = 1
					b.touches++
				}
			}
		}
	}
}

// looked notes that the touched blocks were looked at: age is 0 for those that
// really changed.
func (b *blocks) looked() {
	clear(b.touched)
	b.touches, b.fresh = 0, 0
	for _, age := range b.age {
		if age == 0 {
			b.fresh++
		}
	}
}

// encoded notes that a picture was encoded.
func (b *blocks) encoded() {
	for i, age := range b.age {
		if age < ageMost {
			b.age[i] = age + 1
		}
	}
	b.fresh = 0
}
