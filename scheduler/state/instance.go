package state

import (
	"slices"

	"github.com/perigee-cloud/perigee/api"
)

// Launch makes an instance first: a session that waits for clients for ever,
// or with Streaming off one without a stream, which reserves no encoder and can
// never be joined. Since entries of version 2.
type Launch struct {
	Create    Create
	Name      string
	Tags      []string
	Streaming bool
}

func (*Launch) kind() kind { return kindLaunch }

func (m *Launch) fields(c *coder) {
	m.Create.fields(c)
	str(c, &m.Name)
	list(c, &m.Tags, str[string])
	c.bool(&m.Streaming)
}

func (m *Launch) apply(t *tx) Result {
	if r, found := t.earlier(&m.Create); found {
		return r
	}
	if m.Streaming == (m.Create.Pool == api.PoolNone) {
		return Result{Err: api.Invalidf("pool", "%q does not go with streaming %v", m.Create.Pool, m.Streaming)}
	}
	if _, taken := t.InstanceNamed(m.Create.Account, m.Name); taken {
		return Result{Err: api.Errorf(api.CodeConflict, "an instance named %q runs already: choose another name, or end it first", m.Name)}
	}
	res := m.Create.apply(t)
	if res.Err != nil {
		return res
	}
	s, _ := t.change(m.Create.ID)
	s.ViewerAt = t.now // it waits for its first client like for the next one
	t.put(s)
	t.instances = t.instances.Set(string(s.ID), &instance{name: m.Name, tags: m.Tags})
	return t.sessionResult(s)
}

// instance is what only an instance that was launched first has. It is kept as
// long as its session.
type instance struct {
	name      string
	tags      []string
	protected bool // from being deleted; since version 5
}

func instanceFields(c *coder, id *api.SessionID, i *instance) {
	str(c, id)
	str(c, &i.name)
	list(c, &i.tags, str[string])
}

// InstanceNamed finds a live instance by its name; an empty account is any.
func (s *State) InstanceNamed(account, name string) (api.SessionID, bool) {
	for id, i := range s.instances.All() {
		if v, live := s.Live(api.SessionID(id)); live && i.name == name && name != "" && (account == "" || v.Account == account) {
			return v.ID, true
		}
	}
	return "", false
}

// Instance shows a session as the instance that runs it.
func (s *State) Instance(v api.Session) api.Instance {
	out := api.Instance{Session: v, Name: api.InstanceName(v.ID), Streaming: v.Pool != api.PoolNone}
	if i, ok := s.instances.Get(string(v.ID)); ok {
		out.Tags, out.Protected = slices.Clone(i.tags), i.protected
		if i.name != "" {
			out.Name = i.name
		}
	}
	return out
}

// dropInstances forgets the instances whose sessions are not known any more.
func (t *tx) dropInstances() {
	if t.instances.Len() == 0 {
		return
	}
	for id := range t.instances.All() {
		if _, known := t.Session(api.SessionID(id)); !known {
			t.instances = t.instances.Delete(id)
		}
	}
}
