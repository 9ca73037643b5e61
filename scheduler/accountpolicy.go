package scheduler

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// AccountPolicy gives an account's own policy; the zero one when it has none.
func (s *Server) AccountPolicy(ctx context.Context, name string) (p api.AccountPolicy, err error) {
	if err := s.serving(); err != nil {
		return p, err
	}
	if !s.sure(ctx, func() bool { return s.root().HasAccount(name) }) {
		return p, api.Errorf(api.CodeNotFound, "no account %q", name)
	}
	p, _ = s.root().Policy(name)
	return p, nil
}

// SetAccountPolicy says where an account's new sessions may run; nil takes its
// policy away. Sessions that run stay where they are.
func (s *Server) SetAccountPolicy(ctx context.Context, name string, p *api.AccountPolicy) error {
	_, err := onLeader(ctx, s, "account.policy", policyCall{Name: name, Policy: p}, s.setPolicy)
	return err
}

type policyCall struct {
	Name   string
	Policy *api.AccountPolicy
}

func (s *Server) setPolicy(ctx context.Context, c policyCall) (nothing, error) {
	put := &state.PutPolicy{Account: c.Name}
	if c.Policy != nil {
		if err := c.Policy.Check(); err != nil {
			return nothing{}, err
		}
		var err error
		if put.Doc, err = json.Marshal(c.Policy); err != nil {
			return nothing{}, fmt.Errorf("write policy: %w", err)
		}
	}
	if _, err := s.proposeNew(ctx, put); err != nil {
		return nothing{}, err
	}
	s.cfg.Log.Info("account policy set", "account", c.Name, "removed", c.Policy == nil)
	return nothing{}, nil
}
