package scheduler

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/perigee-cloud/perigee/scheduler/state"
)

// term is one leadership of this replica, from having caught up to its end.
type term struct {
	proposals chan *proposal
	over      chan struct{} // closed when nothing more of it will be answered
}

// leads says whether this replica answers as the leader.
func (s *Server) leads() bool { return s.term.Load() != nil }

// roles leads whenever Raft says so, until ctx ends or the replica cannot go on.
func (s *Server) roles(ctx context.Context, r *replica) error {
	lead := false
	after, cancel := context.WithCancel(ctx)
	var owned sync.WaitGroup
	defer owned.Wait()
	defer cancel()
	for {
		select {
		case err := <-r.fsm.broken:
			return err
		default:
		}
		if !lead {
			select {
			case <-ctx.Done():
				return nil
			case err := <-r.fsm.broken:
				return err
			case err := <-s.fault:
				return err
			case lead = <-r.raft.LeaderCh():
				continue
			}
		}
		var err error
		if lead, err = s.lead(ctx, r); err != nil || ctx.Err() != nil {
			return err
		}
		if !lead {
			owned.Go(func() { s.handOn(after) })
		}
	}
}

// lead serves one term. It says whether another one of this replica follows.
func (s *Server) lead(ctx context.Context, r *replica) (again bool, err error) {
	if !s.catchUp(ctx, r) {
		return r.leads() && ctx.Err() == nil, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	t := &term{proposals: make(chan *proposal, maxQueued), over: make(chan struct{})}
	var owned sync.WaitGroup
	s.view.set(r.fsm.root.Load())
	s.leases.begin(s.cfg.Clock(), s.cfg.Lease)
	s.beginQueue()
	s.pools.begin()
	s.view.lore.begin()
	s.term.Store(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.proposeLoop(ctx, r, t)
	}()
	defer func() {
		s.term.Store(nil) // from here on nobody begins anything
		s.dispatch.end()
		cancel()
		<-ended
		owned.Wait()
	}()
	if err := s.haveSecrets(ctx, r); err != nil {
		return r.leads() && ctx.Err() == nil, s.unlessDeposed(ctx, r, err)
	}
	s.dispatch.begin(ctx, &owned)
	if err := s.open(r); err != nil {
		return false, err
	}
	owned.Go(func() { s.sweepLoop(ctx) })
	owned.Go(func() { s.queueLoop(ctx) })
	owned.Go(func() { s.poolLoop(ctx) })
	owned.Go(func() { s.keepLore(ctx) })
	owned.Go(func() { s.tendMembers(ctx, r) })
	s.cfg.Log.Info("scheduler leads", "replica", r.id, "term", r.raft.CurrentTerm(), "sessions", s.root().LiveCount())
	select {
	case <-ctx.Done():
		return false, nil
	case err := <-r.fsm.broken:
		return false, err
	case err := <-s.fault:
		return false, err
	case again := <-r.raft.LeaderCh():
		s.cfg.Log.Warn("scheduler leads no more", "replica", r.id)
		return again, nil
	}
}

// unlessDeposed drops an error that comes of having lost the leadership or being stopped.
func (s *Server) unlessDeposed(ctx context.Context, r *replica, err error) error {
	if retryable(err) == never && r.leads() && ctx.Err() == nil {
		return err
	}
	return nil
}

// catchUp commits an empty entry: once it is applied, so is all before it, and
// the index of the state counts from an entry of this term.
func (s *Server) catchUp(ctx context.Context, r *replica) bool {
	f := r.raft.Apply(state.Encode(s.cfg.Clock()), startTimeout)
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		if err == nil {
			return len(r.fsm.broken) == 0
		}
		if ctx.Err() == nil && !errors.Is(err, raft.ErrLeadershipLost) && !errors.Is(err, raft.ErrNotLeader) {
			s.cfg.Log.Warn("leader could not catch up with the log", "replica", r.id, "error", err)
			time.Sleep(pollEvery) // lest a full disk spin
		}
		return false
	case <-ctx.Done():
		return false
	}
}

// haveSecrets draws the cluster's keys when the cluster is new.
func (s *Server) haveSecrets(ctx context.Context, r *replica) error {
	if len(r.fsm.root.Load().Secrets().TicketSeed) > 0 {
		return nil
	}
	secrets := &state.Secrets{TicketSeed: make([]byte, ed25519.SeedSize), RingKey: s.cfg.RingKey}
	_, _ = rand.Read(secrets.TicketSeed) // never fails
	if len(secrets.RingKey) == 0 {
		secrets.RingKey = make([]byte, 32)
		_, _ = rand.Read(secrets.RingKey) // never fails
	}
	if _, err := s.propose(ctx, secrets); err != nil {
		return fmt.Errorf("keep the cluster's keys: %w", err)
	}
	return nil
}

// open opens for business, once: as a leader, or as a follower that has caught up.
func (s *Server) open(*replica) error {
	var err error
	s.opened.Do(func() {
		close(s.ready)
		if e := errors.Join(s.cfg.Bus.OnReport(s.onReport), s.cfg.Bus.OnHeartbeat(s.onHeartbeat)); e != nil {
			err = fmt.Errorf("listen on the bus: %w", e)
		}
	})
	return err
}

// followUp opens a replica that does not lead as soon as it has caught up with
// the leader, and keeps its record up to date.
func (s *Server) followUp(ctx context.Context, r *replica) {
	for pause(ctx, pollEvery) {
		if s.serving() == nil {
			break
		}
		if s.leads() || len(r.fsm.root.Load().Secrets().TicketSeed) == 0 {
			continue
		}
		if s.catchUpWithLeader(ctx) != nil {
			continue
		}
		if err := s.open(r); err != nil {
			s.fail(err)
			return
		}
		s.cfg.Log.Info("scheduler follows", "replica", r.id, "index", r.fsm.index.Load())
	}
	if r.port == nil {
		return
	}
	for first := true; first || pause(ctx, registerEvery); first = false {
		s.register(ctx, r)
		s.notePeers(r)
		s.forgetRejoin(r)
	}
}

// pause waits; false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// fail ends Run with the first fault.
func (s *Server) fail(err error) {
	select {
	case s.fault <- err:
	default:
	}
}
