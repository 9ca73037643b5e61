package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

const (
	createsFlying  = 3   // calls with creates on their way to the leader at once
	createsPerCall = 256 // creates in one call: 3 MB with the longest extra_data

	createsName = "creates"
)

// errUnknownCall says that the other replica's version does not know a call.
var errUnknownCall = errors.New("the replica does not know the call")

// madeSession is what the leader tells of a create. Ticket and relay credential
// are made where the client is: that spares the leader.
type madeSession struct {
	Session api.Session
	Viewer  uint32
}

// createOrder is one of many creates in one call.
type createOrder struct {
	createCall
	TimeoutMS int64
}

// createdOne answers one of them.
type createdOne struct {
	Made  *madeSession `json:",omitempty"`
	Error *api.Error   `json:",omitempty"`
	Again again        `json:",omitempty"`
}

// forwarding collects the creates that this replica's clients ask for and sends
// them to the leader many at a time: the busier, the more in one call; nothing
// waits for a timer.
type forwarding struct {
	server *Server
	ctx    context.Context // of Run
	owned  sync.WaitGroup

	mu      sync.Mutex
	waiting []*forwarded
	flying  int
	closed  bool
	single  context.Context // the leadership under which one create at a time is taken: an earlier version's
}

// forwarded is one create on its way.
type forwarded struct {
	createOrder
	at   time.Time // deadline
	done chan arrival
}

// arrival is what became of it.
type arrival struct {
	made  *madeSession
	index uint64 // of the leader's state
	err   error
}

// createThere has the leader create a session.
func (s *Server) createThere(ctx context.Context, c createCall) (api.Admission, error) {
	to, ok := s.leader()
	if !ok {
		return api.Admission{}, errNotLeader
	}
	if s.forward.takesOne(to) {
		return s.createAlone(ctx, c)
	}
	at, ok := ctx.Deadline()
	if !ok {
		at = time.Now().Add(callTimeout)
	}
	f := &forwarded{createOrder: createOrder{createCall: c}, at: at, done: make(chan arrival, 1)}
	s.forward.put(f)
	select {
	case a := <-f.done:
		if errors.Is(a.err, errUnknownCall) {
			return s.createAlone(ctx, c)
		}
		if a.err != nil {
			return api.Admission{}, a.err
		}
		return s.admitThere(ctx, a)
	case <-ctx.Done():
		return api.Admission{}, fmt.Errorf("%w: %w", errDeposed, ctx.Err())
	}
}

// createAlone makes the call that the version before this one knows.
func (s *Server) createAlone(ctx context.Context, c createCall) (api.Admission, error) {
	var a api.Admission
	err := s.ask(ctx, "create", c, &a)
	return a, err
}

// admitThere makes the client's admission, once this replica knows the node.
func (s *Server) admitThere(ctx context.Context, a arrival) (api.Admission, error) {
	v := a.made.Session
	if _, known := s.root().Node(v.Node); !known && v.Node != "" {
		if s.replica.Load().fsm.await(ctx, a.index) != nil {
			return api.Admission{}, api.Errorf(api.CodeTimeout, "the session was made, but has not come to this replica in time")
		}
	}
	return s.admission(v, a.made.Viewer), nil
}

func (f *forwarding) takesOne(to target) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.single != nil && f.single == to.leads
}

// close ends what is on its way; stopping is closed before.
func (f *forwarding) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.owned.Wait()
}

// put queues a create. Its deadline bounds how long it is there.
func (f *forwarding) put(one *forwarded) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		one.done <- arrival{err: errNotLeader}
		return
	}
	f.waiting = append(f.waiting, one)
	if f.flying < createsFlying {
		f.flying++
		f.owned.Go(f.fly)
	}
}

// take gives what waits, up to a call's worth; nothing ends the goroutine.
func (f *forwarding) take() []*forwarded {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := min(len(f.waiting), createsPerCall)
	if n == 0 {
		f.flying--
		return nil
	}
	batch := f.waiting[:n:n]
	f.waiting = f.waiting[n:]
	if len(f.waiting) == 0 {
		f.waiting = nil
	}
	return batch
}

// fly makes calls until nothing waits.
func (f *forwarding) fly() {
	for batch := f.take(); batch != nil; batch = f.take() {
		f.send(batch)
	}
}

func (f *forwarding) send(batch []*forwarded) {
	s, now := f.server, time.Now()
	last := now
	orders := make([]createOrder, len(batch))
	for i, b := range batch {
		b.TimeoutMS = max(b.at.Sub(now).Milliseconds(), 1)
		orders[i] = b.createOrder
		if b.at.After(last) {
			last = b.at
		}
	}
	to, ok := s.leader()
	if !ok {
		answerAll(batch, errNotLeader)
		return
	}
	ctx, cancel := context.WithDeadline(f.ctx, last)
	defer cancel()
	var answers []createdOne
	index, err := s.call(ctx, to, createsName, orders, &answers)
	if err == nil && len(answers) != len(batch) {
		err = fmt.Errorf("%w: %d answers to %d creates", errDeposed, len(answers), len(batch))
	}
	if err != nil {
		if errors.Is(err, errUnknownCall) {
			f.mu.Lock()
			f.single = to.leads
			f.mu.Unlock()
		}
		answerAll(batch, err)
		return
	}
	for i, a := range answers {
		batch[i].done <- a.arrival(index)
	}
}

func answerAll(batch []*forwarded, err error) {
	for _, b := range batch {
		b.done <- arrival{err: err}
	}
}

func (a createdOne) arrival(index uint64) arrival {
	switch {
	case a.Again == safely:
		return arrival{err: errNotLeader}
	case a.Again == unsure, a.Error == nil && a.Made == nil:
		return arrival{err: errDeposed}
	case a.Error != nil:
		return arrival{err: a.Error}
	default:
		return arrival{made: a.Made, index: index}
	}
}

// createMany carries out another replica's creates, side by side: those of one
// call become one entry.
func (s *Server) createMany(ctx context.Context, orders []createOrder) ([]createdOne, error) {
	if len(orders) > createsPerCall {
		return nil, api.Errorf(api.CodeInvalid, "at most %d creates in one call, got %d", createsPerCall, len(orders))
	}
	out := make([]createdOne, len(orders))
	var wg sync.WaitGroup
	for i := range orders {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, time.Duration(orders[i].TimeoutMS)*time.Millisecond)
			defer cancel()
			made, err := s.make(ctx, orders[i].createCall)
			switch out[i].Again = retryable(err); {
			case out[i].Again != never:
			case err != nil:
				out[i].Error = told(err)
			default:
				out[i].Made = &made
			}
		})
	}
	wg.Wait()
	return out, nil
}
