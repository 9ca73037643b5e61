package encoder

import (
	"time"

	"github.com/perigee-cloud/perigee/media"
)

const (
	sampleMS = media.SampleRate / 1000 // samples of a millisecond
	// playMargin is what waits beside the next packet before a voice is played,
	// and how much of that too little adds; playMarginMost bounds it.
	playMargin     = 10 * sampleMS
	playMarginStep = 10 * sampleMS
	playMarginMost = 80 * sampleMS
	playCalm       = 10 * media.SampleRate // without too little, before the margin shrinks by a step
	// playLook is over how much sound the least that waits is looked for: what is
	// never used is a delay for nothing, and is cut out playCut at a time.
	playLook = media.SampleRate / 2
	playCut  = 5 * sampleMS
	playOver = 15 * sampleMS // above the margin
	// playMost bounds what waits: more is left out at once.
	playMost    = 240 * sampleMS
	playPackets = 64 // that wait
	// playConceal is how much is made up when nothing comes.
	playConceal = 60 * sampleMS
	playFrame   = 20 * sampleMS // of a packet, until one has come
)

// decoder is encode.Voice, or what stands in for one.
type decoder interface {
	Decode(packet []byte) ([]int16, error)
	Conceal(next []byte, samples int) ([]int16, error)
}

// playout turns packets that come when the network lets them into sound that is
// taken at the sound server's pace. It holds as little as the network's jitter
// allows; a client whose clock is faster or slower than ours is followed by
// leaving out or making up a little. It reads no clock: what is taken is time.
type playout struct {
	dec decoder

	packets map[uint16][]byte
	next    uint16 // the packet that is due
	high    uint16 // the newest that came
	begun   bool   // next and high are known
	playing bool
	left    []int16 // decoded and not taken
	frame   int     // samples of a packet
	margin  int
	before  int // the margin before the last packet came
	made    int // samples made up since a packet was decoded
	rest    int // samples of silence since then
	calm    int // samples taken since there was too little
	least   int // that waited since the last look
	looked  int // samples taken since then
}

func newPlayout(dec decoder) *playout {
	return &playout{dec: dec, packets: map[uint16][]byte{}, frame: playFrame, margin: playMargin, before: playMargin, least: playMost}
}

// add takes a packet; late and repeated ones are nothing.
func (p *playout) add(seq uint16, data []byte) {
	ahead := int(int16(seq - p.next))
	switch {
	case !p.begun, ahead >= playPackets, ahead < -playPackets: // the first, or another stream
		clear(p.packets)
		p.next, p.high, p.begun, p.playing = seq, seq, true, false
	case ahead < 0:
		return
	}
	p.packets[seq] = data
	if int16(seq-p.high) > 0 {
		p.high = seq
	}
}

// waiting is how many samples are there to be played, lost ones counted.
func (p *playout) waiting() int {
	n := len(p.left)
	if len(p.packets) > 0 {
		n += (int(p.high-p.next) + 1) * p.frame
	}
	return n
}

// take fills out with what is due, or silence; false says that it is all silence.
func (p *playout) take(out []int16) bool {
	if !p.playing {
		if len(p.packets) == 0 || p.waiting() < p.frame+p.margin {
			clear(out)
			p.rest += len(out)
			return false
		}
		if p.rest > playMost { // the client had paused: the network is not to blame
			p.margin = p.before
		}
		p.playing, p.rest, p.least, p.looked = true, 0, playMost, 0
	}
	for p.waiting() > playMost && len(p.packets) > 0 {
		p.skip()
	}
	for len(p.left) < len(out) && p.fill() {
	}
	n := copy(out, p.left)
	p.left = p.left[:copy(p.left, p.left[n:])]
	if n < len(out) {
		clear(out[n:])
		p.starve()
		return n > 0
	}
	p.look(n)
	return true
}

// starve ends playing until there is enough again, a little more than before.
func (p *playout) starve() {
	p.playing, p.made, p.calm = false, 0, 0
	p.margin = min(p.margin+playMarginStep, playMarginMost)
}

// skip leaves the packet that is due out.
func (p *playout) skip() {
	delete(p.packets, p.next)
	p.next++
}

// fill decodes the packet that is due, or makes up for it; false: nothing is
// there and enough was made up.
func (p *playout) fill() bool {
	data, ok := p.packets[p.next]
	var pcm []int16
	var err error
	switch {
	case ok:
		if pcm, err = p.dec.Decode(data); err == nil {
			p.frame, p.made = len(pcm), 0
		}
		p.skip()
	case len(p.packets) > 0: // it is lost, or too late
		pcm, err = p.dec.Conceal(p.packets[p.next+1], p.frame)
		p.skip()
	case p.made >= playConceal:
		return false
	default: // it may still come, and is played then
		pcm, err = p.dec.Conceal(nil, p.frame)
		if p.made == 0 {
			p.before = p.margin
			p.margin = min(p.margin+playMarginStep/2, playMarginMost)
		}
		p.made, p.calm = p.made+p.frame, 0
	}
	if err != nil { // not Opus: as long a silence
		pcm = make([]int16, p.frame)
	}
	p.left = append(p.left, pcm...)
	return true
}

// look cuts a little out when more has been waiting all the while than the
// margin asks for, after n samples were taken.
func (p *playout) look(n int) {
	if p.calm += n; p.calm >= playCalm && p.margin > playMargin {
		p.margin, p.calm = max(p.margin-playMarginStep, playMargin), 0
	}
	p.least = min(p.least, p.waiting())
	if p.looked += n; p.looked < playLook {
		return
	}
	over := p.least - p.margin - playOver
	p.least, p.looked = playMost, 0
	for ; over > 0; over -= playCut {
		for len(p.left) < 2*playCut && len(p.packets) > 0 {
			p.fill()
		}
		if len(p.left) < 2*playCut {
			return
		}
		p.left = cut(p.left, playCut)
	}
}

// cut takes n samples out, fading over from what is before to what is after.
func cut(pcm []int16, n int) []int16 {
	for i := range n {
		pcm[i] = int16((int(pcm[i])*(n-i) + int(pcm[n+i])*i) / n)
	}
	return append(pcm[:n], pcm[2*n:]...)
}

// idle is how long a voice may say nothing before its way into the instance closes.
const idle = 5 * time.Second
