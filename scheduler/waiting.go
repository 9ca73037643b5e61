package scheduler

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
	"github.com/perigee-cloud/perigee/scheduler/place"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

const (
	// maxTries bounds the placements that one look at the queue tries.
	maxTries = 256
	// serveEvery is how often the queue is looked at although nothing changed:
	// ceilings rise with the wait, and what nodes measure is in no entry.
	serveEvery = 250 * time.Millisecond
	// agedAfter is how long smaller sessions may pass a waiting one: then the node
	// that is the first to have room for it is kept for it.
	agedAfter = 15 * time.Second
	// seenShare of the time that a client may be silent is how late the leader
	// may hear of it from the replica that was asked.
	seenShare = 6
)

// waiting serves the queue. Its grants and placing are guarded by the view.
type waiting struct {
	wake    chan struct{} // has room for one
	grants  []grant
	placing map[api.SessionID]bool // granted, not in the state yet
	root    *state.State           // that was served last
	at      time.Time

	mu    sync.Mutex
	seen  map[api.SessionID]bool      // asked for here since the leader was told
	heard map[api.SessionID]time.Time // the leader's: asked for last
}

// grant is a place for a session that waited.
type grant struct {
	cmd  *state.Place
	held *pending
	need api.Need
}

func (w *waiting) init() {
	w.wake = make(chan struct{}, 1)
	w.placing = map[api.SessionID]bool{}
	w.seen, w.heard = map[api.SessionID]bool{}, map[api.SessionID]time.Time{}
}

func (w *waiting) kick() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// saw notes that somebody asked for a waiting session: its client is there.
func (w *waiting) saw(id api.SessionID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[id] = true
}

// queueUp lets a session wait that no node has room for now. One that cannot
// be placed however long it waits is refused.
func (s *Server) queueUp(ctx context.Context, waitS int, create *state.Create, need api.Need, no *refused) (state.Result, bool, error) {
	if waitS == 0 || s.cfg.QueueLength < 0 || !place.MayFitLater(no.refusals, need.Policy) {
		return state.Result{}, false, nil
	}
	wait := min(time.Duration(waitS)*time.Second, s.cfg.QueueWait)
	c := *create
	c.Node, c.Pool, c.Codec, c.Preset, c.Reserved, c.Placement = "", "", "", "", 0, api.Placement{DistanceKM: -1, EstimateMS: -1, ErrorMS: -1}
	c.Region, c.Codecs, c.Screen = need.Region, need.Codecs, need.Screen
	res, err := s.proposeNew(ctx, &state.Queue{
		Create: c, Until: s.now().Add(wait), Limit: s.cfg.QueueLength, AccountLimit: s.cfg.QueueAccount,
		Ask: state.Ask{Region: need.Region, Client: need.Client, Network: geo.NetworkOf(need.Network), ASN: need.ASN, Probes: need.Probes},
	})
	var full *api.Error
	if errors.As(err, &full) && full.Code == api.CodeNoCapacity {
		s.turnedAway(create.ID, need, no)
		full.Refusals = no.refusals
	}
	if err == nil && !res.Duplicate {
		s.cfg.Log.Info("session waits for room", "session", res.Session.ID, "app", res.Session.App, "position", res.Session.Queue.Position, "until", res.Session.Queue.Until)
	}
	return res, true, err
}

// needOfWaiting is what a waiting session asks of a node.
func (s *Server) needOfWaiting(root *state.State, v *state.Session) (api.Need, bool) {
	app, ok := root.App(v.App, v.AppVersion)
	a := &v.Wait.Ask
	need := api.Need{App: v.App, Region: a.Region, Screen: v.Screen, Codecs: v.Codecs, Client: a.Client, Network: a.Network, ASN: a.ASN, Probes: a.Probes, Encoder: app.Resources.Encoder}
	s.ruled(root, &need, app, v.Account)
	return need, ok
}

// serve gives free room to those who wait, in their order. What a newcomer is
// placed by is what is left. The caller holds the view.
func (s *Server) serve(now time.Time) {
	v, w := &s.view, &s.waiting
	root := v.root
	s.releaseGone(root)
	if root.WaitingCount() == 0 || w.root == root && now.Sub(w.at) < serveEvery {
		return
	}
	w.root, w.at = root, now
	full := map[string]bool{} // kinds of need that had no room whoever asks
	tries := 0
	for waiter := range root.Waiting {
		if w.placing[waiter.ID] || waiter.Desired == api.DesiredStop {
			continue
		}
		need, ok := s.needOfWaiting(root, waiter)
		if !ok {
			continue // its application is gone: the sweep ends it
		}
		kind := kindOfNeed(waiter, need)
		if full[kind] {
			continue
		}
		if tries++; tries > maxTries {
			return
		}
		waited := s.now().Sub(waiter.CreatedAt)
		choice, held, _ := s.placeAged(waiter.ID, need, now, waited)
		if held == nil {
			if need.Policy == nil || need.Policy.MaxRoundTripMS == 0 {
				full[kind] = true
			}
			continue
		}
		w.placing[waiter.ID] = true
		size := waiter.Screen
		size.FPS = choice.FPS
		w.grants = append(w.grants, grant{need: need, held: held, cmd: &state.Place{
			ID: waiter.ID, From: waiter.Generation, Generation: waiter.Generation, Node: choice.Node, Pool: choice.Pool, Codec: choice.Codec,
			Region: choice.Region, Codecs: s.codecsThere(choice, need), Reserved: choice.Cost, Screen: size, Placement: choice.Placement, Preset: choice.Preset, Parts: choice.Parts,
		}})
	}
	if len(w.grants) > 0 {
		w.kick()
	}
}

