package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/perigee-cloud/perigee/api"
)

// errClientGone says that a frame could not be written to the client.
var errClientGone = errors.New("the client has gone")

// pump carries frames between one websocket and its link until one side ends.
type pump struct {
	s        *Server
	k        *socket
	session  api.Session
	open     func(context.Context) (SignalLink, error)
	discover bool          // answer discover here
	hold     time.Duration // for the first frame of the other side; 0 = for ever
	placed   chan struct{} // closed when a waiting session has its place; nil = it has

	out      *queue        // from the client, until the link takes it
	answered chan struct{} // closed at the first frame of the other side
	once     sync.Once
	seated   sync.Once
	end      chan ending // the first reason to end
}

// flushWait bounds how long what a leaving client sent last may take to reach the link.
const flushWait = time.Second

// run blocks until the websocket is over; it leaves no goroutine behind.
func (p *pump) run() {
	p.out, p.answered, p.end = newQueue(), make(chan struct{}), make(chan ending, 1)
	ctx, cancel := context.WithCancel(p.k.ctx)
	defer cancel()
	linked := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() { p.over(p.readClient()) })
	done.Go(func() { p.over(p.readLink(ctx)); close(linked) })
	done.Go(func() { p.over(p.watch(ctx)) })
	done.Go(func() { p.over(p.ping(ctx)) })
	var e ending
	select {
	case e = <-p.end:
	case <-p.s.drain:
		e = ending{websocket.StatusServiceRestart, "this gateway is going away; connect again"}
	case <-p.k.ctx.Done():
	}
	p.s.log.Debug("websocket ends", "session", p.session.ID, "reason", e.message)
	p.out.close(errQueueClosed)
	if e.message == "" {
		flush := time.NewTimer(flushWait)
		select {
		case <-linked:
		case <-flush.C:
		}
		flush.Stop()
	}
	cancel()
	p.k.finish(e)
	done.Wait()
	p.leaveQueue(e)
}

// over keeps the first ending.
func (p *pump) over(e ending) {
	select {
	case p.end <- e:
	default:
	}
}

func (p *pump) readClient() ending {
	for {
		frame, err := p.k.read()
		if err != nil {
			return asEnding(err)
		}
		if p.discover && isDiscover(frame) {
			if p.k.send(discoverAnswer(p.session.Screen.FPS)) != nil {
				return ending{}
			}
			continue
		}
		if err := p.out.push(frame); err != nil {
			return ending{websocket.StatusTryAgainLater, err.Error()}
		}
	}
}

// readLink opens the way to the stream, keeps trying while the bus is away, and
// then carries frames both ways.
func (p *pump) readLink(ctx context.Context) ending {
	link, err := p.dial(ctx)
	if err != nil {
		return linkEnding(ctx, err)
	}
	inner, cancel := context.WithCancel(ctx)
	first := make(chan error, 2)
	var done sync.WaitGroup
	done.Go(func() { first <- p.forward(ctx, link) })
	done.Go(func() { first <- p.deliver(inner, link) })
	e := linkEnding(ctx, <-first)
	cancel()
	p.out.close(errQueueClosed)
	done.Wait()
	if err := link.Close(); err != nil {
		p.s.log.Debug("link closed with an error", "session", p.session.ID, "error", err)
	}
	return e
}

func (p *pump) dial(ctx context.Context) (SignalLink, error) {
	for {
		link, err := p.open(ctx)
		if err == nil || api.CodeOf(err) != api.CodeUnavailable {
			return link, err
		}
		select {
		case <-time.After(p.s.timing.retry):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// forward carries the client's frames until the queue is closed and empty.
func (p *pump) forward(ctx context.Context, link SignalLink) error {
	for {
		frame, err := p.out.pop(ctx)
		if errors.Is(err, errQueueClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := link.Send(frame); err != nil {
			return err
		}
		p.s.metrics.frames.WithLabelValues("from_client").Inc()
	}
}

func (p *pump) deliver(ctx context.Context, link SignalLink) error {
	for {
		frame, err := link.Receive(ctx)
		if err != nil {
			return err
		}
		p.once.Do(func() { close(p.answered) })
		if err := p.k.send(frame); err != nil {
			return errors.Join(errClientGone, err)
		}
		p.s.metrics.frames.WithLabelValues("to_client").Inc()
	}
}

// linkEnding says what a client is told when the way to the stream ended.
func linkEnding(ctx context.Context, err error) ending {
	switch {
	case err == nil || ctx.Err() != nil || errors.Is(err, errClientGone):
		return ending{}
	case errors.Is(err, api.ErrSignalClosed):
		return ending{websocket.StatusNormalClosure, err.Error()}
	case api.CodeOf(err) == api.CodeInternal:
		return ending{websocket.StatusInternalError, "the way to the stream broke; connect again"}
	default:
		return ending{websocket.StatusInternalError, asError(err).Error()}
	}
}

// watch ends the wait when the session cannot answer any more, or did not in time.
func (p *pump) watch(ctx context.Context) ending {
	every := p.s.timing.watch
	var late <-chan time.Time
	hold := time.NewTimer(p.hold)
	defer hold.Stop()
	if p.hold > 0 && p.placed == nil {
		late = hold.C
	}
	answered, placed := p.answered, p.placed
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ending{}
		case <-late:
			return ending{websocket.StatusTryAgainLater, "the stream did not answer in time"}
		case <-placed: // the wait in the queue does not count
			placed = nil
			hold.Reset(p.hold)
			late = hold.C
		case <-answered:
			answered, late = nil, nil
			tick.Reset(p.s.timing.settled)
		case <-tick.C:
			if why := p.dead(ctx); why != "" {
				return ending{websocket.StatusNormalClosure, why}
			}
		}
	}
}

// dead says why the session will not answer any more; "" while it may.
func (p *pump) dead(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, p.s.cfg.RequestTimeout)
	defer cancel()
	sess, err := p.s.cfg.Sessions.Session(ctx, p.session.ID)
	switch {
	case api.CodeOf(err) == api.CodeNotFound:
		return "the session does not exist any more"
	case err != nil:
		return "" // no leader for the moment: look again
	case sess.Generation != p.session.Generation:
		return "the session went on elsewhere; join it again"
	}
	return endedText(&sess)
}

// endedText says in a sentence that a session is over, and why; "" while it is not.
func endedText(sess *api.Session) string {
	switch sess.Status() {
	case api.StatusError, api.StatusTerminating, api.StatusTerminated:
	default:
		return ""
	}
	if text := statusMessage(sess); text != "" {
		return "the session ended: " + text
	}
	return "the session ended"
}

// ping finds clients that vanished without a word.
func (p *pump) ping(ctx context.Context) ending {
	tick := time.NewTicker(p.s.timing.ping)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ending{}
		case <-tick.C:
			wait, cancel := context.WithTimeout(ctx, p.s.timing.write)
			err := p.k.conn.Ping(wait)
			cancel()
			if err != nil {
				return ending{}
			}
		}
	}
}
