package encoder

import (
	"encoding/binary"
	"fmt"
	"image"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/capture"
	"github.com/perigee-cloud/perigee/media/encode"
)

const (
	// keySpacing bounds a storm of keyframe requests.
	keySpacing = 100 * time.Millisecond
	// RefineAfter is how long nothing changes before a picture that the bitrate held
	// down is encoded again, at the session's rate, each time sharper, until it is
	// near-lossless: a second's worth of pictures at most. One that was sharp at once
	// is left alone.
	RefineAfter = 100 * time.Millisecond
	// refineMotion is the same for what moves, as its application says or as it is
	// measured: a short halt is no time to spend what the next movement needs.
	refineMotion = 400 * time.Millisecond
	// Bitrate changes of an encoder that must be opened again for them.
	reopenSpacing = 2 * time.Second
	reopenPercent = 20
	never         = time.Hour
)

// picture is the video part of a session.
type picture struct {
	enc           Video
	fresh         bool // it has encoded nothing yet
	width, height int  // of the encoder
	kbps          int  // wanted
	inUse         int  // kbps that the encoder was told
	fps           int  // pictures a second that are taken at most
	quarters      int  // of the screen's size that are encoded; 0 = all
	scaler        *encode.Scaler
	pacer         capture.Pacer
	motion        motion

	pending bool // something was drawn and not taken yet
	wantKey bool
	refine  int // re-encodings left while nothing changes
	// refining: they have begun.
	refining bool

	last, lastKey, opened int64 // media.Now of the last picture, key, encoder
	drawnAt, taken        int64 // of the newest drawing, and of the one in the picture
	pts                   time.Duration
	sent, drawn           uint64
}

// drop closes the encoder; the next picture opens one.
func (p *picture) drop() {
	if p.enc != nil {
		p.enc.Close()
		p.enc = nil
	}
}

// advance does what is due and says how long nothing more is.
func (s *session) advance() (time.Duration, error) {
	p := &s.picture
	if s.screen == nil || s.paused {
		return never, nil
	}
	now := media.Now()
	if p.pending {
		if d := p.pacer.Delay(time.Duration(now)); d > 0 {
			s.screen.Hold() // it is better replaced by what is drawn meanwhile
			return d, nil
		}
		if err := s.takePicture(); err != nil {
			return 0, err
		}
		now = media.Now()
	}
	if p.enc == nil {
		return never, nil // nothing taken yet; the first drawing wakes us
	}
	if p.wantKey {
		if d := keySpacing - time.Duration(now-p.lastKey); d > 0 && p.lastKey != 0 {
			return d, nil
		}
		p.refine, p.refining = s.cfg.Screen.FPS, false // a key of a still picture is coarse, too
		err := s.encodeLoaded(now)
		return s.nextRefine(media.Now()), err
	}
	if d := s.nextRefine(now); d > 0 {
		return d, nil
	}
	p.refine, p.refining = p.refine-1, true
	err := s.encodeLoaded(now)
	return s.nextRefine(media.Now()), err
}

// nextRefine says when the still picture is to be encoded again.
func (s *session) nextRefine(now int64) time.Duration {
	p := &s.picture
	if p.refine <= 0 {
		return never
	}
	since := time.Duration(now - p.last)
	wait := RefineAfter
	switch {
	case p.refining:
		wait = time.Second / time.Duration(s.cfg.Screen.FPS)
	case s.content() == api.ContentMotion:
		wait = refineMotion
	}
	return max(wait-since, 0)
}

// takePicture takes what was drawn, converts and encodes it.
func (s *session) takePicture() error {
	p := &s.picture
	p.pending = false
	pic, changed, err := s.screen.Grab()
	if err != nil {
		return err
	}
	if !changed {
		p.pacer.Skip()
		return nil
	}
	p.pacer.Take(time.Duration(pic.Taken))
	begun := media.Now()
	if err := s.shrink(&pic); err != nil {
		return err
	}
	if err := s.fit(&pic); err != nil {
		return err
	}
	if err := p.enc.Load(pic.Pix, pic.Stride, pic.Changed...); err != nil {
		return fmt.Errorf("%w: %w", errEngine, err)
	}
	if !p.enc.Changed() && !p.wantKey {
		return nil // painted again as it was: still
	}
	// An X server starts with one colour; until that changes, nobody has drawn.
	if p.drawn > 0 || !uniform(pic) {
		p.drawn++
	}
	p.refine, p.refining = s.cfg.Screen.FPS, false
	p.taken = min(p.drawnAt, pic.Taken)
	p.motion.add(&pic, p.enc.Fresh(), p.fps)
	p.enc.Favour(s.content())
	return s.encodeFrom(begun, pic.Taken)
}

