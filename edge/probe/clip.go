package probe

import (
	"encoding/binary"

	"github.com/perigee-cloud/perigee/edge/certify"
)

// Clip names the reference picture in a certificate: figures of two clips are
// not compared.
const Clip = certify.Clip

// The reference picture: 1280x720, the unit that planners count in.
const (
	clipWidth  = 1280
	clipHeight = 720
	clipFrames = 8
	clipFPS    = 30
	clipKbps   = 2000
	frameBlock = clipWidth / 16 * clipHeight / 16 // macroblocks of a picture
)

// Pictures gives the reference picture's frames, 1280x720 in BGRA, rows packed:
// what a peer is measured with.
func Pictures() [][]byte { return clip() }

// clip makes the pictures (BGRA, rows packed): a coarse texture that moves, as
// a game's background does, and a tenth of it noise that is new in each. The
// same on every machine.
func clip() [][]byte {
	const cell, step = 8, 6
	random := xorshift(2463534242)
	texture := make([]uint32, (clipWidth/cell+clipFrames*step)*(clipHeight/cell))
	for i := range texture {
		texture[i] = random.next()
	}
	wide := len(texture) / (clipHeight / cell)
	out := make([][]byte, clipFrames)
	for n := range out {
		b := make([]byte, clipWidth*clipHeight*4)
		for y := range clipHeight {
			row := b[y*clipWidth*4:]
			for x := range clipWidth {
				c := texture[y/cell*wide+(x+n*step)/cell]
				grain := random.next() & 0x0f0f0f
				if noisy := (x/160+y/90)%10 == n%2; noisy {
					c = random.next()
				}
				binary.LittleEndian.PutUint32(row[x*4:], c&0x7f7f7f+grain)
			}
		}
		out[n] = b
	}
	return out
}

// xorshift is Marsaglia's generator (Xorshift RNGs, 2003): the same everywhere.
type xorshift uint32

func (s *xorshift) next() uint32 {
	*s ^= *s << 13
	*s ^= *s >> 17
	*s ^= *s << 5
	return uint32(*s)
}
