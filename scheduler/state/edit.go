package state

import (
	"slices"

	"github.com/perigee-cloud/perigee/api"
)

// EditSince is the version of entries that brought changes of instances.
const EditSince = 5

// EditInstance changes what an instance's owner may change while it lives; what
// is not said stays. Since entries of version 5.
type EditInstance struct {
	ID          api.SessionID
	HasTags     bool
	Tags        []string
	HasJoinable bool
	Joinable    bool
	HasProtect  bool
	Protected   bool
	HasIdle     bool
	IdleMinutes int
}

func (*EditInstance) kind() kind { return kindEditInstance }

func (m *EditInstance) fields(c *coder) {
	str(c, &m.ID)
	c.bool(&m.HasTags)
	list(c, &m.Tags, str[string])
	c.bool(&m.HasJoinable)
	c.bool(&m.Joinable)
	c.bool(&m.HasProtect)
	c.bool(&m.Protected)
	c.bool(&m.HasIdle)
	num(c, &m.IdleMinutes)
}

func (m *EditInstance) apply(t *tx) Result {
	s, ok := t.change(m.ID)
	if !ok {
		if _, ended := t.finished.get(m.ID); ended {
			return Result{Err: api.Errorf(api.CodeConflict, "the instance has ended: it cannot be changed any more")}
		}
		return Result{Err: noSession(m.ID)}
	}
	if s.Warm {
		return Result{Err: nobodys()}
	}
	if m.HasJoinable {
		if !m.Joinable && !s.Connected {
			return Result{Err: &api.Error{Code: api.CodeConflict, Field: "joinable",
				Message: "nobody is connected, and what cannot be joined ends without its client: delete it instead, or change it while it is watched"}}
		}
		s.Joinable = m.Joinable
	}
	if m.HasIdle {
		if s.IdleMinutes = m.IdleMinutes; !s.Connected {
			s.ViewerAt = t.now // the new time begins now
		}
	}
	t.put(s)
	if m.HasTags || m.HasProtect {
		i := instance{}
		if old, ok := t.instances.Get(string(m.ID)); ok {
			i = *old
		}
		if m.HasTags {
			i.tags = slices.Clone(m.Tags)
		}
		if m.HasProtect {
			i.protected = m.Protected
		}
		t.instances = t.instances.Set(string(m.ID), &i)
	}
	return t.sessionResult(s)
}

// protected says why a live session may not be deleted; nil when it may.
func (t *tx) protected(m *End) error {
	i, ok := t.instances.Get(string(m.ID))
	if m.Reason != api.ReasonDeleted || !ok || !i.protected {
		return nil
	}
	return &api.Error{Code: api.CodeConflict, Field: "delete_protected",
		Message: "the instance is protected from being deleted, also by force: take that away first, with \"perigee instance update " + string(m.ID) + " --unprotect\""}
}
