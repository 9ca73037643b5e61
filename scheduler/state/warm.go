package state

import (
	"encoding/json"

	"github.com/perigee-cloud/perigee/api"
)

// WarmSince is the version of entries from which on instances are started for
// sessions to come.
const WarmSince = 5

// A started instance is a session that is nobody's: it has its place and its
// reservation as any other, no account, no client and no end of its own. A claim
// gives it an owner; from then on it is that client's session.

// Prepare starts an instance for a session to come.
type Prepare struct{ Create Create } // without account, token and key

func (*Prepare) kind() kind { return kindPrepare }

func (m *Prepare) fields(c *coder) { m.Create.fields(c) }

func (m *Prepare) apply(t *tx) Result {
	m.Create.Account, m.Create.Token, m.Create.Key = "", "", ""
	if m.Create.Node == "" || m.Create.Pool == api.PoolNone {
		return Result{Err: api.Invalidf("node", "a started instance needs a node and an encoder")}
	}
	if _, ok := t.Pool(m.Create.App, m.Create.Region); !ok {
		return Result{Err: noPool(m.Create.App, m.Create.Region)}
	}
	res := m.Create.apply(t)
	if res.Err != nil {
		return res
	}
	s, _ := t.change(m.Create.ID)
	s.Warm = true
	t.put(s)
	t.warmed(s, true)
	return t.sessionResult(s)
}

// Claim gives a started instance to the client of a create. The session keeps the
// instance's id, which its node runs it under; what the create's own id made is
// found again by ClaimKey.
type Claim struct {
	Create Create // its place is the instance's, its cost what the client's screen takes
	Warm   api.SessionID
}

func (*Claim) kind() kind { return kindClaim }

func (m *Claim) fields(c *coder) {
	m.Create.fields(c)
	str(c, &m.Warm)
}

// ClaimKey is the idempotency key of a claim whose client gave none: a create that
// is tried again under another leader takes no second instance. No client's key
// begins so.
func ClaimKey(id api.SessionID) string { return "\x00" + string(id) }

func (m *Claim) apply(t *tx) Result {
	if m.Create.Key == "" {
		m.Create.Key = ClaimKey(m.Create.ID)
	}
	if r, found := t.earlier(&m.Create); found {
		return r
	}
	if err := t.creatable(&m.Create); err != nil {
		return Result{Err: err}
	}
	w, ok := t.change(m.Warm)
	taken := func(code api.RefusalCode, detail string) Result {
		e := api.Errorf(api.CodeNoCapacity, "the started instance cannot be had")
		e.Refusals = []api.Refusal{{Node: m.Create.Node, Region: m.Create.Region, Code: code, Detail: detail}}
		return Result{Err: e}
	}
	n, there := t.nodes.Get(string(m.Create.Node))
	switch {
	case !ok || !w.Claimable() || w.App != m.Create.App || w.AppVersion != m.Create.AppVersion || w.Node != m.Create.Node || w.Pool != m.Create.Pool:
		return taken(api.RefusedSessions, "the started instance was taken or has ended")
	case !there || n.Drain || n.Lost:
		return taken(api.RefusedDrain, "the started instance's node takes no new sessions")
	}
	was := claim{w.ID, w.Node, w.Pool, w.Codec, w.Reserved, w.Parts}
	now := claim{w.ID, w.Node, w.Pool, m.Create.Codec, m.Create.Reserved, m.Create.Parts}
	t.unreserve(was)
	err := t.reserve(now)
	if err == nil {
		if err = t.use(m.Create.Token); err != nil {
			t.unreserve(now)
		}
	}
	if err != nil {
		t.again(was)
		return Result{Err: err}
	}
	s := m.Create.session(t.now)
	s.ID, s.Generation, s.Boot, s.Seq, s.Observed, s.FromPool = w.ID, w.Generation, w.Boot, w.Seq, w.Observed, true
	t.warmed(w, false)
	t.keep(s)
	return t.sessionResult(s)
}

// again reserves what was free'd a moment ago, which is what the node held.
func (t *tx) again(m claim) {
	if n, ok := t.edit(m.node); ok {
		n.take(m.pool, m.reserved)
		n.parts.add(m.parts)
		n.sessions = n.sessions.SetIn(t.edits, string(m.id), struct{}{})
	}
}

// nobodys refuses what would outlast the claim and bind the client that claims.
func nobodys() error {
	return api.Errorf(api.CodeConflict, "the instance is kept started by a warm pool and is nobody's yet: it can be joined and changed once a session has it")
}

// Claimable says whether a session is a started instance that a client may have.
func (s *Session) Claimable() bool {
	return s.Warm && s.Desired == api.DesiredRun && s.Observed == api.ObservedRunning
}

