package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

const (
	createsFlying  = 3   // calls with creates on their way to the leader at once
	createsPerCall = 256 // creates in one call: 3 MB with the longest extra_data

	// createsName has the layout of state.Handover in it: who knows another one
	// does not know the call.
	createsName = "creates.2"
)

// errUnknownCall says that the other replica's version does not know a call.
var errUnknownCall = errors.New("the replica does not know the call")

// madeSession is what the leader tells of a create. Ticket and relay credential
// are made where the client is: that spares the leader.
type madeSession struct {
	Session api.Session
	Viewer  uint32
}

// createdOne answers a create of many that made no new session with a place.
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
	createCall
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
	f := &forwarded{createCall: c, at: at, done: make(chan arrival, 1)}
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
	orders := make([]state.Handover, len(batch))
	for i, b := range batch {
		orders[i] = state.Handover{ID: b.ID, Request: b.Request, TimeoutMS: max(b.at.Sub(now).Milliseconds(), 1)}
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
	var answers []state.Made
	b, index, err := s.carry(ctx, to, createsName, state.EncodeHandovers(orders))
	if err == nil {
		answers, err = state.DecodeMade(b)
	}
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
	for i := range answers {
		batch[i].done <- arrived(&answers[i], index)
	}
}

func answerAll(batch []*forwarded, err error) {
	for _, b := range batch {
		b.done <- arrival{err: err}
	}
}

func arrived(m *state.Made, index uint64) arrival {
	if m.Session != nil {
		return arrival{made: &madeSession{*m.Session, m.Viewer}, index: index}
	}
	var a createdOne
	if err := json.Unmarshal(m.Other, &a); err != nil {
		return arrival{err: fmt.Errorf("%w: read answer to a create: %w", errDeposed, err)}
	}
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

// answered is what the leader says of one of many creates.
func answered(made madeSession, err error) state.Made {
	var a createdOne
	switch a.Again = retryable(err); {
	case a.Again != never:
	case err != nil:
		a.Error = told(err)
	case state.CanMake(&made.Session):
		return state.Made{Session: &made.Session, Viewer: made.Viewer}
	default:
		a.Made = &made
	}
	b, err := json.Marshal(a)
	if err != nil {
		b, _ = json.Marshal(createdOne{Error: told(fmt.Errorf("encode answer: %w", err))}) // plain text: cannot fail
	}
	return state.Made{Other: b}
}

// createMany carries out another replica's creates: those of one call are placed
// one after the other and become one entry. What takes longer, for want of room,
// goes on beside the others.
func (s *Server) createMany(ctx context.Context, body []byte) (any, error) {
	orders, err := state.DecodeHandovers(body)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "the call is not understood: %v", err)
	}
	if len(orders) > createsPerCall {
		return nil, api.Errorf(api.CodeInvalid, "at most %d creates in one call, got %d", createsPerCall, len(orders))
	}
	out := make([]state.Made, len(orders))
	going := make([]*making, len(orders))
	var aside sync.WaitGroup
	beside := func(i int, do func(context.Context) (madeSession, error)) {
		going[i] = nil
		aside.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, time.Duration(orders[i].TimeoutMS)*time.Millisecond)
			defer cancel()
			out[i] = answered(do(ctx))
		})
	}
	for i := range orders {
		m, err := s.prepare(createCall{ID: orders[i].ID, Request: orders[i].Request})
		if err != nil {
			out[i] = answered(madeSession{}, err)
			continue
		}
		going[i] = m
		if m.made != nil || m.alone {
			beside(i, func(ctx context.Context) (madeSession, error) { return s.carryOut(ctx, m) })
		} else if no := s.submit(ctx, m); no != nil {
			beside(i, func(ctx context.Context) (madeSession, error) {
				res, err := s.unplaced(ctx, m, no)
				return s.created(m.create, res, err)
			})
		}
	}
	for i, m := range going {
		if m == nil {
			continue
		}
		res, again, err := s.land(ctx, m)
		if again {
			beside(i, func(ctx context.Context) (madeSession, error) { return s.carryOut(ctx, m) })
			continue
		}
		out[i] = answered(s.created(m.create, res, err))
	}
	aside.Wait()
	return packed(state.EncodeMade(s.root().EntryVersion(), out)), nil
}
