package stream

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/rtc"
)

const (
	feedFrames = 64                     // waiting for one guest
	feedDelay  = 400 * time.Millisecond // of pictures at the guest's rate, before they are dropped
	feedBytes  = 64 << 10               // that may wait at any rate: a keyframe
	feedBurst  = 150 * time.Millisecond // sent at once
	feedKey    = 2 * time.Second        // between two keyframes for one that is too slow
	feedLook   = 250 * time.Millisecond
)

// feed carries the session's frames to one guest. The encode follows the
// session's own client, so a guest whose way carries less gets what fits: its
// queue has a bound, over which pictures are dropped up to the next keyframe.
type feed struct {
	send func(media.Frame)
	key  func()       // a keyframe is wanted
	rate atomic.Int64 // kb/s that the way carries; 0 = not known
	wake chan struct{}

	mu      sync.Mutex // guards the fields below
	queue   []media.Frame
	bytes   int
	waiting bool      // for a keyframe: those before were dropped
	asked   time.Time // for a keyframe
}

func newFeed(p *rtc.Peer, key func()) *feed {
	return &feed{key: key, wake: make(chan struct{}, 1), send: func(f media.Frame) {
		_, _, _ = p.WriteFrame(f) // the connection's own state tells of its end
	}}
}

// push queues a frame, whose data stays as it is; it never waits.
func (f *feed) push(x media.Frame) {
	f.mu.Lock()
	switch {
	case x.Kind == media.Audio:
		if len(f.queue) >= feedFrames {
			f.drop()
		}
	case x.Key:
		f.drop() // what is before it is of no use any more
		f.waiting = false
	case f.waiting:
		f.mu.Unlock()
		return
	case len(f.queue) >= feedFrames || f.bytes+len(x.Data) > f.most():
		f.waiting = true // what waits already can still be shown
		f.mu.Unlock()
		return
	}
	f.queue = append(f.queue, x)
	f.bytes += len(x.Data)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// most is how many bytes may wait. mu is held.
func (f *feed) most() int {
	return max(feedBytes, int(f.rate.Load()*feedDelay.Milliseconds()/8))
}

// drop takes the pictures out of the queue. mu is held.
func (f *feed) drop() {
	kept := f.queue[:0]
	f.bytes = 0
	for _, x := range f.queue {
		if x.Kind == media.Audio && len(kept) < feedFrames/2 {
			kept = append(kept, x)
			f.bytes += len(x.Data)
		}
	}
	clear(f.queue[len(kept):])
	f.queue = kept
}

// restarted forgets what an earlier encode process sent: a keyframe follows.
func (f *feed) restarted() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop()
	f.waiting = true
}

// run sends until ctx ends, no faster than the way carries.
func (f *feed) run(ctx context.Context) {
	look := time.NewTicker(feedLook)
	defer look.Stop()
	busy := time.Now() // until then what was sent takes the way
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-look.C:
		}
		for ctx.Err() == nil {
			if wait := time.Until(busy) - feedBurst; wait > 0 {
				select {
				case <-ctx.Done():
					return
				case <-time.After(wait):
				}
			}
			x, ok := f.next(busy)
			if !ok {
				break
			}
			f.send(x)
			if rate := f.rate.Load(); rate > 0 && x.Kind == media.Video {
				if now := time.Now(); busy.Before(now) {
					busy = now
				}
				// A quarter more than estimated, or the estimate would never grow.
				busy = busy.Add(time.Duration(len(x.Data)) * 8 * time.Millisecond / time.Duration(rate+rate/4))
			}
		}
	}
}

// next takes the oldest frame; with none left it sees that one which waits for
// a keyframe gets it, once the way is free.
func (f *feed) next(busy time.Time) (media.Frame, bool) {
	f.mu.Lock()
	if len(f.queue) > 0 {
		x := f.queue[0]
		f.queue = f.queue[1:]
		f.bytes -= len(x.Data)
		f.mu.Unlock()
		return x, true
	}
	now := time.Now()
	ask := f.waiting && !now.Before(busy) && now.Sub(f.asked) >= feedKey
	if ask {
		f.asked = now
	}
	f.mu.Unlock()
	if ask {
		f.key()
	}
	return media.Frame{}, false
}

// keys asks the encode process for keyframes. Those for guests are at least
// guestKey apart: each costs every viewer.
type keys struct {
	ask func()

	mu    sync.Mutex // guards the fields below
	last  time.Time
	armed bool // a later one is on its way
}

const guestKey = time.Second

// now asks at once: the session's own client needs it.
func (k *keys) now() {
	k.mu.Lock()
	k.last = time.Now()
	k.mu.Unlock()
	k.ask()
}

// soon asks for a guest.
func (k *keys) soon() {
	k.mu.Lock()
	wait := guestKey - time.Since(k.last)
	if k.armed {
		k.mu.Unlock()
		return
	}
	if wait > 0 {
		k.armed = true
		k.mu.Unlock()
		time.AfterFunc(wait, func() {
			k.mu.Lock()
			k.armed = false
			k.mu.Unlock()
			k.now()
		})
		return
	}
	k.mu.Unlock()
	k.now()
}