// shrink makes the picture smaller, where the way is too narrow for all of it.
func (s *session) shrink(pic *capture.Picture) error {
	p := &s.picture
	to := media.Shrink(api.Screen{Width: pic.Width, Height: pic.Height}, p.quarters)
	if to.Width >= pic.Width || to.Height >= pic.Height {
		p.scaler = nil
		return nil
	}
	if !p.scaler.Fits(pic.Width, pic.Height, to.Width, to.Height) {
		p.scaler = encode.NewScaler(pic.Width, pic.Height, to.Width, to.Height)
	}
	var err error
	if pic.Pix, pic.Stride, pic.Changed, err = p.scaler.Scale(pic.Pix, pic.Stride, pic.Changed); err != nil {
		return err
	}
	pic.Width, pic.Height = to.Width, to.Height
	return nil
}

// fit makes the encoder fit the picture's size.
func (s *session) fit(pic *capture.Picture) error {
	p := &s.picture
	if p.enc != nil && p.width == pic.Width && p.height == pic.Height {
		return nil
	}
	p.drop()
	s.guard.enter(s.cfg.Pool, "opening the encoder", openMost)
	enc, err := s.open(encode.Config{
		Codec: s.cfg.Codec, Pool: s.cfg.Pool, Device: s.cfg.Device, Width: pic.Width, Height: pic.Height, FPS: s.cfg.Screen.FPS,
		BitrateKbps: p.kbps, Threads: s.cfg.Threads, Preset: s.cfg.Preset,
		Content: s.content(),
	})
	s.guard.leave()
	if err != nil {
		return fmt.Errorf("%w: %w", errEngine, err)
	}
	p.fresh = true
	p.enc, p.width, p.height, p.inUse, p.opened = enc, pic.Width, pic.Height, p.kbps, media.Now()
	pic.Changed = []image.Rectangle{image.Rect(0, 0, pic.Width, pic.Height)}
	s.log.Info("encoder opened", "encoder", enc.Name(), "width", pic.Width, "height", pic.Height, "kbps", p.kbps)
	return nil
}

// encodeLoaded encodes the picture that the encoder holds once more.
func (s *session) encodeLoaded(now int64) error { return s.encodeFrom(now, now) }

// encodeFrom encodes and sends; begun is when work on this picture began.
func (s *session) encodeFrom(begun, taken int64) error {
	p := &s.picture
	key := p.wantKey && (p.lastKey == 0 || time.Duration(taken-p.lastKey) >= keySpacing)
	limit := hangMost
	if p.fresh {
		limit = openMost
	}
	s.guard.enter(s.cfg.Pool, p.enc.Name(), limit)
	out, err := p.enc.Encode(key)
	s.guard.leave()
	if err != nil {
		return fmt.Errorf("%w: %w", errEngine, err)
	}
	p.fresh = false
	now := media.Now()
	s.stats.add(time.Duration(now - begun))
	if out.Key {
		p.wantKey, p.lastKey = false, now
	}
	p.last = now
	if p.enc.Sharp() {
		p.refine = 0
	}
	// Two pictures never share a time, however coarse the clock.
	p.pts = max(time.Duration(taken-s.start), p.pts+time.Microsecond)
	p.sent++
	err = s.conn.SendFrame(media.Frame{
		Kind: media.Video, Key: out.Key, PTS: p.pts, Captured: taken, Encoded: now,
		Input: s.inputs.shown(p.taken), Drawn: p.taken, Data: out.Data,
	})
	if err != nil {
		return fmt.Errorf("send picture: %w", err)
	}
	if p.sent == 1 {
		return s.sendState("") // at once: the stream process waits for it
	}
	return nil
}

// settleBitrate tells the encoder the wanted bitrate; one that must be opened
// again for it only if that pays.
func (s *session) settleBitrate() {
	p := &s.picture
	if p.enc == nil || p.kbps == p.inUse {
		return
	}
	if !p.enc.Live() {
		change := (p.kbps - p.inUse) * 100 / p.inUse
		if change > -reopenPercent && change < reopenPercent || time.Duration(media.Now()-p.opened) < reopenSpacing {
			return
		}
	}
	limit := openMost // it is opened again
	if p.enc.Live() {
		limit = hangMost
	}
	s.guard.enter(s.cfg.Pool, "changing the bitrate", limit)
	err := p.enc.SetBitrate(p.kbps)
	s.guard.leave()
	if err != nil {
		s.log.Warn("bitrate not changed", "kbps", p.kbps, "error", err)
		p.kbps = p.inUse
		return
	}
	p.fresh = p.fresh || !p.enc.Live()
	p.inUse, p.opened = p.kbps, media.Now()
}

// uniform tells whether a whole picture has one colour.
func uniform(pic capture.Picture) bool {
	const colour = 0xffffff // the fourth byte of a pixel means nothing
	first := binary.LittleEndian.Uint32(pic.Pix) & colour
	for y := range pic.Height {
		row := pic.Pix[y*pic.Stride:][:pic.Width*4]
		for i := 0; i < len(row); i += 4 {
			if binary.LittleEndian.Uint32(row[i:])&colour != first {
				return false
			}
		}
	}
	return true
}
