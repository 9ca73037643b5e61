package state

import (
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// Keep is how long finished sessions, idempotency keys, expired tokens and
// demand stay known.
const Keep = 24 * time.Hour

const (
	keepVersions   = 32   // of an application
	maxTokens      = 4096 // of an account
	maxCellsMinute = 64   // of demand
	maxDemand      = int(Keep / time.Minute)
)

type demandMinute struct {
	minute int64
	cells  []api.DemandCell
}

func (m *PutApp) apply(t *tx) Result { return t.addVersion(m.Doc, true) }

func (m *DeleteApp) apply(t *tx) Result {
	a, ok := t.apps.Get(m.Name)
	if !ok || len(a.Versions) == 0 {
		return Result{Err: api.Errorf(api.CodeNotFound, "no application %q", m.Name)}
	}
	t.apps = t.apps.Set(m.Name, &App{Name: a.Name, Last: a.Last})
	t.dropPools(m.Name)
	return Result{}
}

// use counts a token down: one use buys one session or one node.
func (t *tx) use(id string) error {
	if id == "" {
		return nil
	}
	tok, ok := t.tokens.Get(id)
	switch {
	case !ok:
		return api.Errorf(api.CodeUnauthorized, "the token is unknown or was revoked")
	case t.now.After(tok.Expires):
		return api.Errorf(api.CodeUnauthorized, "the token expired at %s", tok.Expires.Format(time.RFC3339))
	case tok.Uses == 0:
		return api.Errorf(api.CodeForbidden, "the token's uses are spent: ask for a new one")
	case tok.Uses < 0:
		return nil
	}
	c := *tok
	c.Uses--
	t.tokens = t.tokens.Set(id, &c)
	return nil
}

func (m *PutToken) apply(t *tx) Result {
	if m.ID == "" || m.Account == "" {
		return Result{Err: api.Invalidf("account", "a token needs an account and an id")}
	}
	if _, taken := t.tokens.Get(m.ID); taken {
		return Result{Err: api.Errorf(api.CodeConflict, "the token exists already")}
	}
	acc := Account{Name: m.Account, CreatedAt: t.now}
	if old, ok := t.accounts.Get(m.Account); ok {
		acc = *old
	}
	if acc.tokens.Len() >= maxTokens {
		return Result{Err: api.Errorf(api.CodeConflict, "account %q holds %d tokens: revoke some, or let them expire", m.Account, maxTokens)}
	}
	acc.tokens = acc.tokens.Set(m.ID, struct{}{})
	t.accounts = t.accounts.Set(m.Account, &acc)
	t.tokens = t.tokens.Set(m.ID, &Token{
		Grant:     api.Grant{Account: m.Account, TokenID: m.ID, Rights: m.Rights, App: m.App, Expires: m.Expires, Uses: m.Uses},
		CreatedAt: t.now,
	})
	return Result{}
}

func (m *RevokeToken) apply(t *tx) Result {
	acc, ok := t.accounts.Get(m.Account)
	if !ok {
		return Result{Err: noAccount(m.Account)}
	}
	c := *acc
	if m.ID == "" {
		t.dropTokens(&c)
	} else {
		if _, ok := c.tokens.Get(m.ID); !ok {
			return Result{Err: api.Errorf(api.CodeNotFound, "account %q has no token %q", m.Account, m.ID)}
		}
		c.tokens = c.tokens.Delete(m.ID)
		t.tokens = t.tokens.Delete(m.ID)
	}
	t.accounts = t.accounts.Set(m.Account, &c)
	return Result{}
}

func noAccount(name string) error {
	return api.Errorf(api.CodeNotFound, "no account %q", name)
}

func (t *tx) dropTokens(a *Account) {
	for id := range a.tokens.All() {
		t.tokens = t.tokens.Delete(id)
	}
	a.tokens = Map[struct{}]{}
}

func (m *DeleteAccount) apply(t *tx) Result {
	acc, ok := t.accounts.Get(m.Name)
	if !ok {
		return Result{Err: noAccount(m.Name)}
	}
	c := *acc
	t.dropTokens(&c)
	t.accounts = t.accounts.Delete(m.Name)
	t.policies = t.policies.Delete(m.Name)
	return Result{}
}

func (m *Secrets) apply(t *tx) Result {
	if len(t.secrets.TicketSeed) == 0 {
		t.secrets = *m
	}
	return Result{}
}

func (*Tick) apply(t *tx) Result {
	before := t.now.Add(-Keep)
	for _, key := range t.finished.purge(t.edits, before) {
		t.keys = t.keys.DeleteIn(t.edits, key)
	}
	for id, tok := range t.tokens.All() {
		if tok.Expires.Before(before) {
			t.tokens = t.tokens.Delete(id)
			if a, ok := t.accounts.Get(tok.Account); ok {
				c := *a
				c.tokens = c.tokens.Delete(id)
				t.accounts = t.accounts.Set(c.Name, &c)
			}
		}
	}
	i := 0
	for i < len(t.demand) && t.demand[i].minute < before.Unix()/60 {
		i++
	}
	t.demand = t.demand[i:]
	t.dropInstances()
	return Result{}
}

func (m *Demand) apply(t *tx) Result {
	if len(m.Cells) == 0 {
		return Result{}
	}
	cells := m.Cells[:min(len(m.Cells), maxCellsMinute)]
	d := append(slices.Clone(t.demand), &demandMinute{minute: cells[0].Minute, cells: cells})
	t.demand = d[max(0, len(d)-maxDemand):]
	return Result{}
}
