package scheduler

import (
	"bytes"
	"context"
	"crypto/ed25519"
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
	cfg        Config
	replica    atomic.Pointer[replica]
	term       atomic.Pointer[term] // nil while this replica does not lead
	key        atomic.Pointer[ticketKey]
	opened     sync.Once
	ready      chan struct{} // closed when the state is complete and the keys are there
	stopping   chan struct{} // closed when Run begins to end
	stopped    chan struct{} // closed when Run returns
	fault      chan error    // what ends Run
	calls      map[string]handler
	peers      peers
	forward    forwarding
	verify     gather   // leader's confirmations for reads
	registered bool     // this replica's record was seen; of followUp alone
	noted      []string // the members' addresses that are kept; of followUp alone

	view     view
	leases   leases
	dispatch dispatcher
	demand   demand
	handing  chan struct{} // full while this replica hands on what it knew as the leader
	ends     ends
	probing  probing
	waiting  waiting
	pools    pools
	tickets  ticketDesk
}

// New makes a Server; Run starts it.
func New(c Config) (*Server, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: c, ready: make(chan struct{}), stopping: make(chan struct{}), stopped: make(chan struct{}), fault: make(chan error, 1),
	}
	s.handing = make(chan struct{}, 1)
	s.calls = s.handlers()
	s.peers.init(s)
	s.forward.server = s
	s.view.root = state.New()
	s.view.pending = map[api.NodeID]map[api.Pool]pendingPool{}
	s.leases.nodes = map[api.NodeID]*lease{}
	s.dispatch.init(s)
	s.waiting.init()
	s.pools.init()
	s.view.away.most, s.view.away.perS = refusedSegments, refusedPerSecond
	s.demand.cells = map[api.DemandCell]uint64{}
	s.ends.waiting = map[api.SessionID]chan struct{}{}
	return s, nil
}

// Run opens the replica, founds, joins or finds its cluster, and serves until
// ctx ends. A Server runs once.
func (s *Server) Run(ctx context.Context) error {
	defer close(s.stopped)
	r, err := s.openOrHeal(ctx)
	if err != nil {
		return fmt.Errorf("open replica: %w", err)
	}
	s.replica.Store(r)
	ctx, cancel := context.WithCancel(ctx)
	s.forward.ctx = ctx
	var owned sync.WaitGroup
	s.startCalls(ctx, r, &owned)
	owned.Go(func() { s.enter(ctx, r) })
	owned.Go(func() { s.watchLeader(ctx, r) })
	owned.Go(func() { s.followUp(ctx, r) })
	owned.Go(func() { s.tellWaiting(ctx) })
	// A disk that hangs must not keep the loops waiting for a commit for ever.
	context.AfterFunc(ctx, func() {
		select {
		case <-s.stopped:
		case <-time.After(stopTimeout):
			r.raft.Shutdown()
		}
	})
	err = s.roles(ctx, r)
	if err != nil {
		s.cfg.Log.Error("the replica cannot go on", "replica", r.id, "error", err)
	}
	// The loops end before Raft does: they use it.
	close(s.stopping)
	cancel()
	owned.Wait()
	s.forward.close()
	s.verify.close()
	_ = s.view.kept.settle(context.Background()) // a few writes: it always ends
	return errors.Join(err, r.shut())
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

// ticketKey signs the tickets; it is made of its seed once.
type ticketKey struct {
	seed    []byte
	private ed25519.PrivateKey
}

// signer gives the key that tickets are signed with.
func (s *Server) signer() ed25519.PrivateKey {
	seed := s.root().Secrets().TicketSeed
	k := s.key.Load()
	if k == nil || !bytes.Equal(k.seed, seed) {
		k = &ticketKey{seed: seed, private: ed25519.NewKeyFromSeed(seed)}
		s.key.Store(k)
	}
	return k.private
}

// RingKey is the gossip key of the cluster; nil before Ready.
func (s *Server) RingKey() []byte { return s.root().Secrets().RingKey }

// KnownNode says whether a node with this public key has joined.
func (s *Server) KnownNode(public []byte) bool {
	_, ok := s.root().Node(api.NodeIDFromKey(public))
	return ok
}
