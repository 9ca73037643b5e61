package scheduler

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/perigee-cloud/perigee/api"
)

const (
	pollEvery     = 20 * time.Millisecond
	enterEvery    = 200 * time.Millisecond // between two tries to found or join
	registerEvery = time.Second
)

// enter makes a new replica a member: it founds its own cluster, founds one
// with its peers, or joins one. One that was a member waits for its cluster.
func (s *Server) enter(ctx context.Context, r *replica) {
	switch {
	case r.member:
		s.cfg.Log.Debug("replica was a member before", "replica", r.id)
	case s.cfg.Join != nil:
		s.joinCluster(ctx, r)
	case len(s.cfg.Peers) > 0:
		s.meet(ctx, r)
	default:
		s.found(r, []raft.Server{{ID: r.id, Address: raft.ServerAddress(r.address)}})
	}
}

// found begins a cluster. All its founders do so with the same members; that
// it was done already is no fault.
func (s *Server) found(r *replica, members []raft.Server) {
	err := r.raft.BootstrapCluster(raft.Configuration{Servers: members}).Error()
	if err != nil && err != raft.ErrCantBootstrap { //nolint:errorlint // raft's own sentinel, not wrapped
		s.cfg.Log.Error("the cluster could not be founded", "replica", r.id, "error", err)
		s.fail(err)
		return
	}
	s.cfg.Log.Info("cluster founded", "replica", r.id, "members", len(members))
}

// joinCluster asks until it is let in.
func (s *Server) joinCluster(ctx context.Context, r *replica) {
	for {
		err := s.cfg.Join(ctx, s.describe(r))
		if err == nil {
			s.cfg.Log.Info("replica was let in; its vote counts once it has kept up", "replica", r.id, "settle", s.cfg.Settle)
			return
		}
		switch api.CodeOf(err) {
		case api.CodeInvalid, api.CodeUnauthorized, api.CodeForbidden, api.CodeConflict:
			s.fail(err)
			return
		}
		s.cfg.Log.Warn("replica was not let in yet", "replica", r.id, "error", err)
		if !pause(ctx, 5*enterEvery) {
			return
		}
	}
}

// meet looks for the peers until as many as expected are there and all are
// new, or one of them has a cluster to join.
func (s *Server) meet(ctx context.Context, r *replica) {
	said := time.Time{}
	for len(r.configuration()) == 0 {
		founders := map[raft.ServerID]raft.Server{r.id: {ID: r.id, Address: raft.ServerAddress(r.address)}}
		for _, address := range s.cfg.Peers {
			h, err := s.greetPeer(ctx, address)
			switch {
			case err != nil:
				s.cfg.Log.Debug("peer is not there yet", "address", address, "error", err)
			case h.Replica.ID == string(r.id):
				// Its own address among the peers: every replica may have the same list.
			case h.Member && h.Leader != "":
				s.askIn(ctx, r, h.Leader)
			case h.Member:
				// It waits for a majority of its own.
			case h.Expect != s.cfg.Expect:
				s.cfg.Log.Warn("peer expects another number of replicas", "peer", h.Replica.ID, "expects", h.Expect, "here", s.cfg.Expect)
			default:
				founders[raft.ServerID(h.Replica.ID)] = raft.Server{ID: raft.ServerID(h.Replica.ID), Address: raft.ServerAddress(h.Replica.Raft)}
			}
		}
		if s.cfg.Expect > 0 && len(founders) == s.cfg.Expect {
			list := make([]raft.Server, 0, len(founders))
			for _, f := range founders {
				list = append(list, f)
			}
			slices.SortFunc(list, func(a, b raft.Server) int { return strings.Compare(string(a.ID), string(b.ID)) })
			s.found(r, list)
			return
		}
		if len(founders) > s.cfg.Expect && s.cfg.Expect > 0 {
			s.fail(api.Invalidf("--bootstrap-expect", "%d new replicas found each other, %d are expected", len(founders), s.cfg.Expect))
			return
		}
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			s.cfg.Log.Info("waiting for peers", "replica", r.id, "found", len(founders), "expected", s.cfg.Expect)
		}
		if !pause(ctx, enterEvery) {
			return
		}
	}
}

// askIn asks a cluster's leader to be let in.
func (s *Server) askIn(ctx context.Context, r *replica, leader string) {
	var done nothing
	if _, err := s.call(ctx, target{address: leader}, "replica.add", api.ReplicaJoin{Replica: s.describe(r)}, &done); err != nil {
		s.cfg.Log.Warn("replica was not let in yet", "replica", r.id, "error", err)
	}
}
