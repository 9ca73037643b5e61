package scheduler

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// Calls that every replica answers from its own disk, not the leader alone.
const (
	explainHere  = "explain.here"
	refusalsHere = "refusals.here"
	askTimeout   = 2 * time.Second // for one replica's answer
)

// anyReplica says of a call that it is no leader's.
func anyReplica(name string) bool { return name == explainHere || name == refusalsHere }

// Placement gives why a session runs where it does, until a day after its end.
// CodeNotFound also says that the explanation was not kept. It is on the disk of
// the replica that led when the session was placed: every other one is asked.
func (s *Server) Placement(ctx context.Context, id api.SessionID) (api.Explanation, error) {
	if err := s.serving(); err != nil {
		return api.Explanation{}, err
	}
	var v api.Session
	if !s.sure(ctx, func() (ok bool) { v, ok = s.root().Session(id); return ok }) {
		return api.Explanation{}, noSession(id)
	}
	if v.Node == "" {
		return api.Explanation{}, api.Errorf(api.CodeNotFound, "session %q has no explanation: its application is external, or it waits for room; nothing was placed", id)
	}
	x, ok, err := s.keptHere(ctx, id)
	if ok || err != nil {
		return x, err
	}
	answers := askAll[api.Explanation](ctx, s, explainHere, id)
	for _, x := range answers {
		if x.Session == id {
			return x, nil
		}
	}
	missing := ""
	if silent := len(s.replica.Load().configuration()) - 1 - len(answers); silent > 0 {
		missing = fmt.Sprintf("; %d replicas did not answer, one of them may have it", silent)
	}
	return x, api.Errorf(api.CodeNotFound, "the explanation of session %q is not kept: more than %d sessions were placed in its second, over %d MiB of later ones pushed it out, or the disk that had it is gone%s",
		id, explainPerSecond, explainSegments*explainSegment>>20, missing)
}

// keptHere finds an explanation on this replica's disk.
func (s *Server) keptHere(ctx context.Context, id api.SessionID) (api.Explanation, bool, error) {
	if err := s.view.kept.settle(ctx); err != nil {
		return api.Explanation{}, false, err
	}
	x, ok, err := s.view.kept.get(s.explainDir(), id)
	if err != nil {
		err = &api.Error{Code: api.CodeInternal, Message: "the explanation cannot be read", Err: err}
	}
	return x, ok, err
}

// explained finds an explanation for a replica of an earlier version, which asks
// the leader alone.
func (s *Server) explained(ctx context.Context, id api.SessionID) (api.Explanation, error) {
	x, ok, err := s.keptHere(ctx, id)
	if err == nil && !ok {
		err = api.Errorf(api.CodeNotFound, "the explanation of session %q is not kept by the leader", id)
	}
	return x, err
}

// orNone is the same for one of this version: without an explanation the zero one.
func (s *Server) orNone(ctx context.Context, id api.SessionID) (api.Explanation, error) {
	x, _, err := s.keptHere(ctx, id)
	return x, err
}

// askAll asks every other member at once. Who does not answer in time, or is of
// a version that does not know the call, is left out.
func askAll[A any](ctx context.Context, s *Server, name string, q any) []A {
	r := s.replica.Load()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var mu sync.Mutex
	var out []A
	var wg sync.WaitGroup
	for _, m := range r.configuration() {
		if m.ID == r.id {
			continue
		}
		wg.Go(func() {
			var a A
			if _, err := s.call(ctx, target{address: string(m.Address)}, name, q, &a); err != nil {
				s.cfg.Log.Debug("replica did not answer", "replica", m.ID, "call", name, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, a)
		})
	}
	wg.Wait()
	return out
}
