package scheduler

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

const (
	memberTimeout = 10 * time.Second // for Raft to take a change of members
	tendEvery     = 250 * time.Millisecond
	maxMembers    = 9
)

// register keeps this replica's record equal to what it says of itself, and
// notices when the cluster has let it go.
func (s *Server) register(ctx context.Context, r *replica) {
	mine := s.describe(r)
	kept, known := s.root().Replica(mine.ID)
	switch {
	case known && reflect.DeepEqual(kept, mine):
		s.registered = true
		return
	case !known && s.registered:
		if err := os.WriteFile(filepath.Join(r.dir, removedFile), nil, 0o600); err != nil {
			s.cfg.Log.Warn("removal could not be noted", "replica", r.id, "error", err)
		}
		s.fail(errRemoved)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	_, err := onLeader(ctx, s, "replica.register", mine, s.registerHere)
	switch {
	case err == nil:
		s.registered = true
	case ctx.Err() == nil:
		s.cfg.Log.Warn("replica could not describe itself", "replica", r.id, "error", err)
	}
}

// registerHere records how a member describes itself, and where Raft finds it.
func (s *Server) registerHere(ctx context.Context, m api.Replica) (nothing, error) {
	r := s.replica.Load()
	for _, have := range r.configuration() {
		if string(have.ID) != m.ID {
			continue
		}
		if string(have.Address) != m.Raft {
			if err := s.address(r, have, m.Raft); err != nil {
				return nothing{}, err
			}
		}
		doc, err := json.Marshal(m)
		if err != nil {
			return nothing{}, fmt.Errorf("write replica: %w", err)
		}
		_, err = s.propose(ctx, &state.PutReplica{Doc: doc})
		return nothing{}, err
	}
	return nothing{}, api.Errorf(api.CodeConflict, "replica %q is no member", m.ID)
}

// address tells Raft that a member is reached elsewhere.
func (s *Server) address(r *replica, have raft.Server, to string) error {
	s.cfg.Log.Info("replica is reached elsewhere", "replica", have.ID, "was", have.Address, "is", to)
	change := r.raft.AddVoter
	if have.Suffrage != raft.Voter {
		change = r.raft.AddNonvoter
	}
	if err := change(have.ID, raft.ServerAddress(to), 0, memberTimeout).Error(); err != nil {
		return &api.Error{Code: api.CodeUnavailable, Message: "the replica's address could not be changed", Err: ofRaft(err)}
	}
	return nil
}

// AddReplica lets a new replica in. It listens at first; its vote counts once
// it has kept up for the settling time.
func (s *Server) AddReplica(ctx context.Context, j api.ReplicaJoin) error {
	_, err := onLeader(ctx, s, "replica.add", j, s.addReplica)
	return err
}

func (s *Server) addReplica(ctx context.Context, j api.ReplicaJoin) (nothing, error) {
	r, m := s.replica.Load(), j.Replica
	members := r.configuration()
	switch {
	case !api.ValidID(m.ID):
		return nothing{}, api.Invalidf("replica.id", "%q is not an id", m.ID)
	case r.port == nil:
		return nothing{}, api.Errorf(api.CodeConflict, "this scheduler is the only one: start it with --raft-listen first")
	case m.Entry < s.root().EntryVersion():
		return nothing{}, api.Errorf(api.CodeConflict, "the replica reads entries up to version %d, the cluster writes version %d: install the version that the other schedulers run", m.Entry, s.root().EntryVersion())
	case slices.ContainsFunc(members, func(have raft.Server) bool { return string(have.ID) == m.ID }):
		return nothing{}, nil
	case len(members) >= maxMembers:
		return nothing{}, api.Errorf(api.CodeConflict, "the cluster has %d replicas: remove one first (perigee scheduler leave)", len(members))
	}
	h, err := s.greetPeer(ctx, m.Raft)
	switch {
	case err != nil:
		return nothing{}, &api.Error{Code: api.CodeUnavailable, Field: "replica.raft", Message: "the leader does not reach the replica", Err: err}
	case h.Replica.ID != m.ID:
		return nothing{}, api.Invalidf("replica.raft", "%s is where replica %q answers, not %q", m.Raft, h.Replica.ID, m.ID)
	case h.Member:
		return nothing{}, api.Errorf(api.CodeConflict, "replica %q is a member of a cluster: start it on an empty data directory", m.ID)
	}
	if err := r.raft.AddNonvoter(raft.ServerID(m.ID), raft.ServerAddress(m.Raft), 0, memberTimeout).Error(); err != nil {
		return nothing{}, &api.Error{Code: api.CodeUnavailable, Message: "the replica could not be let in", Err: ofRaft(err)}
	}
	s.cfg.Log.Info("replica let in", "replica", m.ID, "address", m.Raft)
	return nothing{}, nil
}

// RemoveReplica takes a replica out for good, dead or alive. A leader hands its
// leadership on first.
func (s *Server) RemoveReplica(ctx context.Context, id string) error {
	_, err := onLeader(ctx, s, "replica.remove", id, s.removeReplica)
	return err
}

func (s *Server) removeReplica(ctx context.Context, id string) (nothing, error) {
	r := s.replica.Load()
	members := r.configuration()
	at := slices.IndexFunc(members, func(m raft.Server) bool { return string(m.ID) == id })
	_, described := s.root().Replica(id)
	switch {
	case at < 0 && !described:
		return nothing{}, api.Errorf(api.CodeNotFound, "no replica %q", id)
	case len(members) == 1 && at == 0:
		return nothing{}, api.Errorf(api.CodeConflict, "the only replica cannot leave: let another one join first")
	case id == string(r.id):
		if err := r.raft.LeadershipTransfer().Error(); err != nil {
			return nothing{}, &api.Error{Code: api.CodeUnavailable, Message: "no other replica could take the leadership", Err: ofRaft(err)}
		}
		return nothing{}, errNotLeader // the next leader removes it
	}
	if described {
		if _, err := s.propose(ctx, &state.RemoveReplica{ID: id}); err != nil && api.CodeOf(err) != api.CodeNotFound {
			return nothing{}, err
		}
	}
	if at < 0 {
		return nothing{}, nil
	}
	s.letKnow(ctx, string(members[at].Address), r.fsm.index.Load())
	if err := r.raft.RemoveServer(members[at].ID, 0, memberTimeout).Error(); err != nil {
		return nothing{}, &api.Error{Code: api.CodeUnavailable, Message: "the replica could not be removed", Err: ofRaft(err)}
	}
	s.cfg.Log.Info("replica removed", "replica", id)
	return nothing{}, nil
}

// letKnow gives a replica that is alive the time to read its own removal: once
// it is out, nobody sends it anything.
func (s *Server) letKnow(ctx context.Context, address string, index uint64) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	for {
		h, err := s.greetPeer(ctx, address)
		if err != nil || h.Index >= index || !pause(ctx, pollEvery) {
			return
		}
	}
}

