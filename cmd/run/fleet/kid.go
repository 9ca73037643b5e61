package fleet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/gossip/simnet"
)

// What the processes of a session take, virtual time.
const (
	startLeast  = 200 * time.Millisecond // until the application runs
	startMean   = 300 * time.Millisecond // added to it, exponential
	viewerAfter = time.Second            // until the client is connected
	stopTakes   = 100 * time.Millisecond
	firstPID    = 1 << 23 // over any of this machine's
)

// kids are the processes of one machine: they outlive its daemon. In place of
// a shim and a stream with media there are two that speak the local protocol
// and say what those would say of a steady picture.
type kids struct {
	host *simnet.Host

	mu     sync.Mutex // guards the fields below
	next   int
	byPID  map[int]*kid
	bySock map[string]*kid
	wg     sync.WaitGroup
}

var _ edge.Children = (*kids)(nil)

func newKids(host *simnet.Host) *kids {
	return &kids{host: host, next: firstPID, byPID: map[int]*kid{}, bySock: map[string]*kid{}}
}

// kid is one process.
type kid struct {
	k       *kids
	pid     int
	role    edge.Role
	dir     local.Session
	session api.SessionID
	gen     api.Generation
	spec    api.Spec
	sock    string
	ln      net.Listener
	done    chan struct{}
	once    sync.Once

	mu    sync.Mutex // guards the fields below
	state local.Message
	conns map[*local.Conn]bool
}

// Start starts a shim or a stream.
func (k *kids) Start(role edge.Role, dir local.Session) (edge.Child, error) {
	spec, err := dir.ReadSpec()
	if err != nil {
		return nil, fmt.Errorf("start process: %w", err)
	}
	id, gen, err := dir.ID()
	if err != nil {
		return nil, fmt.Errorf("start process: %w", err)
	}
	ln, err := k.host.Listen(":0")
	if err != nil {
		return nil, fmt.Errorf("start process: %w", err)
	}
	c := &kid{k: k, role: role, dir: dir, session: id, gen: gen, spec: spec, ln: ln, done: make(chan struct{}), conns: map[*local.Conn]bool{}}
	c.sock = dir.ShimSocket()
	c.state = local.Message{Kind: local.KindState, Instance: &local.InstanceState{Observed: api.ObservedStarting}}
	if role == edge.RoleStream {
		c.sock = dir.StreamSocket()
		c.state = local.Message{Kind: local.KindState, Stream: &local.StreamState{}}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next++
	c.pid = k.next
	k.byPID[c.pid], k.bySock[c.sock] = c, c
	k.wg.Go(c.live)
	k.wg.Go(c.accept)
	return c, nil
}

// Find gives a process that runs.
func (k *kids) Find(pid int) (edge.Child, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.byPID[pid]; c != nil {
		return c, true
	}
	return nil, false
}

// Dial connects to a process's socket.
func (k *kids) Dial(ctx context.Context, socket string) (net.Conn, error) {
	k.mu.Lock()
	c := k.bySock[socket]
	k.mu.Unlock()
	if c == nil {
		return nil, unix.ECONNREFUSED
	}
	return k.host.Dial(ctx, c.ln.Addr().String())
}

// running lists the processes of a role.
func (k *kids) running(role edge.Role) []*kid {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []*kid
	for _, c := range k.byPID {
		if c.role == role {
			out = append(out, c)
		}
	}
	return out
}

// killAll ends every process, as a machine without power does.
func (k *kids) killAll() {
	k.mu.Lock()
	all := make([]*kid, 0, len(k.byPID))
	for _, c := range k.byPID {
		all = append(all, c)
	}
	k.mu.Unlock()
	for _, c := range all {
		c.end()
	}
	k.wg.Wait()
}

// live is what the process does by itself.
func (c *kid) live() {
	step := func(d time.Duration) bool {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-c.done:
			return false
		case <-t.C:
			return true
		}
	}
	if !step(startLeast + time.Duration(rand.ExpFloat64()*float64(startMean))) {
		return
	}
	if c.role == edge.RoleShim {
		c.tell(local.Message{Kind: local.KindState, Instance: &local.InstanceState{Observed: api.ObservedRunning, Screen: c.spec.Screen}})
		return
	}
	s := local.StreamState{Encoding: true, Drawn: true, Codec: api.H264, Pool: c.spec.Pool, Screen: c.spec.Screen}
	if len(c.spec.Codecs) > 0 {
		s.Codec = c.spec.Codecs[0]
	}
	first := s
	c.tell(local.Message{Kind: local.KindState, Stream: &first})
	if !step(viewerAfter) {
		return
	}
	s.Connected, s.Viewer, s.RoundTripMS = true, 1, 20
	c.tell(local.Message{Kind: local.KindState, Stream: &s})
}

// tell sends a state to the daemons, and to those that come later.
func (c *kid) tell(m local.Message) {
	c.mu.Lock()
	c.state = m
	conns := make([]*local.Conn, 0, len(c.conns))
	for l := range c.conns {
		conns = append(conns, l)
	}
	c.mu.Unlock()
	for _, l := range conns {
		if l.Send(m) != nil {
			_ = l.Close() // its reader notices
		}
	}
}

func (c *kid) accept() {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		raw, err := c.ln.Accept()
		if err != nil {
			return
		}
		wg.Go(func() { c.serve(raw) })
	}
}

func (c *kid) serve(raw net.Conn) {
	l, err := local.Handshake(raw)
	if err != nil {
		return
	}
	c.mu.Lock()
	c.conns[l] = true
	state := c.state
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.conns, l)
		c.mu.Unlock()
		_ = l.Close() // all is said
	}()
	if closedNow(c.done) || l.Send(state) != nil {
		return
	}
	for {
		m, err := l.Read()
		if err != nil {
			return
		}
		if m.Kind == local.KindStop {
			time.AfterFunc(stopTakes, c.end)
		}
	}
}

// end ends the process.
func (c *kid) end() {
	c.once.Do(func() {
		c.k.mu.Lock()
		delete(c.k.byPID, c.pid)
		if c.k.bySock[c.sock] == c {
			delete(c.k.bySock, c.sock)
		}
		c.k.mu.Unlock()
		close(c.done)
		_ = c.ln.Close() // never fails
		c.mu.Lock()
		defer c.mu.Unlock()
		for l := range c.conns {
			_ = l.Close() // its reader notices
		}
	})
}

// PID is the process's number.
func (c *kid) PID() int { return c.pid }

// Done is closed when the process has ended.
func (c *kid) Done() <-chan struct{} { return c.done }

// Signal ends the process: it has nothing to clean.
func (c *kid) Signal(unix.Signal) { c.end() }

func closedNow(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
