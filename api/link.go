package api

import (
	"errors"
	"fmt"
	"time"
)

// Bounds of a Link, each direction. They hold for what was sent and not yet
// acknowledged, and for what came early and waits for an earlier one.
const (
	LinkFrames = 64
	LinkBytes  = 1 << 20
	// LinkTimeout is how long a signal may stay unacknowledged before the link
	// counts as broken: a daemon may be upgraded under a live link.
	LinkTimeout = 60 * time.Second
)

const (
	resendEvery  = 150 * time.Millisecond
	resendSteady = 8 // re-sends at that pace: a stream process that starts is heard soon
	resendMost   = 2 * time.Second
)

// Errors of Link.Send.
var (
	ErrLinkFull = errors.New("signalling link is full")
	ErrLinkDone = errors.New("signalling link is closed")
)

// Link is one end of a viewer's signalling over a way that loses, repeats and
// reorders messages. Open, frames and close are numbered from 1, acknowledged
// and sent again until they are; the other end gets each once and in order.
//
// Link does no I/O and reads no clock. After each call of Open, Send, Close and
// Receive, and at the time that Next gives, the owner transmits what Due
// returns. One goroutine at a time may use it.
type Link struct {
	base  Signal     // identity of every signal of this end
	sent  []outgoing // unacknowledged, in order
	bytes int        // of sent
	seq   uint64     // last number given

	received   uint64            // highest number taken in order
	early      map[uint64]Signal // came before an earlier one
	earlyBytes int
	ackOwed    bool

	closing bool // our close is queued
	closed  bool // the other end closed
	reason  string
	opened  bool
}

type outgoing struct {
	signal      Signal
	tries       int
	first, next time.Time // first sent; to be sent again
}

// NewLink makes the end of a link whose signals carry s's Session, Generation,
// Viewer, Role and Rights. The side of the websocket calls Open first; the stream
// process makes its end when a SignalOpen comes and hands that to Receive.
func NewLink(s Signal) *Link {
	return &Link{
		base:  Signal{Session: s.Session, Generation: s.Generation, Viewer: s.Viewer, Role: s.Role, Rights: s.Rights},
		early: map[uint64]Signal{},
	}
}

// Open queues the SignalOpen that tells the stream process of the viewer.
func (l *Link) Open() error { return l.queue(SignalOpen, nil) }

// Send queues one frame of at most MaxFrame bytes, which it keeps. ErrLinkFull
// says that the other end acknowledges too little, ErrLinkDone that one end closed.
func (l *Link) Send(frame []byte) error { return l.queue(SignalFrame, frame) }

// Close queues a close with a reason for the other end, "" for none; what was
// sent before still arrives. Closing twice does nothing.
func (l *Link) Close(reason string) {
	if !l.closing && !l.closed {
		_ = l.queue(SignalClose, []byte(reason)) // a close is always let in
	}
}

func (l *Link) queue(kind SignalKind, data []byte) error {
	if l.closing || l.closed {
		return fmt.Errorf("send %s: %w", kind, ErrLinkDone)
	}
	if len(data) > MaxFrame {
		return Errorf(CodeTooLarge, "a signalling frame of %d bytes is over %d", len(data), MaxFrame)
	}
	l.closing = kind == SignalClose
	if !l.closing && (len(l.sent) >= LinkFrames || l.bytes+len(data) > LinkBytes) {
		return fmt.Errorf("send %s: %w", kind, ErrLinkFull)
	}
	l.seq++
	s := l.base
	s.Kind, s.Seq, s.Data = kind, l.seq, data
	l.sent = append(l.sent, outgoing{signal: s})
	l.bytes += len(data)
	return nil
}

