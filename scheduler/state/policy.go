package state

import (
	"encoding/json"

	"github.com/perigee-cloud/perigee/api"
)

// PutPolicy says where an account's sessions may run; an empty document lets
// its applications decide again.
type PutPolicy struct {
	Account string
	Doc     []byte // api.AccountPolicy as JSON
}

func (*PutPolicy) kind() kind { return kindPutPolicy }

func (m *PutPolicy) fields(c *coder) {
	str(c, &m.Account)
	c.bytes(&m.Doc)
}

type policyDoc struct {
	api.AccountPolicy
	doc []byte
}

func (m *PutPolicy) apply(t *tx) Result {
	if _, ok := t.accounts.Get(m.Account); !ok {
		return Result{Err: noAccount(m.Account)}
	}
	if len(m.Doc) == 0 {
		t.policies = t.policies.Delete(m.Account)
		return Result{}
	}
	p, err := parsePolicy(m.Doc)
	if err != nil {
		return Result{Err: err}
	}
	t.policies = t.policies.Set(m.Account, p)
	return Result{}
}

func parsePolicy(doc []byte) (*policyDoc, error) {
	p := &policyDoc{doc: doc}
	if err := json.Unmarshal(doc, &p.AccountPolicy); err != nil {
		return nil, api.Invalidf("policy", "is no policy: %v", err)
	}
	return p, nil
}

// HasAccount says whether there is an account of this name.
func (s *State) HasAccount(name string) bool {
	_, ok := s.accounts.Get(name)
	return ok
}

// Policy gives an account's own policy.
func (s *State) Policy(account string) (api.AccountPolicy, bool) {
	p, ok := s.policies.Get(account)
	if !ok {
		return api.AccountPolicy{}, false
	}
	return p.AccountPolicy, true
}
