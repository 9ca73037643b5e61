package bus

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/perigee-cloud/perigee/api"
)

// lingerFor is how long a closed link still re-sends its close.
const lingerFor = 3 * time.Second

// SendSignal sends one signal of a stream process towards its client. It is not
// acknowledged here: both ends of the link are farther out.
func (b *Conn) SendSignal(s api.Signal) error {
	if b.node == "" {
		return errNotNode
	}
	return b.publish(kindUp, b.node, s)
}

func (b *Conn) publish(way string, node api.NodeID, s api.Signal) error {
	if err := checkSignal(s); err != nil {
		return err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode signal: %w", err)
	}
	if err := b.nc.Publish(signalSubject(node, way, s.Session, s.Viewer), data); err != nil {
		return fmt.Errorf("send signal: %w", err)
	}
	return nil
}

// OnSignal takes the signals for this node's stream processes, each session's
// in order.
func (b *Conn) OnSignal(handle func(s api.Signal)) error {
	if b.node == "" {
		return errNotNode
	}
	_, err := b.subscribe(subject(b.node, kindDown)+".>", func(m *nats.Msg) {
		if s, ok := b.parseSignal(m); ok {
			b.run(m, string(s.Session), func() { handle(s) })
		}
	})
	return err
}

func (b *Conn) parseSignal(m *nats.Msg) (api.Signal, bool) {
	var s api.Signal
	err := json.Unmarshal(m.Data, &s)
	if err != nil || !strings.HasSuffix(m.Subject, "."+string(s.Session)+"."+s.Viewer) || checkSignal(s) != nil {
		b.drop(m, "not a signal of its subject")
		return s, false
	}
	return s, true
}

// SignalLink is the gateway's end of one viewer's signalling: reliable and in
// order over a bus that loses messages. All methods are for many goroutines.
type SignalLink struct {
	bus  *Conn
	node api.NodeID
	sub  *nats.Subscription
	wake chan struct{} // to the loop: the link has something to transmit
	come chan struct{} // to Receive: a frame or the end is there

	mu     sync.Mutex
	link   *api.Link
	frames [][]byte // received, not yet taken
	bytes  int      // of frames
	end    error    // why no more frames come
}

// OpenSignal opens a viewer's signalling with the session's stream process: the
// holder of t, in one websocket connection. The link lives until Close, or the
// stream closes it, or it stays silent for api.LinkTimeout; ctx bounds the
// opening only.
func (b *Conn) OpenSignal(ctx context.Context, s api.Session, t api.Ticket) (*SignalLink, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open signal link: %w", err)
	}
	if s.Node == "" {
		return nil, api.Errorf(api.CodeUnavailable, "session %s runs on no node yet", s.ID)
	}
	random := strings.ToLower(rand.Text()[:8])
	base := api.Signal{
		Session: s.ID, Generation: s.Generation, Role: t.Role, Rights: t.Rights, Viewer: fmt.Sprintf("%d-%s", t.Viewer, random),
	}
	if t.Share > 0 {
		base.Viewer = api.GuestID(t.Share, random)
	}
	if err := errors.Join(checkNode(s.Node), checkSignal(base)); err != nil {
		return nil, err
	}
	l := &SignalLink{
		bus: b, node: s.Node, link: api.NewLink(base),
		wake: make(chan struct{}, 1), come: make(chan struct{}, 1),
	}
	if err := l.link.Open(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("open signal link: %w", nats.ErrConnectionClosed)
	}
	var err error
	if l.sub, err = b.subscribe(signalSubject(s.Node, kindUp, s.ID, base.Viewer), l.take); err != nil {
		return nil, err
	}
	b.links.Go(l.run)
	return l, nil
}

// Send queues one frame of at most api.MaxFrame bytes. api.ErrLinkFull says that
// the stream does not keep up, api.ErrLinkDone or api.ErrSignalClosed that the
// link has ended.
func (l *SignalLink) Send(frame []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end != nil {
		return l.end
	}
	if err := l.link.Send(append([]byte(nil), frame...)); err != nil {
		return err
	}
	poke(l.wake)
	return nil
}

