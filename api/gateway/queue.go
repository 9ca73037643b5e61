package gateway

import (
	"context"
	"errors"
	"sync"
)

var (
	errQueueFull   = errors.New("too many frames are waiting for the other side")
	errQueueClosed = errors.New("queue is closed")
)

// queue is a bounded line of frames with any number of writers and one reader.
type queue struct {
	mu     sync.Mutex
	frames [][]byte
	bytes  int
	closed error         // set once: why nothing more comes
	wake   chan struct{} // holds one token when there may be something to read
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// push appends a frame, or says that the bound is reached.
func (q *queue) push(frame []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed != nil {
		return q.closed
	}
	if len(q.frames) >= maxQueue || q.bytes+len(frame) > maxQueueBytes {
		return errQueueFull
	}
	q.frames = append(q.frames, frame)
	q.bytes += len(frame)
	q.signal()
	return nil
}

// pop waits for the next frame. Frames pushed before a close are still given.
func (q *queue) pop(ctx context.Context) ([]byte, error) {
	for {
		q.mu.Lock()
		if len(q.frames) > 0 {
			f := q.frames[0]
			q.frames[0] = nil
			q.frames = q.frames[1:]
			q.bytes -= len(f)
			q.mu.Unlock()
			return f, nil
		}
		err := q.closed
		q.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// close ends the queue for a reason; the first one stands.
func (q *queue) close(reason error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed == nil {
		q.closed = reason
	}
	q.signal()
}

// clear drops what is waiting.
func (q *queue) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.frames, q.bytes = nil, 0
}

// signal is called with the lock held.
func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
