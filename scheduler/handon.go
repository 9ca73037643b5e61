package scheduler

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

const (
	// handOnTimeout bounds how long a replica tries to hand on what it counted and
	// learned as the leader: an election and a call or two.
	handOnTimeout = 10 * time.Second
	yieldTimeout  = 2 * time.Second // the same for one that is about to stop
)

// legacy is what a leader knew that was not in the state when its term ended.
type legacy struct {
	// ID is of this hand-over: who is asked again, as the answer was lost, counts
	// nothing twice. "" from an earlier version's replica.
	ID     string           `json:"id,omitempty"`
	Cells  []api.DemandCell `json:"cells,omitempty"`
	Routes []state.Route    `json:"routes,omitempty"` // at most keepMost
}

// handOn gives the next leader what this replica counted and learned while it
// led, until ctx ends. What a replica knew that is killed is lost: the refusals
// of the present minute and what was learned in the last keepEvery.
func (s *Server) handOn(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handOnTimeout)
	defer cancel()
	select { // who stops waits for what is on its way
	case s.handing <- struct{}{}:
		defer func() { <-s.handing }()
	case <-ctx.Done():
		return
	}
	for first := true; ; first = false {
		if s.leads() || ctx.Err() != nil {
			return // it leads again, and keeps it; or who stops has waited in vain
		}
		l := legacy{ID: rand.Text(), Routes: s.view.lore.changed()}
		if first {
			l.Cells = s.demand.take() // once: this replica may be the next leader, which counts them itself
		}
		if len(l.Cells) == 0 && len(l.Routes) == 0 {
			return
		}
		_, err := onLeader(ctx, s, "legacy", l, s.inherit)
		if errors.Is(err, errUnknownCall) {
			return // an earlier version's
		}
		if err != nil {
			s.cfg.Log.Warn("what the last leader counted could not be handed on", "cells", len(l.Cells), "routes", len(l.Routes), "error", err)
			return
		}
	}
}

// inherit takes in, as the leader, what an earlier one knew. Minutes that are
// over and routes go to the state at once; what this minute's refusals are goes
// to this replica's own count.
func (s *Server) inherit(ctx context.Context, l legacy) (nothing, error) {
	if len(l.Cells) > 2*maxCells || len(l.Routes) > keepMost {
		return nothing{}, api.Errorf(api.CodeInvalid, "a leader's legacy has at most %d cells and %d routes, got %d and %d", 2*maxCells, keepMost, len(l.Cells), len(l.Routes))
	}
	if len(l.Routes) > 0 && s.root().EntryVersion() >= state.Since(&state.Routes{}) {
		if _, err := s.propose(ctx, &state.Routes{Routes: l.Routes}); err != nil {
			return nothing{}, err
		}
	}
	return nothing{}, s.inheritCells(ctx, l)
}

// inheritCells counts what was handed on minute by minute, the latest last: each
// that is over becomes entries of its own.
func (s *Server) inheritCells(ctx context.Context, l legacy) error {
	byMinute := map[int64][]api.DemandCell{}
	for _, c := range l.Cells {
		byMinute[c.Minute] = append(byMinute[c.Minute], c)
	}
	for _, minute := range slices.Sorted(maps.Keys(byMinute)) {
		part := handedPart{l.ID, minute}
		if !s.demand.first(part) {
			continue
		}
		for cells := range slices.Chunk(s.demand.add(s.now(), byMinute[minute]), maxCells) {
			if _, err := s.propose(ctx, &state.Demand{Cells: cells}); err != nil {
				s.demand.forget(part)
				return err
			}
		}
	}
	return nil
}

// handedPart is one minute's cells of one hand-over.
type handedPart struct {
	id     string
	minute int64
}

// keptParts bounds how many parts are remembered: those of 64 hand-overs and more.
const keptParts = 128

// first notes a part and says whether it is new here.
func (d *demand) first(p handedPart) bool {
	if p.id == "" {
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Contains(d.handed, p) {
		return false
	}
	d.handed = append(d.handed[max(0, len(d.handed)-keptParts+1):], p)
	return true
}

// forget lets a part that did not reach the state be handed on again.
func (d *demand) forget(p handedPart) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.handed = slices.DeleteFunc(d.handed, func(x handedPart) bool { return x == p })
}

// take gives what is not in the state yet, once.
func (d *demand) take() []api.DemandCell {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := append(d.full, d.listLocked()...)
	d.full = nil
	clear(d.cells)
	return out
}

// add counts cells of another replica. It gives those of minutes that are over
// here.
func (d *demand) add(now time.Time, cells []api.DemandCell) (over []api.DemandCell) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn(now)
	for _, c := range cells {
		n := c.Count
		if c.Count = 0; c.Minute != d.minute {
			c.Count = n
			over = append(over, c)
			continue
		}
		d.addLocked(c, n)
	}
	return over
}

// addLocked counts n under a cell of this minute, or under the rest.
func (d *demand) addLocked(c api.DemandCell, n uint64) {
	if _, known := d.cells[c]; !known && len(d.cells) >= maxCells-1 {
		c = api.DemandCell{Minute: d.minute, Region: otherRefused, App: otherRefused, Size: otherRefused, Reason: otherRefused}
	}
	d.cells[c] += n
}
