// Package link is a narrow way between two hosts, in user space: a drop-tail
// queue in front of a rate, a delay, and loss. Link is pure and runs on
// whatever clock its caller has, so tests use it in virtual time; Forwarder puts
// two of them between real sockets. Tests and the bench use it, for kernels
// without a network emulator and for users without the right to one.
package link

import (
	"math/rand/v2"
	"time"
)

// Shape is what a link does to packets.
type Shape struct {
	Kbps  float64       // kb/s of the bottleneck; 0 = no bound
	Queue time.Duration // a packet that would wait longer is dropped; 0 = no bound
	Delay time.Duration // one way, behind the queue
	Loss  float64       // share of packets lost by chance, 0 to 1
}

// Link carries packets of T one way. Times are since an arbitrary start and
// never go back. One goroutine at a time.
type Link[T any] struct {
	shape Shape
	rnd   *rand.Rand
	queue []held[T] // wait for the bottleneck, oldest first
	bytes int       // in queue
	free  time.Duration
	wire  []held[T] // passed it, at is when they arrive

	// Passed, Dropped and Lost count packets: through the bottleneck, at a full
	// queue, by chance. PassedBytes counts what went through.
	Passed, Dropped, Lost int
	PassedBytes           int64
}

type held[T any] struct {
	at   time.Duration
	size int
	v    T
}

// New makes a link; seed decides which packets are lost.
func New[T any](s Shape, seed uint64) *Link[T] {
	return &Link[T]{shape: s, rnd: rand.New(rand.NewPCG(seed, 1))}
}

// Set changes the shape from now on; what waits then waits at the new rate.
func (l *Link[T]) Set(now time.Duration, s Shape) {
	l.advance(now)
	l.shape = s
}

// Send gives the link a packet of so many bytes.
func (l *Link[T]) Send(now time.Duration, size int, v T) {
	l.advance(now)
	switch {
	case l.shape.Loss > 0 && l.rnd.Float64() < l.shape.Loss:
		l.Lost++
		return
	case l.shape.Queue > 0 && l.takes(l.bytes) > l.shape.Queue:
		l.Dropped++
		return
	}
	l.queue = append(l.queue, held[T]{now, size, v})
	l.bytes += size
	l.advance(now)
}

// takes is how long the bottleneck needs for so many bytes.
func (l *Link[T]) takes(bytes int) time.Duration {
	if l.shape.Kbps == 0 {
		return 0
	}
	return time.Duration(float64(bytes) * 8 / 1000 / l.shape.Kbps * float64(time.Second))
}

// advance moves what passed the bottleneck by now onto the wire. It counts in
// exact times: a caller that wakes late does not make the link narrower.
func (l *Link[T]) advance(now time.Duration) {
	for len(l.queue) > 0 {
		h := l.queue[0]
		end := max(l.free, h.at) + l.takes(h.size)
		if end > now {
			return
		}
		l.free = end
		l.queue = l.queue[1:]
		l.bytes -= h.size
		l.Passed++
		l.PassedBytes += int64(h.size)
		h.at = end + l.shape.Delay
		if n := len(l.wire); n > 0 {
			h.at = max(h.at, l.wire[n-1].at) // a shorter delay overtakes nothing
		}
		l.wire = append(l.wire, h)
	}
}

// Receive gives the next packet that has arrived by now.
func (l *Link[T]) Receive(now time.Duration) (v T, at time.Duration, ok bool) {
	l.advance(now)
	if len(l.wire) == 0 || l.wire[0].at > now {
		return v, 0, false
	}
	h := l.wire[0]
	l.wire = l.wire[1:]
	return h.v, h.at, true
}

// Next says when the link has something to do; false: nothing is in it.
func (l *Link[T]) Next() (time.Duration, bool) {
	switch {
	case len(l.wire) > 0:
		return l.wire[0].at, true
	case len(l.queue) > 0:
		return max(l.free, l.queue[0].at) + l.takes(l.queue[0].size), true
	}
	return 0, false
}
