package scheduler

import (
	"context"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

const (
	maxQueued    = 4096            // commands that wait for the log
	maxBatch     = 1024            // commands in one entry
	applyTimeout = 5 * time.Second // for Raft to take an entry
	// proposeTimeout bounds a command that nobody else bounds.
	proposeTimeout = 10 * time.Second
)

// proposal is one command on its way into the log.
type proposal struct {
	cmd     state.Command
	pending *pending // what its placement took, given back when it is in the ledger
	term    *term    // the leadership it belongs to; nil when there was none
	done    chan outcome
}

type outcome struct {
	result state.Result
	err    error // the command's own refusal, or that it may not have been committed
}

func (o outcome) fault() error {
	if o.err != nil {
		return o.err
	}
	return o.result.Err
}

// propose commits one command and gives its result. An error that is not
// retryable and no refusal of the command's own leaves open whether it was
// committed.
func (s *Server) propose(ctx context.Context, c state.Command) (state.Result, error) {
	return s.await(ctx, s.enqueue(ctx, c, nil))
}

// enqueue queues a command; nil when ctx ended first.
func (s *Server) enqueue(ctx context.Context, c state.Command, held *pending) *proposal {
	p := &proposal{cmd: c, pending: held, done: make(chan outcome, 1), term: s.term.Load()}
	if p.term == nil {
		s.refuse(p)
		return p
	}
	if since, now := state.Since(c), s.root().EntryVersion(); since > now {
		s.view.giveBack(held)
		p.done <- outcome{err: api.Errorf(api.CodeUnavailable, "not every scheduler runs a version that knows this: finish the upgrade (entries of version %d are needed, %d are written)", since, now)}
		return p
	}
	select {
	case p.term.proposals <- p:
		return p
	case <-p.term.over:
		s.refuse(p)
		return p
	case <-ctx.Done():
		s.view.giveBack(held)
		return nil
	}
}

// refuse answers a command that was not written.
func (s *Server) refuse(p *proposal) {
	s.view.giveBack(p.pending)
	p.pending = nil
	p.done <- outcome{err: &api.Error{Code: api.CodeUnavailable, Message: "the change was not written", Err: errNotLeader}}
}

func (s *Server) await(ctx context.Context, p *proposal) (state.Result, error) {
	if p == nil {
		return state.Result{}, api.Errorf(api.CodeUnavailable, "the scheduler is too busy or stopping: try again")
	}
	var late <-chan time.Time
	if _, bounded := ctx.Deadline(); !bounded {
		timer := time.NewTimer(proposeTimeout)
		defer timer.Stop()
		late = timer.C
	}
	var over chan struct{}
	if p.term != nil {
		over = p.term.over
	}
	select {
	case o := <-p.done:
		return o.result, o.fault()
	case <-over:
		select {
		case o := <-p.done: // it was answered just before
			return o.result, o.fault()
		default:
			s.refuse(p) // it came after the last was answered
			return state.Result{}, (<-p.done).fault()
		}
	case <-ctx.Done():
		return state.Result{}, &api.Error{Code: api.CodeTimeout, Message: "the change was not confirmed in time", Err: ctx.Err()}
	case <-late:
		return state.Result{}, api.Errorf(api.CodeTimeout, "the change was not confirmed in %s", proposeTimeout)
	}
}

// proposeLoop writes what is queued as one entry, waits until it is committed
// and answers each command: the busier, the larger the entries. At the end it
// refuses what still waits.
func (s *Server) proposeLoop(ctx context.Context, r *replica, t *term) {
	defer close(t.over)
	batch := make([]*proposal, 0, maxBatch)
	for {
		batch = batch[:0]
		select {
		case <-ctx.Done():
			for {
				select {
				case p := <-t.proposals:
					s.refuse(p)
					continue
				default:
					return
				}
			}
		case p := <-t.proposals:
			batch = append(batch, p)
		}
	collect:
		for len(batch) < maxBatch {
			select {
			case p := <-t.proposals:
				batch = append(batch, p)
			default:
				break collect
			}
		}
		s.commit(r, batch)
	}
}

func (s *Server) commit(r *replica, batch []*proposal) {
	commands := make([]state.Command, len(batch))
	for i, p := range batch {
		commands[i] = p.cmd
	}
	future := r.raft.Apply(state.EncodeAs(r.fsm.root.Load().EntryVersion(), s.cfg.Clock(), commands...), applyTimeout)
	err := future.Error()
	var results []state.Result
	if err == nil {
		a := future.Response().(applied)
		results, err = a.results, a.err
	}
	// The ledger shows the reservations from here on: in one step with that, the
	// placements under way let go of theirs, so that none counts twice or not at all.
	root := r.fsm.root.Load()
	s.view.settle(root, batch)
	if root.WaitingCount() > 0 {
		s.waiting.kick() // the change may have made room
	}
	for i, p := range batch {
		o := outcome{}
		if err != nil {
			o.err = &api.Error{Code: api.CodeUnavailable, Message: "the change could not be written", Err: ofRaft(err)}
		} else {
			o.result = results[i]
		}
		p.done <- o
	}
	// Those who wait have their answers: what these call for comes after.
	for _, r := range results {
		s.follow(r)
	}
}

// follow does what a committed change calls for.
func (s *Server) follow(r state.Result) {
	if r.Session == nil {
		return
	}
	s.dispatch.kick(r.Session.ID)
	if api.Final(r.Session.Observed) {
		s.ends.tell(r.Session.ID)
	}
	if r.Session.Warm || r.Session.FromPool {
		s.poolChange(r.Session)
	}
}