// warmed keeps which instances of an application are nobody's.
func (t *tx) warmed(s *Session, is bool) {
	ids, _ := t.warm.Get(s.App)
	if is {
		ids = ids.SetIn(t.edits, string(s.ID), struct{}{})
	} else {
		ids = ids.DeleteIn(t.edits, string(s.ID))
	}
	if ids.Len() == 0 {
		t.warm = t.warm.Delete(s.App)
		return
	}
	t.warm = t.warm.Set(s.App, ids)
}

// Warm walks the started instances of an application that are nobody's, of all
// where app is "".
func (s *State) Warm(app string, yield func(*Session) bool) {
	of := func(ids Map[struct{}]) bool {
		for id := range ids.Sorted() {
			if v, ok := s.Live(api.SessionID(id)); ok && !yield(v) {
				return false
			}
		}
		return true
	}
	if app != "" {
		ids, _ := s.warm.Get(app)
		of(ids)
		return
	}
	for _, ids := range s.warm.Sorted() {
		if !of(ids) {
			return
		}
	}
}

// HasWarm says whether an application has any, in constant time.
func (s *State) HasWarm(app string) bool {
	if s.warm.Len() == 0 {
		return false
	}
	_, ok := s.warm.Get(app)
	return ok
}

// WarmCount is how many sessions are nobody's.
func (s *State) WarmCount() (n int) {
	for _, ids := range s.warm.All() {
		n += ids.Len()
	}
	return n
}

// Without gives the node as its part of the ledger were without some of its sessions.
func (n *Node) Without(some []*Session) *Node {
	c := *n
	c.used = append([]usage(nil), n.used...)
	c.parts = n.parts.clone()
	for _, s := range some {
		c.free(s.Pool, s.Reserved)
		c.parts.sub(s.Takes())
	}
	return &c
}

// PutPool sets how many instances of an application are kept started in a region.
type PutPool struct{ Doc []byte } // api.WarmPool as JSON

func (*PutPool) kind() kind { return kindPutPool }

func (m *PutPool) fields(c *coder) { c.bytes(&m.Doc) }

func (m *PutPool) apply(t *tx) Result {
	p, err := parsePool(m.Doc)
	if err != nil {
		return Result{Err: err}
	}
	if a, ok := t.apps.Get(p.App); !ok || len(a.Versions) == 0 {
		return Result{Err: api.Errorf(api.CodeNotFound, "no application %q", p.App)}
	}
	if _, ok := t.pools.Get(poolKey(p.App, p.Region)); !ok && t.pools.Len() >= maxPools {
		return Result{Err: api.Errorf(api.CodeConflict, "there are %d warm pools, as many as there can be: remove one", maxPools)}
	}
	t.pools = t.pools.Set(poolKey(p.App, p.Region), p)
	return Result{}
}

// maxPools bounds the pools: each is looked at twice a second.
const maxPools = 10_000

// DropPool removes one. What it started ends with the leader's next look.
type DropPool struct{ App, Region string }

func (*DropPool) kind() kind { return kindDropPool }

func (m *DropPool) fields(c *coder) { texts(c, &m.App, &m.Region) }

func (m *DropPool) apply(t *tx) Result {
	if _, ok := t.Pool(m.App, m.Region); !ok {
		return Result{Err: noPool(m.App, m.Region)}
	}
	t.pools = t.pools.Delete(poolKey(m.App, m.Region))
	return Result{}
}

func noPool(app, region string) error {
	return api.Errorf(api.CodeNotFound, "application %q has no warm pool in region %q", app, region)
}

type poolDoc struct {
	api.WarmPool
	doc []byte
}

func parsePool(doc []byte) (*poolDoc, error) {
	p := &poolDoc{doc: doc}
	if err := json.Unmarshal(doc, &p.WarmPool); err != nil {
		return nil, api.Invalidf("pool", "is no pool: %v", err)
	}
	if p.App == "" || p.Region == "" {
		return nil, api.Invalidf("pool", "needs an application and a region")
	}
	return p, nil
}

func poolKey(app, region string) string { return app + "\x00" + region }

// dropPools removes the pools of an application that is deleted.
func (t *tx) dropPools(app string) {
	for key, p := range t.pools.All() {
		if p.App == app {
			t.pools = t.pools.Delete(key)
		}
	}
}

// Pool finds one.
func (s *State) Pool(app, region string) (api.WarmPool, bool) {
	p, ok := s.pools.Get(poolKey(app, region))
	if !ok {
		return api.WarmPool{}, false
	}
	return p.WarmPool, true
}

// Pools gives all, by application and region.
func (s *State) Pools() []api.WarmPool {
	var out []api.WarmPool
	for _, p := range s.pools.Sorted() {
		out = append(out, p.WarmPool)
	}
	return out
}

// PoolCount is how many there are.
func (s *State) PoolCount() int { return s.pools.Len() }

// warmFields writes or reads what version 5 brought to sessions.
func warmFields(c *coder, s *Session) {
	if c.version < WarmSince {
		return
	}
	c.bool(&s.Warm)
	c.bool(&s.FromPool)
}
