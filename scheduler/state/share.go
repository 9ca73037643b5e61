package state

import (
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// shares are those of one session. A value is never changed, but replaced.
type shares struct {
	edit uint32 // counts the changes
	last uint32 // the highest number given
	open []api.Share
}

func sharesFields(c *coder, id *api.SessionID, s *shares) {
	str(c, id)
	num(c, &s.edit)
	num(c, &s.last)
	list(c, &s.open, shareFields)
}

func shareFields(c *coder, s *api.Share) {
	str(c, &s.Session)
	num(c, &s.Number)
	seatFields(c, &s.Seat)
	str(c, &s.Description)
	c.time(&s.CreatedAt)
	c.time(&s.ExpiresAt)
}

func seatFields(c *coder, s *api.Seat) {
	str(c, &s.Role)
	list(c, &s.Rights, str[api.ViewerRight])
}

// PutShare makes a share of a running session, or with a number changes one:
// its description and expiry.
type PutShare struct {
	ID          api.SessionID
	Number      uint32 // 0 = a new one
	Seat        api.Seat
	Description string
	Expires     time.Time
}

func (*PutShare) kind() kind { return kindPutShare }

func (m *PutShare) fields(c *coder) {
	str(c, &m.ID)
	num(c, &m.Number)
	seatFields(c, &m.Seat)
	str(c, &m.Description)
	c.time(&m.Expires)
}

// DropShare takes a share back.
type DropShare struct {
	ID     api.SessionID
	Number uint32
}

func (*DropShare) kind() kind { return kindDropShare }

func (m *DropShare) fields(c *coder) {
	str(c, &m.ID)
	num(c, &m.Number)
}

// Shares lists the shares of a live session, oldest first, expired ones
// included, and what its edge is to know of them.
func (s *State) Shares(id api.SessionID) ([]api.Share, api.ShareList) {
	v, ok := s.shares.Get(string(id))
	if !ok {
		return nil, api.ShareList{}
	}
	told := api.ShareList{Edit: v.edit, Last: v.last, Open: []uint32{}}
	for _, x := range v.open {
		told.Open = append(told.Open, x.Number)
	}
	return slices.Clone(v.open), told
}

// AllShares lists the shares of all sessions, by session and number.
func (s *State) AllShares() []api.Share {
	var out []api.Share
	for _, v := range s.shares.Sorted() {
		out = append(out, v.open...)
	}
	return out
}

// Share finds one.
func (s *State) Share(id api.SessionID, number uint32) (api.Share, bool) {
	v, ok := s.shares.Get(string(id))
	if !ok {
		return api.Share{}, false
	}
	i := slices.IndexFunc(v.open, func(x api.Share) bool { return x.Number == number })
	if i < 0 {
		return api.Share{}, false
	}
	return v.open[i], true
}

func (m *PutShare) apply(t *tx) Result {
	s, ok := t.Live(m.ID)
	if !ok {
		return Result{Err: noSession(m.ID)}
	}
	v := shares{}
	if old, ok := t.shares.Get(string(m.ID)); ok {
		v = *old
		v.open = slices.Clone(old.open)
	}
	v.edit++
	if m.Number > 0 {
		i := slices.IndexFunc(v.open, func(x api.Share) bool { return x.Number == m.Number })
		if i < 0 {
			return Result{Err: noShare(m.ID, m.Number)}
		}
		v.open[i].Description, v.open[i].ExpiresAt = m.Description, m.Expires
		t.shares = t.shares.Set(string(m.ID), &v)
		return Result{Session: &s.Session, Share: v.open[i]}
	}
	switch {
	case s.Warm:
		return Result{Err: api.Errorf(api.CodeConflict, "the instance is kept for a session to come: there is nobody to share with")}
	case s.Pool == api.PoolNone:
		return Result{Err: api.Errorf(api.CodeConflict, "the instance was launched without enable_streaming: there is nothing to share")}
	case s.Node == "" && s.Wait == nil:
		return Result{Err: api.Errorf(api.CodeConflict, "the session's provider serves one client: only applications that run on a node can be shared")}
	case s.Status() != api.StatusActive:
		return Result{Err: api.Errorf(api.CodeConflict, "the session is %s: only an active one can be shared", s.Status())}
	}
	v.open = slices.DeleteFunc(v.open, func(x api.Share) bool { return !t.now.Before(x.ExpiresAt) })
	if len(v.open) >= api.MaxShares {
		return Result{Err: api.Errorf(api.CodeForbidden, "the session has %d shares, as many as there can be: revoke one", api.MaxShares)}
	}
	c, _ := t.change(m.ID)
	if err := t.watched(c, len(v.open)+1); err != nil {
		return Result{Err: err}
	}
	s = c
	v.last++
	n := api.Share{Session: m.ID, Number: v.last, Seat: m.Seat, Description: m.Description, CreatedAt: t.now, ExpiresAt: m.Expires}
	v.open = append(v.open, n)
	t.shares = t.shares.Set(string(m.ID), &v)
	return Result{Session: &s.Session, Share: n}
}

func (m *DropShare) apply(t *tx) Result {
	s, live := t.change(m.ID)
	old, ok := t.shares.Get(string(m.ID))
	if !ok || !live {
		return Result{Err: noShare(m.ID, m.Number)}
	}
	v := *old
	v.open = slices.DeleteFunc(slices.Clone(old.open), func(x api.Share) bool { return x.Number == m.Number })
	if len(v.open) == len(old.open) {
		return Result{Err: noShare(m.ID, m.Number)}
	}
	if err := t.watched(s, len(v.open)); err != nil {
		return Result{Err: err}
	}
	v.edit++
	t.shares = t.shares.Set(string(m.ID), &v)
	return Result{Session: &s.Session}
}

func noShare(id api.SessionID, number uint32) error {
	return api.Errorf(api.CodeNotFound, "share %q does not exist", api.Share{Session: id, Number: number}.ID())
}
