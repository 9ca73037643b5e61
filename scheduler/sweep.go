package scheduler

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// tickEvery is how often what is past its keeping is dropped.
const tickEvery = time.Minute

// restartEvery is how often sessions of lost nodes that found no room are tried
// again.
const restartEvery = 2 * time.Second

// sweepLoop ends what is overdue and declares silent nodes lost.
func (s *Server) sweepLoop(ctx context.Context) {
	ticker := time.NewTicker(s.cfg.SweepEvery)
	defer ticker.Stop()
	ticked := s.cfg.Clock()
	var look lookout
	restarted := ticked
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if now := s.cfg.Clock(); s.loseNodes(ctx) || now.Sub(restarted) >= restartEvery {
			restarted = now
			s.placeLost(ctx)
		}
		s.endOverdue(ctx, &look)
		var rest []state.Command
		if cells := s.demand.flush(s.now()); len(cells) > 0 {
			rest = append(rest, &state.Demand{Cells: cells})
		}
		if now := s.cfg.Clock(); now.Sub(ticked) >= tickEvery {
			ticked = now
			rest = append(append(rest, &state.Tick{}), s.dropExpiredShares(s.now())...)
			s.forget()
		}
		s.proposeAll(ctx, rest)
	}
}

// forget drops what is kept of nodes and sessions that are gone.
func (s *Server) forget() {
	root := s.root()
	known := func(id api.NodeID) bool { _, ok := root.Node(id); return ok }
	s.leases.keep(known)
	s.dispatch.keep(known)
	s.ends.keep(func(id api.SessionID) bool { _, ok := root.Live(id); return ok })
}

// loseNodes declares silent nodes lost and says whether there are any.
func (s *Server) loseNodes(ctx context.Context) bool {
	var lost []state.Command
	now := s.cfg.Clock()
	for n := range s.root().Nodes() {
		if !n.Lost && s.leases.expired(n.ID, now, s.cfg.Lease) {
			s.cfg.Log.Warn("node is lost", "node", n.ID, "sessions", n.SessionCount())
			lost = append(lost, &state.LoseNode{ID: n.ID})
		}
	}
	s.proposeAll(ctx, lost)
	return len(lost) > 0
}

// overdue says whether a session must end for want of a viewer. Nobody reports
// the viewers of a lost one. Those of an external one meet at a gateway: it ends
// once its last ticket has expired.
func (s *Server) overdue(v *state.Session, now time.Time) (api.Reason, bool) {
	switch {
	case v.Warm:
		return api.ReasonNone, false // its pool says when
	case v.Wait != nil:
		return s.overWait(s.root(), v, now)
	case v.Observed == api.ObservedLost:
		return api.ReasonNone, false
	case v.Node == "":
		last := v.CreatedAt
		if v.ViewerAt.After(last) {
			last = v.ViewerAt
		}
		return api.ReasonIdle, now.Sub(last) >= s.cfg.TicketLife
	default:
		return v.Overdue(now)
	}
}

// lookout says which sessions a sweep looks at: those that changed since the
// last one, and every so often all. Their times are minutes.
type lookout struct {
	seen *state.State
	all  time.Time // not before, by this process's clock
}

// lookShare bounds what looking at all sessions takes: one part in so many of a
// core. 100,000 sessions are looked at every second.
const lookShare = 100

func (l *lookout) look(root *state.State, at func(*state.Session)) {
	began := time.Now()
	if l.seen == nil || !began.Before(l.all) {
		for v := range root.Sessions() {
			at(v)
		}
		l.all = began.Add(lookShare * time.Since(began))
	} else {
		root.SessionsSince(l.seen, at)
	}
	l.seen = root
}

func (s *Server) endOverdue(ctx context.Context, l *lookout) {
	var over []state.Command
	now := s.now()
	l.look(s.root(), func(v *state.Session) {
		if why, is := s.overdue(v, now); is {
			s.cfg.Log.Info("session is overdue", "session", v.ID, "reason", why)
			if v.Wait != nil && why == api.ReasonNoCapacity {
				s.waitedInVain(s.root(), v)
			}
			over = append(over, &state.End{ID: v.ID, Reason: why})
		}
	})
	s.proposeAll(ctx, over)
}

// proposeAll commits commands that need no answer, as few entries as possible.
func (s *Server) proposeAll(ctx context.Context, cmds []state.Command) {
	waiting := make([]*proposal, 0, len(cmds))
	for _, c := range cmds {
		waiting = append(waiting, s.enqueue(ctx, c, nil))
	}
	for _, p := range waiting {
		if _, err := s.await(ctx, p); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("sweep could not write a change", "error", err)
		}
	}
}

const (
	maxCells     = 64 // distinct refusals of one minute
	otherRefused = "other"
)

// demand counts this minute's refused requests; full minutes go to the state.
type demand struct {
	mu     sync.Mutex
	minute int64
	cells  map[api.DemandCell]uint64
	full   []api.DemandCell // of the minute before, until it is flushed
	handed []handedPart     // what earlier leaders handed on, at most keptParts
}

// count notes one request that was turned away, under the reason of the nearest
// candidate in the region that was asked for.
func (d *demand) count(now time.Time, need api.Need, refusals []api.Refusal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn(now)
	c := api.DemandCell{Minute: d.minute, Region: need.Region, App: need.App, Codec: need.Codecs[0], Size: sizeOf(need.Screen)}
	for _, r := range refusals {
		if c.Reason == "" || c.Reason == api.RefusedRegion {
			c.Reason = r.Code
			if need.Region == "" {
				c.Region = r.Region
			}
		}
	}
	d.addLocked(c, 1)
}

func sizeOf(s api.Screen) string { return fmt.Sprintf("%dx%d@%d", s.Width, s.Height, s.FPS) }

// turn moves on to the minute of now.
func (d *demand) turn(now time.Time) {
	m := now.Unix() / 60
	if m == d.minute {
		return
	}
	if len(d.cells) > 0 {
		d.full = d.listLocked()
		clear(d.cells)
	}
	d.minute = m
}

func (d *demand) listLocked() []api.DemandCell {
	out := make([]api.DemandCell, 0, len(d.cells))
	for c, n := range d.cells {
		c.Count = n
		out = append(out, c)
	}
	sortCells(out)
	return out
}

// flush gives a minute that is over, once.
func (d *demand) flush(now time.Time) []api.DemandCell {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn(now)
	full := d.full
	d.full = nil
	return full
}

// present gives what is not in the state yet.
func (d *demand) present() []api.DemandCell {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append(append([]api.DemandCell{}, d.full...), d.listLocked()...)
}

// Demand gives what was turned away in the last 24 hours, by minute.
func (s *Server) Demand(ctx context.Context) ([]api.DemandCell, error) {
	present, err := onLeader(ctx, s, "demand", nothing{}, s.presentDemand)
	if err != nil {
		return nil, err
	}
	return append(append([]api.DemandCell{}, s.root().Demand()...), present...), nil
}

// presentDemand is what only the leader knows yet.
func (s *Server) presentDemand(context.Context, nothing) ([]api.DemandCell, error) {
	return s.demand.present(), nil
}
