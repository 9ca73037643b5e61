package encoder

import (
	"encoding/binary"
	"image"
	"math"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/capture"
)

const (
	// motionOver is the time over which motion is measured: what is older counts a
	// third or less.
	motionOver = time.Second
	// A picture moves once two fifths of it change in every picture, and until it is
	// less than a fifth.
	motionOn, motionOff = 0.4, 0.2
	// textureEvery is how often the grain of what changed is looked at, and
	// textureRows which of its rows.
	textureEvery = 100 * time.Millisecond
	textureRows  = 8
	// drawnFlat is the share of pixels that are as their neighbour, from which on a
	// picture is drawn: text and windows have 0.7 and more, a photograph or a world
	// in perspective hardly any.
	drawnFlat = 0.5
)

// motion measures what a picture is: how much of it changes, of the blocks that
// the encoder found different, and whether that is drawn (text, windows) or
// grained (a game, a film). A text that scrolls moves as much as a game does; it
// wants to be read all the same.
type motion struct {
	level  float64 // 1 = all of it changes in every picture
	flat   float64 // share of changed pixels that are as their neighbour
	last   int64   // when a picture was added
	looked int64   // when flat was; 0 = never
	moves  bool
}

// add takes in a picture of which a share changed, of up to fps a second.
func (m *motion) add(pic *capture.Picture, share float64, fps int) {
	m.fade(pic.Taken)
	m.level += share / (max(float64(fps), 1) * motionOver.Seconds())
	if m.looked == 0 || time.Duration(pic.Taken-m.looked) >= textureEvery {
		if f, ok := flatness(pic); ok && m.looked == 0 {
			m.flat = f
		} else if ok {
			m.flat += (f - m.flat) / 4
		}
		m.looked = pic.Taken
	}
}

// fade lets what was measured grow old.
func (m *motion) fade(now int64) {
	if m.last != 0 && now > m.last {
		m.level *= math.Exp(-float64(now-m.last) / float64(motionOver))
	}
	m.last = max(m.last, now)
	switch {
	case m.level >= motionOn:
		m.moves = true
	case m.level < motionOff:
		m.moves = false
	}
}

// grained tells whether the picture moves and is not drawn: a game, a film.
func (m *motion) grained(now int64) bool {
	m.fade(now)
	return m.moves && m.flat < drawnFlat
}

// percent is how much of the picture changes in each picture, 0 to 100.
func (m *motion) percent(now int64) int {
	m.fade(now)
	return int(min(m.level, 1) * 100)
}

// flatness is the share of pixels, in some rows of what changed, that are as the
// one before them; ok is false where too few changed to tell.
func flatness(pic *capture.Picture) (share float64, ok bool) {
	const colour, fewest = 0xffffff, 1024
	same, all := 0, 0
	for _, r := range pic.Changed {
		if r = r.Intersect(image.Rect(0, 0, pic.Width, pic.Height)); r.Empty() {
			continue
		}
		for y := r.Min.Y; y < r.Max.Y; y += textureRows {
			row := pic.Pix[y*pic.Stride+r.Min.X*4:][:r.Dx()*4]
			for x := 4; x < len(row); x += 4 {
				if (binary.LittleEndian.Uint32(row[x:])^binary.LittleEndian.Uint32(row[x-4:]))&colour == 0 {
					same++
				}
			}
			all += r.Dx() - 1
		}
	}
	return float64(same) / float64(max(all, 1)), all >= fewest
}

// content is what to keep when bits are short, as the application says or as the
// picture is measured to be. All counts as drawn until it moves.
func (s *session) content() string {
	switch {
	case s.cfg.Content == api.ContentDetail || s.cfg.Content == api.ContentMotion:
		return s.cfg.Content
	case s.picture.motion.grained(media.Now()):
		return api.ContentMotion
	}
	return api.ContentDetail
}
