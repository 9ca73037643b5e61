package scheduler

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// startTimeout bounds how long a replica may take to lead and catch up.
const startTimeout = 30 * time.Second

// stopTimeout bounds how long the loops may take to end before Raft is stopped
// under them.
const stopTimeout = 5 * time.Second

// Server is one scheduler. Its methods may be called at any time by any
// goroutine; before it is ready and after Run returned they answer
// CodeUnavailable.
type Server struct {
	cfg       Config
	proposals chan *proposal
	replica   atomic.Pointer[replica]
	ticketKey atomic.Pointer[ed25519.PrivateKey]
	ready     chan struct{} // closed when the state is complete and the keys are there
	stopped   chan struct{} // closed when Run returns

	view     view
	leases   leases
	dispatch dispatcher
	demand   demand
	ends     ends
}

// New makes a Server; Run starts it.
func New(c Config) (*Server, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: c, proposals: make(chan *proposal, maxQueued), ready: make(chan struct{}), stopped: make(chan struct{})}
	s.view.root = state.New()
	s.view.pending = map[api.NodeID]map[api.Pool]pendingPool{}
	s.leases.nodes = map[api.NodeID]*lease{}
	s.dispatch.init(s)
	s.demand.cells = map[api.DemandCell]uint64{}
	s.ends.waiting = map[api.SessionID]chan struct{}{}
	return s, nil
}

// Run opens the replica, leads, and serves until ctx ends. A Server runs once.
func (s *Server) Run(ctx context.Context) error {
	defer close(s.stopped)
	r, err := openReplica(s.cfg)
	if err != nil {
		return fmt.Errorf("open replica: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var owned sync.WaitGroup
	err = s.lead(ctx, r, &owned)
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-r.fsm.broken:
			s.cfg.Log.Error("the state cannot go on", "replica", r.id, "error", err)
		}
	}
	// The loops end before Raft does: they use it.
	asked := ctx.Err() != nil
	cancel()
	s.dispatch.end()
	// A disk that hangs must not keep the loops waiting for a commit for ever.
	hung := time.AfterFunc(stopTimeout, func() { r.raft.Shutdown() })
	owned.Wait()
	hung.Stop()
	if asked {
		err = nil // to be stopped while starting is no fault
	}
	return errors.Join(err, r.shut())
}

// lead waits for leadership, starts the loops and opens for business.
func (s *Server) lead(ctx context.Context, r *replica, owned *sync.WaitGroup) error {
	if err := r.awaitLead(ctx); err != nil {
		return err
	}
	s.replica.Store(r)
	s.view.set(r.fsm.root.Load())
	owned.Go(func() { s.proposeLoop(ctx, r) })
	if err := s.haveSecrets(ctx, r); err != nil {
		return err
	}
	key := ed25519.NewKeyFromSeed(r.fsm.root.Load().Secrets().TicketSeed)
	s.ticketKey.Store(&key)
	s.leases.begin(s.cfg.Clock(), s.cfg.Lease)
	s.dispatch.begin(ctx, owned)
	close(s.ready)
	if err := errors.Join(s.cfg.Bus.OnReport(s.onReport), s.cfg.Bus.OnHeartbeat(s.onHeartbeat)); err != nil {
		return fmt.Errorf("listen on the bus: %w", err)
	}
	owned.Go(func() { s.sweepLoop(ctx) })
	s.cfg.Log.Info("scheduler leads", "replica", r.id, "sessions", s.root().LiveCount())
	return nil
}

// awaitLead waits until this replica leads and has applied all it holds.
func (r *replica) awaitLead(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case <-r.raft.LeaderCh():
	case err := <-r.fsm.broken:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for leadership: %w", ctx.Err())
	}
	if err := r.raft.Barrier(startTimeout).Error(); err != nil {
		return fmt.Errorf("catch up with the log: %w", err)
	}
	select {
	case err := <-r.fsm.broken:
		return err
	default:
		return nil
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

// Ready waits until the Server serves; it fails when ctx ends or Run returned.
func (s *Server) Ready(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-s.stopped:
		return api.Errorf(api.CodeUnavailable, "the scheduler has stopped")
	case <-ctx.Done():
		return fmt.Errorf("wait for the scheduler: %w", ctx.Err())
	}
}

// serving says whether the Server may answer.
func (s *Server) serving() error {
	select {
	case <-s.stopped:
		return api.Errorf(api.CodeUnavailable, "the scheduler has stopped")
	default:
	}
	select {
	case <-s.ready:
		return nil
	default:
		return api.Errorf(api.CodeUnavailable, "the scheduler is starting: try again in a second")
	}
}

// root is the latest state; the empty one before the replica is open.
func (s *Server) root() *state.State {
	if r := s.replica.Load(); r != nil {
		return r.fsm.root.Load()
	}
	return s.view.get()
}

// now is the time that decisions are made by: never before what the state has seen.
func (s *Server) now() time.Time {
	now := s.cfg.Clock()
	if seen := s.root().Now(); seen.After(now) {
		return seen
	}
	return now
}

// RingKey is the gossip key of the cluster; nil before Ready.
func (s *Server) RingKey() []byte { return s.root().Secrets().RingKey }

// KnownNode says whether a node with this public key has joined.
func (s *Server) KnownNode(public []byte) bool {
	_, ok := s.root().Node(api.NodeIDFromKey(public))
	return ok
}