// Receive waits for the next frame. When no more come it gives
// api.ErrSignalClosed with the stream's reason, a CodeTimeout error when the
// stream stayed silent, or api.ErrLinkDone after Close.
func (l *SignalLink) Receive(ctx context.Context) ([]byte, error) {
	for {
		l.mu.Lock()
		if len(l.frames) > 0 {
			f := l.frames[0]
			l.frames, l.bytes = l.frames[1:], l.bytes-len(f)
			l.mu.Unlock()
			return f, nil
		}
		end := l.end
		l.mu.Unlock()
		if end != nil {
			poke(l.come) // for other waiters
			return nil, end
		}
		select {
		case <-l.come:
		case <-ctx.Done():
			return nil, fmt.Errorf("receive signal: %w", ctx.Err())
		}
	}
}

// Close ends the link; what was sent before is still re-sent for 3 s.
func (l *SignalLink) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.link.Close("")
	l.finish(fmt.Errorf("receive signal: %w", api.ErrLinkDone))
	poke(l.wake)
	return nil
}

// finish sets why no more frames come. l.mu is held.
func (l *SignalLink) finish(err error) {
	if l.end == nil {
		l.end = err
	}
	poke(l.come)
}

// take is called by the subscription with each signal of the stream.
func (l *SignalLink) take(m *nats.Msg) {
	s, ok := l.bus.parseSignal(m)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.frames) >= api.LinkFrames || l.bytes >= api.LinkBytes {
		return // the reader is slow: unacknowledged, it is sent again
	}
	for _, f := range l.link.Receive(s) {
		l.frames, l.bytes = append(l.frames, f), l.bytes+len(f)
	}
	if reason, closed := l.link.Closed(); closed {
		err := api.ErrSignalClosed
		if reason != "" {
			err = fmt.Errorf("%w: %s", api.ErrSignalClosed, reason)
		}
		l.finish(err)
	}
	poke(l.come)
	poke(l.wake)
}

// run transmits what is due until the link has ended.
func (l *SignalLink) run() {
	defer func() {
		l.mu.Lock()
		l.finish(fmt.Errorf("signal link: %w", nats.ErrConnectionClosed))
		l.mu.Unlock()
		_ = l.sub.Unsubscribe() // fails only when the connection is closed
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var leave time.Time // when a closed link is forgotten
	for {
		select {
		case <-l.bus.ctx.Done():
			l.mu.Lock()
			l.link.Close("the gateway stops")
			l.mu.Unlock()
			l.transmit(time.Now(), &leave)
			return
		case <-l.wake:
		case <-timer.C:
		}
		now := time.Now()
		next, over := l.transmit(now, &leave)
		if over {
			return
		}
		timer.Reset(next)
	}
}

// transmit sends what is due and says when to look again, or that it is over.
func (l *SignalLink) transmit(now time.Time, leave *time.Time) (time.Duration, bool) {
	l.mu.Lock()
	out := l.link.Due(now)
	if l.link.Stalled(now) {
		l.finish(api.Errorf(api.CodeTimeout, "the stream did not answer for %s", api.LinkTimeout))
	}
	next, due := l.link.Next()
	ended, drained := l.end != nil, l.link.Drained()
	_, theirs := l.link.Closed()
	l.mu.Unlock()
	for _, s := range out {
		if err := l.bus.publish(kindDown, l.node, s); err != nil && l.bus.nc.IsConnected() {
			l.bus.log.Warn("signal not sent", "session", s.Session, "viewer", s.Viewer, "error", err)
		}
	}
	if ended && leave.IsZero() {
		*leave = now.Add(lingerFor)
	}
	switch {
	case ended && !now.Before(*leave), ended && drained && !theirs:
		return 0, true
	case ended:
		wait := leave.Sub(now)
		if due {
			wait = min(wait, max(next.Sub(now), 0))
		}
		return wait, false
	case due:
		return max(next.Sub(now), 0), false
	default:
		return time.Hour, false // only a call can change anything
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
