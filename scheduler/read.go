package scheduler

import (
	"context"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// verifiedIndex gives the index of the leader's state, after a majority has
// confirmed that it still leads: what was acknowledged before is in it. All who
// ask while one confirmation is under way share the next.
func (s *Server) verifiedIndex(ctx context.Context, _ nothing) (uint64, error) {
	return s.verify.ask(ctx, func() (uint64, error) {
		r := s.replica.Load()
		index := r.fsm.index.Load()
		if err := r.raft.VerifyLeader().Error(); err != nil {
			return 0, errNotLeader // reading changes nothing: it may always be asked again
		}
		return index, nil
	})
}

// Consistent waits until this replica shows all that was acknowledged before
// the call, by any replica: a read that follows is not stale.
func (s *Server) Consistent(ctx context.Context) error {
	index, err := onLeader(ctx, s, "index", nothing{}, s.verifiedIndex)
	if err != nil {
		return err
	}
	if err := s.replica.Load().fsm.await(ctx, index); err != nil {
		return &api.Error{Code: api.CodeUnavailable, Message: "this replica is behind the others: try again, or another one", Err: err}
	}
	return nil
}

// catchUpWithLeader is Consistent for a replica that does not serve yet.
func (s *Server) catchUpWithLeader(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var index uint64
	if err := s.ask(ctx, "index", nothing{}, &index); err != nil {
		return err
	}
	return s.replica.Load().fsm.await(ctx, index)
}

// Staleness is how old the state of this replica may be: the time since it last
// heard its leader, 0 when it leads itself.
func (s *Server) Staleness() time.Duration {
	r := s.replica.Load()
	if r == nil || s.leads() {
		return 0
	}
	heard := r.raft.LastContact()
	if heard.IsZero() {
		return neverHeard
	}
	return max(time.Since(heard), time.Millisecond)
}

// neverHeard stands for the age of what was never renewed.
const neverHeard = 24 * time.Hour

// found makes sure that something is not there: a replica that does not lead
// may not have heard of it yet.
func (s *Server) sure(ctx context.Context, there func() bool) bool {
	if there() {
		return true
	}
	if s.leads() || s.Consistent(ctx) != nil {
		return false
	}
	return there()
}