// placeAged places one that waits. What is kept for it is free for it alone; one
// that has waited long and finds no room has a node kept. The caller holds the
// view.
func (s *Server) placeAged(id api.SessionID, need api.Need, now time.Time, waited time.Duration) (place.Choice, *pending, *refused) {
	f := s.view.fleet
	if f == nil || waited < agedAfter {
		return s.placeHere(need, now, waited, false)
	}
	last := f.Release(id)
	choice, held, no := s.placeHere(need, now, waited, false)
	if held == nil {
		q, op, w := s.asked(need, now, waited)
		if node, ok := f.Keep(id, last, q, op, w); ok && node != last {
			s.cfg.Log.Info("node is kept for one that has waited long", "session", id, "node", node, "waited", waited)
		}
	}
	return choice, held, no
}

// releaseGone lets go of what is kept for those who wait no more. The caller
// holds the view.
func (s *Server) releaseGone(root *state.State) {
	if s.view.fleet == nil {
		return
	}
	for id := range s.view.fleet.Kept {
		if v, ok := root.Live(id); !ok || v.Wait == nil {
			s.view.fleet.Release(id)
		}
	}
}

// kindOfNeed tells needs apart that may find room where another finds none.
func kindOfNeed(v *state.Session, n api.Need) string {
	key := v.Account + " " + v.App + " " + n.Region + " " + sizeOf(n.Screen)
	for _, c := range n.Codecs {
		key += " " + string(c)
	}
	return key
}

// queueLoop commits the places that those who wait are given, and looks for
// room from time to time, until the leadership ends.
func (s *Server) queueLoop(ctx context.Context) {
	w := &s.waiting
	tick := time.NewTicker(min(serveEvery, s.cfg.SweepEvery))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-tick.C:
		}
		s.view.mu.Lock()
		s.serve(s.cfg.Clock())
		grants := w.grants
		w.grants = nil
		s.view.mu.Unlock()
		s.grant(ctx, grants)
	}
}

func (s *Server) grant(ctx context.Context, grants []grant) {
	waiting := make([]*proposal, len(grants))
	for i, g := range grants {
		waiting[i] = s.enqueue(ctx, g.cmd, g.held)
	}
	for i, g := range grants {
		res, err := s.await(ctx, waiting[i])
		switch {
		case err == nil:
			s.placed(res, g.held, g.need)
			s.cfg.Log.Info("session placed", "session", g.cmd.ID, "node", g.cmd.Node, "pool", g.cmd.Pool, "generation", g.cmd.Generation)
		case ctx.Err() == nil:
			s.cfg.Log.Warn("session could not be placed yet", "session", g.cmd.ID, "error", err)
		}
		s.view.mu.Lock()
		delete(s.waiting.placing, g.cmd.ID)
		s.waiting.root = nil // look again
		s.view.mu.Unlock()
	}
}

// beginQueue starts a leadership: who waits has all the time to be heard of.
func (s *Server) beginQueue() {
	s.view.mu.Lock()
	s.waiting.grants, s.waiting.root = nil, nil
	clear(s.waiting.placing)
	if f := s.view.fleet; f != nil {
		for id := range f.Kept {
			f.Release(id)
		}
	}
	s.view.mu.Unlock()
	s.waiting.mu.Lock()
	defer s.waiting.mu.Unlock()
	clear(s.waiting.heard)
}

// overWait says whether a waiting session must end, and why.
func (s *Server) overWait(root *state.State, v *state.Session, now time.Time) (api.Reason, bool) {
	if !now.Before(v.Wait.Until) {
		return api.ReasonNoCapacity, true
	}
	if _, ok := root.App(v.App, v.AppVersion); !ok {
		return api.ReasonStartFailed, true
	}
	w, here := &s.waiting, s.cfg.Clock()
	w.mu.Lock()
	defer w.mu.Unlock()
	last, ok := w.heard[v.ID]
	if !ok {
		w.heard[v.ID] = here // of an earlier leadership, or new
		return "", false
	}
	return api.ReasonClientLeft, here.Sub(last) >= s.cfg.WaitAlive
}

// waitedInVain counts a request that waited and found no room.
func (s *Server) waitedInVain(root *state.State, v *state.Session) {
	need, ok := s.needOfWaiting(root, v)
	if !ok {
		return
	}
	s.view.mu.Lock()
	_, held, no := s.placeHere(need, s.cfg.Clock(), s.now().Sub(v.CreatedAt), true)
	s.view.mu.Unlock()
	s.view.giveBack(held)
	if no != nil {
		s.turnedAway(v.ID, need, no)
	}
}

// tellWaiting tells the leader which waiting sessions were asked for here.
func (s *Server) tellWaiting(ctx context.Context) {
	w := &s.waiting
	for pause(ctx, s.cfg.WaitAlive/seenShare) {
		w.mu.Lock()
		ids := slices.Collect(maps.Keys(w.seen))
		clear(w.seen)
		w.mu.Unlock()
		if len(ids) == 0 || s.serving() != nil {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, s.cfg.WaitAlive/seenShare)
		if _, err := onLeader(limited, s, "queue.seen", ids, s.sawWaiting); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("the leader was not told who still waits", "sessions", len(ids), "error", err)
			for _, id := range ids {
				w.saw(id)
			}
		}
		cancel()
	}
}

// sawWaiting takes in which waiting sessions were asked for.
func (s *Server) sawWaiting(_ context.Context, ids []api.SessionID) (nothing, error) {
	now, root := s.cfg.Clock(), s.root()
	w := &s.waiting
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		w.heard[id] = now
	}
	maps.DeleteFunc(w.heard, func(id api.SessionID, _ time.Time) bool {
		v, ok := root.Live(id)
		return !ok || v.Wait == nil
	})
	return nothing{}, nil
}
