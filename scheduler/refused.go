package scheduler

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/perigee-cloud/perigee/api"
)

// Bounds of the requests that were turned away and are kept to be replayed.
const (
	refusedPerSecond = 20
	refusedSegments  = 8 // of 4 MiB
	// maxRefusedBytes bounds one answer, about, in bytes of JSON.
	maxRefusedBytes = 4 << 20
)

func (s *Server) refusedDir() string { return filepath.Join(s.cfg.Data, "refused") }

// turnedAway counts a request that nobody takes, and keeps it within a bound.
func (s *Server) turnedAway(id api.SessionID, need api.Need, no *refused) {
	s.demand.count(s.now(), need, no.refusals)
	if no.why == nil || !s.view.away.mayKeep(s.cfg.Clock()) {
		return
	}
	no.why.Session, no.why.Refused = id, true
	if err := s.view.away.put(s.refusedDir(), no.why, func(api.SessionID) bool { return true }); err != nil {
		s.cfg.Log.Warn("refused request was not kept", "session", id, "error", err)
	}
}

// Refusals gives the latest requests that were turned away, the newest first, at
// most limit: each with the candidates and why none could take it. Each leader
// keeps those of its time, so every replica that answers is asked.
func (s *Server) Refusals(ctx context.Context, limit int) ([]api.Explanation, error) {
	if err := s.serving(); err != nil {
		return nil, err
	}
	all, err := s.refusals(ctx, limit)
	if err != nil {
		return nil, err
	}
	for _, list := range askAll[[]api.Explanation](ctx, s, refusalsHere, limit) {
		all = append(all, list...)
	}
	slices.SortStableFunc(all, func(a, b api.Explanation) int { return b.At.Compare(a.At) })
	size := 0
	for i := range min(len(all), limit) {
		if size += explainedSize(&all[i]); size > maxRefusedBytes {
			return all[:i], nil
		}
	}
	return all[:min(len(all), limit)], nil
}

func (s *Server) refusals(_ context.Context, limit int) ([]api.Explanation, error) {
	if limit < 1 || limit > api.MaxRefusals {
		return nil, api.Invalidf("limit", "must be 1 to %d, got %d", api.MaxRefusals, limit)
	}
	out := []api.Explanation{}
	size := 0
	ids, err := s.view.away.latest(s.refusedDir(), limit)
	if err != nil {
		return nil, fmt.Errorf("list refused requests: %w", err)
	}
	for _, id := range ids {
		x, ok, err := s.view.away.get(s.refusedDir(), id)
		if err != nil {
			return nil, fmt.Errorf("read refused request: %w", err)
		}
		if size += explainedSize(&x); size > maxRefusedBytes {
			break
		}
		if ok {
			out = append(out, x)
		}
	}
	return out, nil
}

// explainedSize is about how many bytes of JSON an explanation takes.
func explainedSize(x *api.Explanation) int { return 600 + 900*len(x.Candidates) }

// latest gives the ids of the newest records, the newest first.
func (e *explanations) latest(dir string, limit int) ([]api.SessionID, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.open(dir); err != nil {
		return nil, err
	}
	var out []api.SessionID
	for i := len(e.segments) - 1; i >= 0; i-- {
		ids := e.segments[i].ids
		for k := len(ids) - 1; k >= 0 && len(out) < limit; k-- {
			out = append(out, ids[k])
		}
	}
	return out, nil
}
