package stream

import (
	"log/slog"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/engines"
	"github.com/perigee-cloud/perigee/edge/local"
)

// ladder is where the stream encodes, and the way to the next engine when that
// one is full or fails.
type ladder struct {
	book *engines.Book
	dir  local.Session
	pool api.Pool // where the schedulers reserved
	// reserved is what they reserved.
	reserved engines.Want
	log      *slog.Logger

	mu    sync.Mutex // guards the fields below
	want  engines.Want
	grant engines.Grant
	taken bool
}

func newLadder(dir local.Session, spec api.Spec, log *slog.Logger) *ladder {
	return &ladder{book: engines.OfSession(dir), dir: dir, pool: spec.Pool, log: log, grant: engines.Grant{Pool: spec.Pool},
		reserved: engines.Want{Pool: spec.Pool, Codec: spec.Codecs[0], Screen: spec.Screen, Preset: spec.Preset}}
}

// current gives the engine that the stream holds.
func (l *ladder) current() engines.Grant {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.grant
}

// assign gives the engine for a codec and size. When none takes them, the one
// that it holds comes back with the error; without one its Pool is "".
func (l *ladder) assign(codec api.Codec, screen api.Screen) (engines.Grant, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	want := engines.Want{Pool: l.pool, Codec: codec, Screen: screen, Preset: l.reserved.Preset}
	if l.taken && want == l.want {
		return l.grant, nil
	}
	g, err := l.book.Take(l.dir, want)
	if err != nil && g.Pool == "" && want != l.reserved {
		// What was reserved is ours, though the viewer's codec costs more: the
		// schedulers hear of it and admit nothing more.
		g, err = l.book.Take(l.dir, l.reserved)
	}
	if err != nil {
		return g, err
	}
	if l.taken && g != l.grant {
		l.log.Info("stream encodes elsewhere", "engine", g.Engine, "pool", g.Pool)
	}
	l.want, l.grant, l.taken = want, g, true
	return g, nil
}

// there keeps the codecs that an engine of the node encodes now: what hardware
// alone does is not offered while that is out.
func (l *ladder) there(codecs []api.Codec) []api.Codec {
	out, err := l.book.Encodable(codecs)
	if err != nil {
		l.log.Warn("codecs are offered without a look at the engines", "error", err)
	}
	return out
}

// next gives the engine after the one that failed.
func (l *ladder) next(why string) (engines.Grant, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.grant
	g, err := l.book.Fail(l.dir, l.want, why)
	if err != nil {
		return g, err
	}
	l.grant = g
	l.log.Warn("encoder failed, the next one takes over", "failed", was.Engine, "engine", g.Engine, "pool", g.Pool, "error", why)
	return g, nil
}

const (
	// roomWait is how long a stream waits for an engine at its start: an earlier
	// generation, or a session that ends, may still hold one.
	roomWait  = 5 * time.Second
	roomRetry = 250 * time.Millisecond
)

// noRoom looks again a while, then gives the session back to the schedulers.
func (s *session) noRoom(err error) {
	now := time.Now()
	if s.noRoomAt.IsZero() {
		s.noRoomAt = now
	}
	if now.Sub(s.noRoomAt) >= roomWait {
		s.fail(err.Error())
		return
	}
	time.AfterFunc(roomRetry, func() { s.post(s.configure) })
}
