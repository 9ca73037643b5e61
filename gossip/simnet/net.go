// Package simnet is a simulated wide-area network for memberlist, Raft and
// listeners: delay, jitter, loss and cuts between each pair of hosts, in one
// process. It keeps time by package time alone and touches no socket, so that
// whole clusters run on the virtual time of testing/synctest. Tests and bench
// use it.
package simnet

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Path is the way from one host to another; that back may differ.
type Path struct {
	Delay  time.Duration // one way
	Jitter time.Duration // mean of what is added to it, exponential
	Loss   float64       // share of packets that do not arrive, 0 to 1
	Drop   float64       // more of that for datagrams alone: streams do not feel it
}

// retransmit is what a lost segment of a stream adds to its delay: the least
// time-out of Linux's TCP.
const retransmit = 200 * time.Millisecond

// Net is the network. Its methods may be called by any goroutine.
type Net struct {
	mu    sync.Mutex // guards the fields below
	rnd   *rand.Rand
	path  func(from, to string) Path
	cut   func(from, to string) bool
	moved chan struct{} // closed at the next change of path or cut
	hosts map[string]*Host
	stats Stats
}

// Stats counts what the network carried.
type Stats struct {
	Packets, Lost uint64 // datagrams sent, and those that did not arrive
}

// New makes a network without hosts. path gives the way between two hosts by
// their addresses; it must be pure.
func New(seed uint64, path func(from, to string) Path) *Net {
	return &Net{
		rnd: rand.New(rand.NewPCG(seed, 1)), path: path, cut: func(string, string) bool { return false },
		moved: make(chan struct{}), hosts: map[string]*Host{},
	}
}

// Host gives the host of an IP address and makes it at first use.
func (n *Net) Host(ip string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[ip]
	if h == nil {
		h = &Host{net: n, ip: ip, next: firstPort, listeners: map[int]*listener{}, packets: map[int]*Transport{}, conns: map[*conn]struct{}{}}
		n.hosts[ip] = h
	}
	return h
}

// Cut says from now on what does not get through, by addresses; it must be
// pure. Packets are lost; streams wait, as TCP goes on sending. nil mends all.
func (n *Net) Cut(cut func(from, to string) bool) {
	if cut == nil {
		cut = func(string, string) bool { return false }
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
	n.change()
}

// SetPath replaces the ways.
func (n *Net) SetPath(path func(from, to string) Path) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.path = path
	n.change()
}

// change wakes who waits for a way. n.mu is held.
func (n *Net) change() {
	close(n.moved)
	n.moved = make(chan struct{})
}

// Stats gives what was carried so far.
func (n *Net) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

// Close ends every connection and listener.
func (n *Net) Close() {
	n.mu.Lock()
	hosts := make([]*Host, 0, len(n.hosts))
	for _, h := range n.hosts {
		hosts = append(hosts, h)
	}
	n.mu.Unlock()
	for _, h := range hosts {
		h.Crash()
	}
}

// open says whether anything gets through now, and gives what tells of a change.
func (n *Net) open(from, to string) (bool, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return from == to || !n.cut(from, to), n.moved
}

// draw gives how long one packet takes; false when it is lost.
func (n *Net) draw(from, to string, datagram bool) (time.Duration, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if from == to {
		return 0, true
	}
	p := n.path(from, to)
	d := p.Delay + time.Duration(n.rnd.ExpFloat64()*float64(p.Jitter))
	loss := p.Loss
	if datagram {
		loss += p.Drop
	}
	return d, !n.cut(from, to) && n.rnd.Float64() >= loss
}

// segment gives how long a piece of a stream takes, the sending of lost ones
// again included. A cut is the reader's affair.
func (n *Net) segment(from, to string) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if from == to {
		return 0
	}
	p := n.path(from, to)
	d := p.Delay + time.Duration(n.rnd.ExpFloat64()*float64(p.Jitter))
	for again := retransmit; n.rnd.Float64() < min(p.Loss, 0.9); again *= 2 {
		d += again
	}
	return d
}
