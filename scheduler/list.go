package scheduler

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/perigee-cloud/perigee/api"
)

// ListSessions gives one page of sessions, ended ones included, and how many
// there are in all. Without an order the oldest come first.
func (s *Server) ListSessions(_ context.Context, q api.SessionQuery) ([]api.Session, int, error) {
	if err := s.serving(); err != nil {
		return nil, 0, err
	}
	less, err := order(q)
	if err != nil {
		return nil, 0, err
	}
	all := []api.Session{}
	add := func(v api.Session) {
		if (q.Account == "" || v.Account == q.Account) && (q.Status == "" || v.Status() == q.Status) {
			all = append(all, v)
		}
	}
	root := s.root()
	for v := range root.Sessions() {
		add(root.Shown(v))
	}
	for v := range root.Finished() {
		add(v)
	}
	all = slices.DeleteFunc(all, func(v api.Session) bool { return v.Pool == api.PoolNone || v.Warm }) // instances alone
	slices.SortFunc(all, less)
	total := len(all)
	from := min(q.Offset, total)
	to := total
	if q.Limit > 0 {
		to = min(from+q.Limit, total)
	}
	return all[from:to], total, nil
}

func order(q api.SessionQuery) (func(a, b api.Session) int, error) {
	if q.Offset < 0 {
		return nil, api.Invalidf("offset", "must not be negative, got %d", q.Offset)
	}
	if q.Limit < 0 {
		return nil, api.Invalidf("limit", "must not be negative, got %d", q.Limit)
	}
	var by func(a, b *api.Session) int
	switch q.SortBy {
	case "", "created_at":
		by = func(a, b *api.Session) int { return a.CreatedAt.Compare(b.CreatedAt) }
	case "id":
		by = func(_, _ *api.Session) int { return 0 }
	case "app":
		by = func(a, b *api.Session) int { return cmp.Compare(a.App, b.App) }
	case "region":
		by = func(a, b *api.Session) int { return cmp.Compare(a.Region, b.Region) }
	case "status":
		by = func(a, b *api.Session) int { return cmp.Compare(a.Status(), b.Status()) }
	default:
		return nil, api.Invalidf("sort_by", "%q is not a field to sort by; use id, app, region, status or created_at", q.SortBy)
	}
	sign := 1
	switch q.SortOrder {
	case "", "asc":
	case "desc":
		sign = -1
	default:
		return nil, api.Invalidf("sort_order", "%q is not an order; use asc or desc", q.SortOrder)
	}
	return func(a, b api.Session) int {
		return sign * cmp.Or(by(&a, &b), cmp.Compare(a.ID, b.ID))
	}, nil
}

// ends tells those who wait that a session has ended.
type ends struct {
	mu      sync.Mutex
	waiting map[api.SessionID]chan struct{}
}

// watch gives a channel that is closed when the session has ended.
func (e *ends) watch(id api.SessionID) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waiting[id] == nil {
		e.waiting[id] = make(chan struct{})
	}
	return e.waiting[id]
}

func (e *ends) tell(id api.SessionID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.waiting[id]; c != nil {
		close(c)
		delete(e.waiting, id)
	}
}

// keep forgets the watches of sessions that have ended or never were.
func (e *ends) keep(live func(api.SessionID) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, c := range e.waiting {
		if !live(id) {
			close(c)
			delete(e.waiting, id)
		}
	}
}

// sortCells orders cells of one minute so that the same counts read the same.
func sortCells(cells []api.DemandCell) {
	slices.SortFunc(cells, func(a, b api.DemandCell) int {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.App, b.App), cmp.Compare(a.Codec, b.Codec), cmp.Compare(a.Size, b.Size), cmp.Compare(a.Reason, b.Reason))
	})
}