// TransferLeadership hands the leadership to a replica; "" leaves the choice to Raft.
func (s *Server) TransferLeadership(ctx context.Context, to string) error {
	_, err := onLeader(ctx, s, "replica.lead", to, s.transfer)
	return err
}

func (s *Server) transfer(_ context.Context, to string) (nothing, error) {
	r := s.replica.Load()
	if to == string(r.id) {
		return nothing{}, nil
	}
	members := r.configuration()
	if len(members) < 2 {
		return nothing{}, api.Errorf(api.CodeConflict, "there is no other replica to lead")
	}
	f := func() raft.Future { return r.raft.LeadershipTransfer() }
	if to != "" {
		at := slices.IndexFunc(members, func(m raft.Server) bool { return string(m.ID) == to })
		switch {
		case at < 0:
			return nothing{}, api.Errorf(api.CodeNotFound, "no replica %q", to)
		case members[at].Suffrage != raft.Voter:
			return nothing{}, api.Errorf(api.CodeConflict, "replica %q is new: its vote does not count yet", to)
		}
		f = func() raft.Future {
			return r.raft.LeadershipTransferToServer(members[at].ID, members[at].Address)
		}
	}
	if err := f().Error(); err != nil {
		return nothing{}, &api.Error{Code: api.CodeUnavailable, Message: "the leadership could not be handed on", Err: err}
	}
	s.cfg.Log.Info("leadership handed on", "replica", r.id, "to", to)
	return nothing{}, nil
}

