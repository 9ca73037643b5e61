package state

import (
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func (m *Create) apply(t *tx) Result {
	if r, found := t.earlier(m); found {
		return r
	}
	if err := t.creatable(m); err != nil {
		return Result{Err: err}
	}
	c := claim{m.ID, m.Node, m.Pool, m.Codec, m.Reserved, m.Parts}
	if err := t.reserve(c); err != nil {
		return Result{Err: err}
	}
	if err := t.use(m.Token); err != nil {
		t.unreserve(c)
		return Result{Err: err}
	}
	s := m.session(t.now)
	if m.Node == "" {
		s.Observed = api.ObservedRunning // its provider runs it, out of our sight
	}
	t.keep(s)
	return t.sessionResult(s)
}

// earlier finds what the same idempotency key has made.
func (t *tx) earlier(m *Create) (Result, bool) {
	if m.Key == "" {
		return Result{}, false
	}
	id, ok := t.keys.Get(idemKey(m.Account, m.Key))
	if !ok {
		return Result{}, false
	}
	old, found := t.Session(id)
	r := Result{Session: &old, Duplicate: true, Viewer: 1}
	if live, ok := t.Live(id); ok {
		r.Viewer = live.Viewer
	}
	return r, found
}

func (t *tx) creatable(m *Create) error {
	if _, exists := t.Session(m.ID); exists || m.ID == "" {
		return api.Errorf(api.CodeConflict, "session id %q is taken", m.ID)
	}
	if _, ok := t.App(m.App, m.AppVersion); !ok {
		return api.Errorf(api.CodeNotFound, "application %q version %d is not in the catalogue", m.App, m.AppVersion)
	}
	return nil
}

// session is what a create makes.
func (m *Create) session(now time.Time) *Session {
	return &Session{
		Session: api.Session{
			ID: m.ID, Generation: m.Generation, Account: m.Account, App: m.App, AppVersion: m.AppVersion,
			Region: m.Region, Node: m.Node, Pool: m.Pool, Codec: m.Codec, Preset: m.Preset, Reserved: m.Reserved, Parts: m.Parts, Screen: m.Screen,
			Joinable: m.Joinable, Ephemeral: m.Ephemeral, IdleMinutes: m.IdleMinutes, ExtraData: m.ExtraData,
			Desired: api.DesiredRun, CreatedAt: now, Placement: m.Placement,
		},
		Viewer: 1, Codecs: m.Codecs, Token: m.Token, Key: m.Key,
	}
}

// keep takes in a new session with its idempotency key.
func (t *tx) keep(s *Session) {
	t.put(s)
	if s.Key != "" {
		t.keys = t.keys.SetIn(t.edits, idemKey(s.Account, s.Key), s.ID)
	}
}

func idemKey(account, key string) string { return account + "\x00" + key }

// sessionResult shows a session that will not be changed any more.
func (t *tx) sessionResult(s *Session) Result {
	if s.Wait == nil {
		return Result{Session: &s.Session, Viewer: s.Viewer}
	}
	c := t.shown(s)
	return Result{Session: &c, Viewer: s.Viewer}
}

// claim is what a session wants of a node.
type claim struct {
	id       api.SessionID
	node     api.NodeID
	pool     api.Pool
	codec    api.Codec
	reserved uint64
	parts    api.Parts
}

// reserve checks the ledger once more: the leader placed by an earlier state.
func (t *tx) reserve(m claim) error {
	if m.node == "" {
		return nil
	}
	n, ok := t.nodes.Get(string(m.node))
	refused := func(r api.Refusal) error {
		e := api.Errorf(api.CodeNoCapacity, "the node cannot host the session now")
		e.Refusals = []api.Refusal{r}
		return e
	}
	switch {
	case !ok:
		return refused(api.Refusal{Node: m.node, Code: api.RefusedNoNodes, Detail: "the node was removed"})
	case n.Drain:
		return refused(api.Refusal{Node: m.node, Region: n.Region, Code: api.RefusedDrain, Detail: "the node takes no new sessions"})
	case n.Lost:
		return refused(api.Refusal{Node: m.node, Region: n.Region, Code: api.RefusedLost, Detail: "the node is not heard"})
	}
	if m.pool != api.PoolNone {
		if r, fits := n.Fits(m.pool, m.codec, m.reserved, 0, 0); !fits {
			return refused(r)
		}
	}
	if r, carries := n.Carries(m.parts); !carries {
		return refused(r)
	}
	n, _ = t.edit(m.node)
	n.take(m.pool, m.reserved)
	n.parts.add(m.parts)
	n.sessions = n.sessions.SetIn(t.edits, string(m.id), struct{}{})
	return nil
}

func (t *tx) unreserve(m claim) {
	if n, ok := t.edit(m.node); ok {
		n.free(m.pool, m.reserved)
		n.parts.sub(m.parts)
		n.sessions = n.sessions.DeleteIn(t.edits, string(m.id))
	}
}

// change gives a copy of a live session that may be changed; put stores it.
func (t *tx) change(id api.SessionID) (*Session, bool) {
	s, ok := t.Live(id)
	if !ok {
		return nil, false
	}
	c := *s
	return &c, true
}

func (t *tx) put(s *Session) { t.sessions = t.sessions.SetIn(t.edits, string(s.ID), s) }

// finish moves a session to the finished ones and frees what it held.
func (t *tx) finish(s *Session, o api.Observed) {
	if n, ok := t.edit(s.Node); ok {
		n.free(s.Pool, s.Reserved)
		n.parts.sub(s.Takes())
		n.sessions = n.sessions.DeleteIn(t.edits, string(s.ID))
	}
	t.close(s, o)
}

// abandon finishes a session whose node is not heard: its capacity stays held.
func (t *tx) abandon(s *Session, o api.Observed) {
	t.hold(s)
	t.close(s, o)
}

// hold keeps a session's capacity on its lost node without the session.
func (t *tx) hold(s *Session) {
	if n, ok := t.edit(s.Node); ok {
		n.Held = append(n.Held, Held{Session: s.ID, Generation: s.Generation, Pool: s.Pool, Reserved: s.Reserved, Parts: s.Takes()})
		n.sessions = n.sessions.DeleteIn(t.edits, string(s.ID))
	}
}

func (t *tx) close(s *Session, o api.Observed) {
	s.Observed, s.EndedAt, s.Connected = o, t.now, false
	t.sessions = t.sessions.DeleteIn(t.edits, string(s.ID))
	t.shares = t.shares.Delete(string(s.ID))
	if s.Warm {
		t.warmed(s, false) // it was nobody's: nobody asks for it
		return
	}
	for _, key := range t.finished.add(t.edits, s, t.maxFinished()) {
		t.keys = t.keys.DeleteIn(t.edits, key)
	}
}

func (m *End) apply(t *tx) Result {
	s, ok := t.change(m.ID)
	if !ok {
		if old, found := t.finished.get(m.ID); found {
			return Result{Session: &old}
		}
		return Result{Err: noSession(m.ID)}
	}
	if m.Reason == api.ReasonReleased && !s.Warm {
		return t.sessionResult(s) // a client has claimed it since the pool gave it up
	}
	if err := t.protected(m); err != nil {
		return Result{Err: err}
	}
	if s.Desired != api.DesiredStop {
		s.Desired, s.Reason, s.Message = api.DesiredStop, m.Reason, ""
	}
	s.Force = s.Force || m.Force
	switch {
	case s.Wait != nil:
		t.leave(s)
		o := api.ObservedStopped
		if m.Reason == api.ReasonNoCapacity {
			o = api.ObservedFailed
		}
		t.finish(s, o)
	case s.Node == "":
		t.finish(s, api.ObservedStopped)
	case s.Observed == api.ObservedLost:
		t.abandon(s, api.ObservedStopped)
	default:
		t.put(s)
	}
	return t.sessionResult(s)
}

func noSession(id api.SessionID) error {
	return api.Errorf(api.CodeNotFound, "no session %q: it never was, or ended over 24 hours ago", id)
}

func (m *Join) apply(t *tx) Result {
	s, ok := t.change(m.ID)
	if !ok {
		if old, found := t.finished.get(m.ID); found {
			return Result{Err: api.Errorf(api.CodeConflict, "the session has ended (%s): create a new one", old.Status())}
		}
		return Result{Err: noSession(m.ID)}
	}
	if s.Warm {
		return Result{Err: nobodys()}
	}
	if s.Pool == api.PoolNone {
		return Result{Err: api.Errorf(api.CodeConflict, "the instance was launched without enable_streaming and cannot be given a stream: launch another one with config.enable_streaming")}
	}
	if st := s.Status(); st != api.StatusActive {
		return Result{Err: api.Errorf(api.CodeConflict, "the session is %s: only an active one can be joined", st)}
	}
	// One that was placed again waits for its client, joinable or not.
	again := t.EntryVersion() >= 2 && s.Generation > 1 && !s.PlacedAt.IsZero() && s.ViewerAt.IsZero()
	if !s.Joinable && s.Node != "" && !again {
		return Result{Err: api.Errorf(api.CodeConflict, "the session cannot be joined: it ends with its first client; create it with joinable and idle_time_min")}
	}
	if m.Screen.Width > 0 && m.Screen != s.Screen {
		if err := t.resize(s, m.Screen); err != nil {
			return Result{Err: err}
		}
	}
	s.Viewer++
	if !s.Connected && !s.ViewerAt.IsZero() || s.Node == "" {
		s.ViewerAt = t.now // the new client has the whole idle time to connect
	}
	t.put(s)
	return t.sessionResult(s)
}

// cost is what a stream takes of a node's pool. Entries of version 1 did not
// know what nodes certify.
func (t *tx) cost(n *Node, p api.Pool, codec api.Codec, preset api.Preset, s api.Screen) uint64 {
	if c, ok := n.Capacity(p); ok && t.EntryVersion() >= 2 {
		return c.Cost(codec, preset, s)
	}
	return api.Cost(p, codec, s)
}

// resize reserves for another size in place of the present one.
func (t *tx) resize(s *Session, to api.Screen) error {
	if n, ok := t.edit(s.Node); ok {
		cost := t.cost(n, s.Pool, s.Codec, s.Preset, to)
		was := s.Takes()
		n.free(s.Pool, s.Reserved)
		n.parts.sub(was)
		before := s.Parts.UplinkKbps
		if before > 0 {
			s.Parts.UplinkKbps = api.Uplink(to)
		}
		r, fits := n.Fits(s.Pool, s.Codec, cost, 0, 0)
		fits = fits || cost <= s.Reserved
		if fits && s.Parts.UplinkKbps > before {
			r, fits = n.Carries(api.Parts{UplinkKbps: s.Takes().UplinkKbps})
		}
		if !fits {
			n.take(s.Pool, s.Reserved)
			n.parts.add(was)
			e := api.Errorf(api.CodeNoCapacity, "the session's node has no room for %dx%d at %d frames/s", to.Width, to.Height, to.FPS)
			e.Refusals = []api.Refusal{r}
			return e
		}
		n.take(s.Pool, cost)
		n.parts.add(s.Takes())
		s.Reserved = cost
	}
	s.Screen = to
	return nil
}

func (m *Report) apply(t *tx) Result {
	s, ok := t.change(m.ID)
	if !ok || s.Generation != m.Generation || s.Node != m.Node || s.Wait != nil {
		if api.Final(m.Observed) {
			t.releaseHeld(m.Node, m.ID, m.Generation)
		}
		return Result{Stop: !api.Final(m.Observed)}
	}
	if m.Boot == s.Boot && m.Seq <= s.Seq {
		return t.sessionResult(s) // repeated or overtaken
	}
	s.Boot, s.Seq = m.Boot, m.Seq
	if m.Observed != s.Observed {
		if !api.Next(s.Observed, m.Observed) || m.Observed == api.ObservedLost {
			t.put(s)
			return t.sessionResult(s)
		}
		if s.Observed == api.ObservedLost {
			s.Reason, s.Message = api.ReasonNone, ""
		}
		s.Observed = m.Observed
	}
	t.move(s, m)
	s.see(m.Connected, t.now)
	if m.Reason != "" && (s.Desired != api.DesiredStop || m.Observed == api.ObservedFailed) {
		s.Reason, s.Message = m.Reason, m.Message
	}
	if api.Final(s.Observed) {
		t.finish(s, s.Observed)
	} else {
		t.put(s)
	}
	return t.sessionResult(s)
}

// see notes whether a viewer is connected.
func (s *Session) see(connected bool, now time.Time) {
	if connected != s.Connected {
		s.Connected, s.ViewerAt = connected, now
	}
}

// move follows an edge that encodes on another pool or in another codec than
// was reserved: it happened, so the ledger shows it even beyond the capacity.
func (t *tx) move(s *Session, m *Report) {
	pool, codec := m.Pool, m.Codec
	if pool == "" {
		pool = s.Pool
	}
	if codec == "" {
		codec = s.Codec
	}
	if pool == s.Pool && codec == s.Codec {
		return
	}
	n, ok := t.edit(s.Node)
	if !ok {
		return
	}
	if _, known := n.Capacity(pool); !known {
		return
	}
	n.free(s.Pool, s.Reserved)
	s.Pool, s.Codec, s.Reserved = pool, codec, t.cost(n, pool, codec, s.Preset, s.Screen)
	n.take(s.Pool, s.Reserved)
}

func (t *tx) releaseHeld(node api.NodeID, id api.SessionID, g api.Generation) {
	n, ok := t.nodes.Get(string(node))
	if !ok || !slices.ContainsFunc(n.Held, func(h Held) bool { return h.Session == id && h.Generation == g }) {
		return
	}
	n, _ = t.edit(node)
	n.release(id, g)
}

func (m *Missing) apply(t *tx) Result {
	t.releaseHeld(m.Node, m.ID, m.Generation)
	s, ok := t.change(m.ID)
	if !ok || s.Generation != m.Generation || s.Node != m.Node || s.Wait != nil {
		return Result{}
	}
	if s.Desired == api.DesiredStop {
		t.finish(s, api.ObservedStopped)
	} else {
		s.Reason, s.Message = api.ReasonNodeLost, "the node does not run it any more"
		t.finish(s, api.ObservedFailed)
	}
	return t.sessionResult(s)
}
