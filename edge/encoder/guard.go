package encoder

import (
	"fmt"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
)

const (
	guardTick = 50 * time.Millisecond
	// hangMost is how long a graphics processor may take for one picture: thirty
	// times what a busy one does. With it a hang is over within half a second.
	hangMost = 300 * time.Millisecond
	// openMost is how long one may take to open, and for its first picture: a driver
	// that nobody has used since the start sets up every device first.
	openMost = 4 * time.Second
	// busyEvery is how often the stream process hears that an opening goes on.
	busyEvery = 250 * time.Millisecond
)

// guard watches the calls into a graphics processor's driver, which may never
// return, from another goroutine. Ticks are counted instead of time, and only
// those that came when they should: a process that was stopped, or a machine that
// has no time for it, hangs nothing. Encoders of the processors are not watched:
// what they take is up to the load.
type guard struct {
	busy func()        // an opening goes on
	hung chan struct{} // closed once a call does not return

	mu     sync.Mutex // guards the fields below
	timer  *time.Timer
	inside string // the call; "" = none
	limit  time.Duration
	due    time.Time // of the next tick
	ticks  int       // of this call that came in time
	why    error     // of hung
}

func newGuard(busy func()) *guard { return &guard{busy: busy, hung: make(chan struct{})} }

// enter notes that a call into a pool's driver begins.
func (g *guard) enter(pool api.Pool, call string, limit time.Duration) {
	if pool == "" || pool == api.PoolCPU {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside, g.limit, g.ticks = call, limit, 0
	g.due = time.Now().Add(guardTick)
	if g.timer == nil {
		g.timer = time.AfterFunc(guardTick, g.tick)
		return
	}
	g.timer.Reset(guardTick)
}

// leave notes that it has returned.
func (g *guard) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside = ""
	if g.timer != nil {
		g.timer.Stop()
	}
}

func (g *guard) tick() {
	if g.ticked() {
		g.busy()
	}
}

// ticked counts a tick; busy says that an opening goes on and is to be told.
func (g *guard) ticked() (busy bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if g.inside == "" || now.Before(g.due) { // of a call that has returned
		return false
	}
	if now.Sub(g.due) < guardTick/2 {
		g.ticks++
	}
	in := time.Duration(g.ticks) * guardTick
	if in >= g.limit {
		g.why = fmt.Errorf("%w: %s has not returned for %s, the driver hangs", errEngine, g.inside, g.limit)
		g.inside = ""
		close(g.hung)
		return false
	}
	g.due = now.Add(guardTick)
	g.timer.Reset(guardTick)
	return g.limit == openMost && in%busyEvery == 0
}

// fault says what hung is about.
func (g *guard) fault() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.why
}

// sayBusy keeps the stream process from taking an opening for a hang.
func (s *session) sayBusy() {
	if err := s.conn.Send(media.TypeBusy, nil); err != nil {
		s.log.Debug("stream process takes no message", "error", err) // the session's own loop finds out
	}
}

// abandon tells why the process ends while its loop waits for a driver.
func (s *session) abandon() error {
	why := s.guard.fault()
	if err := s.conn.Send(media.TypeState, media.State{Error: why.Error(), EngineFault: true}); err != nil {
		s.log.Warn("encode process could not say why it ends", "error", err)
	}
	return fmt.Errorf("%w: %w", errEnd, why)
}
