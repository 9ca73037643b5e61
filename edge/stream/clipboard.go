package stream

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media/input"
)

const setMost = 2 * time.Second // for the display to take a clip

// clips joins the display's clipboard to the pages that take part.
type clips struct {
	mu      sync.Mutex // guards the fields below
	board   *input.Clipboard
	readers map[chan input.Clip]bool
}

// keepClipboard keeps a connection to the display's clipboard.
func (s *session) keepClipboard(ctx context.Context, st local.InstanceState) {
	cfg := input.ClipboardConfig{Display: st.Display, XAuth: st.XAuth, Log: s.log}
	if s.spec.App.Permissions.Clipboard.Out() {
		cfg.Copied = s.clips.copied
	}
	said := false
	for ctx.Err() == nil {
		b, err := input.OpenClipboard(ctx, cfg)
		if err == nil {
			said = false
			s.clips.use(b)
			select {
			case <-b.Done():
			case <-ctx.Done():
			}
			s.clips.use(nil)
			b.Close()
		} else if !said && ctx.Err() == nil {
			said = true
			s.log.Warn("display has no clipboard yet", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(inputRetry):
		}
	}
}

func (c *clips) use(b *input.Clipboard) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.board = b
}

// copied hands what an application copied to the pages; of two that wait the
// newer one counts.
func (c *clips) copied(clip input.Clip) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.readers {
		select {
		case <-r:
		default:
		}
		r <- clip
	}
}

func (c *clips) set(ctx context.Context, clip input.Clip) error {
	c.mu.Lock()
	b := c.board
	c.mu.Unlock()
	if b == nil {
		return errors.New("the application's display is not ready")
	}
	ctx, cancel := context.WithTimeout(ctx, setMost)
	defer cancel()
	return b.Set(ctx, clip)
}

// serve gives what serves one page's channel.
func (c *clips) serve(in, out bool, log *slog.Logger) func(context.Context, *parcels) {
	return func(ctx context.Context, p *parcels) {
		if out {
			r := make(chan input.Clip, 1)
			c.mu.Lock()
			if c.readers == nil {
				c.readers = map[chan input.Clip]bool{}
			}
			c.readers[r] = true
			c.mu.Unlock()
			defer func() {
				c.mu.Lock()
				delete(c.readers, r)
				c.mu.Unlock()
			}()
			go tellClips(ctx, p, r, log)
		}
		var clip input.Clip
		var now note
		for {
			select {
			case b := <-p.in:
				p.took(b)
				if !in {
					continue
				}
				n, data, err := parse(b)
				switch {
				case err != nil:
				case n.Op == opClip:
					if n.Size < 0 || n.Size > input.MaxClip {
						err = api.Errorf(api.CodeTooLarge, "at most %d MiB are copied at once", input.MaxClip>>20)
						break
					}
					now, clip = n, input.Clip{Type: n.Type}
				case data != nil && n.ID == now.ID && now.ID != 0:
					clip.Data = append(clip.Data, data...)
				}
				if err == nil && now.ID != 0 && int64(len(clip.Data)) >= now.Size {
					if err = c.set(ctx, clip); err == nil {
						err = p.tell(note{Op: opDone, ID: now.ID})
					}
					now, clip = note{}, input.Clip{}
				}
				if err != nil {
					log.Debug("clip not taken", "error", err)
					_ = p.fail(n.ID, err) // its end is seen below
				}
			case <-p.c.Done():
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

// tellClips sends what applications copy.
func tellClips(ctx context.Context, p *parcels, r <-chan input.Clip, log *slog.Logger) {
	for id := uint32(1); ; id++ {
		var clip input.Clip
		select {
		case clip = <-r:
		case <-p.c.Done():
			return
		case <-ctx.Done():
			return
		}
		err := p.tell(note{Op: opClip, ID: id, Type: clip.Type, Size: int64(len(clip.Data))})
		for rest := clip.Data; err == nil && len(rest) > 0; {
			n := min(len(rest), parcelSize)
			err = p.data(id, rest[:n])
			rest = rest[n:]
		}
		if err != nil {
			log.Debug("clip not sent", "error", err)
			return
		}
	}
}
