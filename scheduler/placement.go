package scheduler

import (
	"context"
	"fmt"

	"github.com/perigee-cloud/perigee/api"
)

// Placement gives why a session runs where it does, until a day after its end.
// CodeNotFound also says that the explanation was not kept.
func (s *Server) Placement(ctx context.Context, id api.SessionID) (api.Explanation, error) {
	if err := s.serving(); err != nil {
		return api.Explanation{}, err
	}
	x, err := s.explained(ctx, id)
	if err == nil || s.leads() {
		return x, err
	}
	return onLeader(ctx, s, "explain", id, s.explained) // which placed it, as a rule
}

// explained finds an explanation on this replica.
func (s *Server) explained(ctx context.Context, id api.SessionID) (api.Explanation, error) {
	v, known := s.root().Session(id)
	if !known {
		return api.Explanation{}, noSession(id)
	}
	if err := s.view.kept.settle(ctx); err != nil {
		return api.Explanation{}, err
	}
	x, ok, err := s.view.kept.get(s.explainDir(), id)
	if err != nil {
		return x, &api.Error{Code: api.CodeInternal, Message: "the explanation cannot be read", Err: err}
	}
	if !ok {
		why := "it was placed under another leader, or while more than " + fmt.Sprint(explainPerSecond) + " a second were, or its record is lost"
		if v.Node == "" {
			why = "its application is external, nothing was placed"
		}
		return x, api.Errorf(api.CodeNotFound, "the explanation of session %q is not kept here: %s", id, why)
	}
	return x, nil
}