// Yield hands the leadership on when this replica has it and another one can
// take it: one that is about to stop spares the cluster an election.
func (s *Server) Yield() {
	r := s.replica.Load()
	if r == nil || !s.leads() || len(r.configuration()) < 2 {
		return
	}
	if err := r.raft.LeadershipTransfer().Error(); err != nil {
		s.cfg.Log.Warn("leadership could not be handed on", "replica", r.id, "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), yieldTimeout)
	defer cancel()
	for s.leads() && pause(ctx, callPause) { // until it has noticed
	}
	s.handOn(ctx)
}

// Replicas gives the members with what is known of each now, by id.
func (s *Server) Replicas(ctx context.Context) ([]api.ReplicaView, error) {
	if err := s.serving(); err != nil {
		return nil, err
	}
	r := s.replica.Load()
	_, leader := r.raft.LeaderWithID()
	members := r.configuration()
	out := make([]api.ReplicaView, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		v := &out[i]
		v.Leader, v.Voter, v.Self = m.ID == leader, m.Suffrage == raft.Voter, m.ID == r.id
		v.Replica = api.Replica{ID: string(m.ID), Raft: string(m.Address)}
		if kept, ok := s.root().Replica(string(m.ID)); ok {
			v.Replica = kept
		}
		if v.Self {
			v.Replica, v.Reached, v.Index = s.describe(r), true, r.fsm.index.Load()
			continue
		}
		wg.Go(func() {
			if h, err := s.greetPeer(ctx, string(m.Address)); err == nil && h.Replica.ID == string(m.ID) {
				v.Replica, v.Reached, v.Index = h.Replica, true, h.Index
			}
		})
	}
	wg.Wait()
	slices.SortFunc(out, func(a, b api.ReplicaView) int { return cmp.Compare(a.Replica.ID, b.Replica.ID) })
	return out, nil
}

// tendMembers gives settled replicas their vote and raises the version of the
// entries once all read a later one.
func (s *Server) tendMembers(ctx context.Context, r *replica) {
	if r.port == nil { // it is alone, and nobody else has to read its entries
		for s.root().EntryVersion() < s.cfg.EntryVersion {
			s.raiseTo(ctx, s.cfg.EntryVersion)
			if !pause(ctx, tendEvery) {
				return
			}
		}
		return
	}
	since := map[raft.ServerID]time.Time{} // keeping up since
	reached := r.fsm.index.Load()          // what whoever keeps up has by now
	for pause(ctx, tendEvery) {
		next := r.fsm.index.Load()
		for _, m := range r.configuration() {
			if m.Suffrage != raft.Voter {
				s.settle(ctx, r, m, reached, since)
			}
		}
		reached = next
		s.raiseEntries(ctx, r)
	}
}

// settle looks whether a new replica keeps up, and gives it its vote when it
// has done so for the settling time.
func (s *Server) settle(ctx context.Context, r *replica, m raft.Server, reached uint64, since map[raft.ServerID]time.Time) {
	h, err := s.greetPeer(ctx, string(m.Address))
	if err != nil || h.Replica.ID != string(m.ID) || h.Index < reached {
		delete(since, m.ID)
		return
	}
	if _, ok := since[m.ID]; !ok {
		since[m.ID] = time.Now()
	}
	if time.Since(since[m.ID]) < s.cfg.Settle {
		return
	}
	delete(since, m.ID)
	if err := r.raft.AddVoter(m.ID, m.Address, 0, memberTimeout).Error(); err != nil {
		s.cfg.Log.Warn("replica could not be given its vote", "replica", m.ID, "error", err)
		return
	}
	s.cfg.Log.Info("replica has settled: its vote counts", "replica", m.ID)
}

// raiseEntries proposes the highest version that every member reads.
func (s *Server) raiseEntries(ctx context.Context, r *replica) {
	lowest := s.cfg.EntryVersion
	for _, m := range r.configuration() {
		d, ok := s.root().Replica(string(m.ID))
		if !ok {
			return // not everyone has said
		}
		lowest = min(lowest, d.Entry)
	}
	if lowest > s.root().EntryVersion() {
		s.raiseTo(ctx, lowest)
	}
}

func (s *Server) raiseTo(ctx context.Context, lowest int) {
	if _, err := s.propose(ctx, &state.Raise{Version: lowest}); err != nil {
		if retryable(err) == never && !errors.Is(err, context.Canceled) {
			s.cfg.Log.Warn("entry version could not be raised", "version", lowest, "error", err)
		}
		return
	}
	s.cfg.Log.Info("entries are written in a later version", "version", lowest)
}