// Receive takes one signal of the other end and gives the frames that are now
// in order. Signals of another viewer, repeated ones and ones beyond the bounds
// are dropped.
func (l *Link) Receive(s Signal) [][]byte {
	if s.Session != l.base.Session || s.Generation != l.base.Generation || s.Viewer != l.base.Viewer || l.closed {
		l.ackOwed = l.ackOwed || l.closed && s.Seq > 0 && s.Seq <= l.received
		return nil
	}
	l.acknowledged(s.Ack)
	if s.Kind == SignalClose && s.Seq == 0 { // an abort, see RefuseSignal
		l.end(s)
		return nil
	}
	if s.Kind == SignalAck || s.Seq == 0 || len(s.Data) > MaxFrame {
		return nil
	}
	l.ackOwed = true
	if s.Seq != l.received+1 {
		_, have := l.early[s.Seq]
		if !have && s.Seq > l.received && s.Seq-l.received <= LinkFrames && l.earlyBytes+len(s.Data) <= LinkBytes {
			l.early[s.Seq] = s
			l.earlyBytes += len(s.Data)
		}
		return nil
	}
	var out [][]byte
	for have := true; have && !l.closed; {
		l.received = s.Seq
		switch s.Kind {
		case SignalOpen:
			l.opened = true
		case SignalFrame:
			out = append(out, s.Data)
		case SignalClose:
			l.end(s)
		}
		if s, have = l.early[l.received+1]; have {
			delete(l.early, s.Seq)
			l.earlyBytes -= len(s.Data)
		}
	}
	return out
}

func (l *Link) acknowledged(ack uint64) {
	for len(l.sent) > 0 && l.sent[0].signal.Seq <= ack {
		l.bytes -= len(l.sent[0].signal.Data)
		l.sent = l.sent[1:]
	}
	if len(l.sent) == 0 {
		l.sent = nil
	}
}

func (l *Link) end(s Signal) {
	l.closed, l.reason = true, string(s.Data)
	l.sent, l.bytes = nil, 0 // nobody takes them any more
	clear(l.early)
	l.earlyBytes = 0
}

// Due gives what must be transmitted at now: what is new, what was not
// acknowledged in time, or an acknowledgement alone. Every signal carries the
// acknowledgement.
func (l *Link) Due(now time.Time) []Signal {
	var out []Signal
	for i := range l.sent {
		o := &l.sent[i]
		if o.tries > 0 && now.Before(o.next) {
			continue
		}
		if o.tries == 0 {
			o.first = now
		}
		o.next = now.Add(resendAfter(o.tries))
		o.tries++
		s := o.signal
		s.Ack = l.received
		out = append(out, s)
	}
	if len(out) == 0 && l.ackOwed {
		s := l.base
		s.Kind, s.Ack = SignalAck, l.received
		out = append(out, s)
	}
	l.ackOwed = false
	return out
}

func resendAfter(tries int) time.Duration {
	if tries < resendSteady {
		return resendEvery
	}
	return min(resendEvery<<min(tries-resendSteady+1, 8), resendMost)
}

// Next gives the time at which Due has something; false when only a call can
// change that. The zero time means now.
func (l *Link) Next() (time.Time, bool) {
	if l.ackOwed {
		return time.Time{}, true
	}
	var next time.Time
	for i, o := range l.sent {
		if o.tries == 0 {
			return time.Time{}, true
		}
		if i == 0 || o.next.Before(next) {
			next = o.next
		}
	}
	return next, len(l.sent) > 0
}

// Opened says whether the other end's SignalOpen has come.
func (l *Link) Opened() bool { return l.opened }

// Closed says whether the other end closed the link, and its reason.
func (l *Link) Closed() (reason string, closed bool) { return l.reason, l.closed }

// Drained says whether everything sent was acknowledged, a close included.
func (l *Link) Drained() bool { return len(l.sent) == 0 }

// Stalled says whether the other end has left a signal unacknowledged for
// LinkTimeout at now.
func (l *Link) Stalled(now time.Time) bool {
	return len(l.sent) > 0 && l.sent[0].tries > 0 && now.Sub(l.sent[0].first) >= LinkTimeout
}

// RefuseSignal answers a signal that nobody takes: its session has ended or its
// link was forgotten. A close is acknowledged; anything else is aborted with
// the reason, at once and without number. An acknowledgement, and an abort, get
// no answer: ok is false.
func RefuseSignal(s Signal, reason string) (answer Signal, ok bool) {
	answer = Signal{Session: s.Session, Generation: s.Generation, Viewer: s.Viewer, Kind: SignalClose, Data: []byte(reason)}
	if s.Kind == SignalAck || s.Seq == 0 {
		return Signal{}, false
	}
	if s.Kind == SignalClose {
		answer.Kind, answer.Ack, answer.Data = SignalAck, s.Seq, nil
	}
	return answer, true
}
