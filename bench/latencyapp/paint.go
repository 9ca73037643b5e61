package main

import "github.com/jezek/xgb/xproto"

// painter turns a state into a picture. Nothing it does depends on the time:
// the same frame number and state give the same pixels.
type painter struct {
	w     *window
	rects bool // rectangles over the whole picture, to give an encoder work
	noise bool // a carpet of grey grains, elsewhere in every picture
	frame int
}

// bandHeight is the height of the strip in which the ball moves, in cells.
const bandHeight = 3

// top gives the height of what changes in every frame.
func (p *painter) top() int { return (rows + bandHeight) * cellSide(p.w.width) }

// paint draws one picture and shows it by a single copy.
func (p *painter) paint(s State) {
	p.frame++
	top := p.top()
	if p.rects {
		p.moving(top)
	}
	if p.noise {
		p.w.carpet(p.frame, top)
	}
	p.ball(top)
	p.block(s.Counter)
	p.cells(s)
	if p.rects || p.noise || p.frame == 1 {
		top = p.w.height
	}
	p.w.show(top)
}

// again shows the whole picture as it is, after something covered it.
func (p *painter) again() { p.w.show(p.w.height) }

func (p *painter) cells(s State) {
	side := cellSide(p.w.width)
	var white, black []xproto.Rectangle
	for r, row := range s.Encode() {
		for c, on := range row {
			if on {
				white = append(white, rect(c*side, r*side, side, side))
			} else {
				black = append(black, rect(c*side, r*side, side, side))
			}
		}
	}
	p.w.fill(0x000000, black...)
	p.w.fill(0xffffff, white...)
}

// block fills everything right of the cells with the colour of the press.
func (p *painter) block(counter uint16) {
	side := cellSide(p.w.width)
	x := columns * side
	p.w.fill(blockColours[int(counter)%len(blockColours)], rect(x, 0, p.w.width-x, rows*side))
}

// ball moves a square to and fro below the cells.
func (p *painter) ball(top int) {
	side := cellSide(p.w.width)
	y, size := rows*side, bandHeight*side
	p.w.fill(background, rect(0, y, p.w.width, size))
	p.w.fill(ball, rect(bounce(p.frame*7, p.w.width-size), top-size, size, size))
}

// moving draws sixteen rectangles that wander over the rest of the picture.
func (p *painter) moving(top int) {
	p.w.fill(background, rect(0, top, p.w.width, p.w.height-top))
	for i := range 16 {
		size := 40 + 9*i
		x := bounce(p.frame*(2+i%5)+i*97, p.w.width-size)
		y := top + bounce(p.frame*(1+i%4)+i*53, p.w.height-top-size)
		p.w.fill(blockColours[i%len(blockColours)]^uint32(i*0x0a0704), rect(x, y, size, size))
	}
}

// bounce goes from 0 to most and back as n grows.
func bounce(n, most int) int {
	if most <= 0 {
		return 0
	}
	n %= 2 * most
	if n > most {
		return 2*most - n
	}
	return n
}
