package scheduler

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media/turn"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

const (
	inFlightPerNode = 16                     // commands that wait for one node
	retryFirst      = 200 * time.Millisecond // after a command that was not taken
	retryTaken      = 2 * time.Second        // after one that was taken and shows nothing yet
	retryMost       = 5 * time.Second
)

// dispatcher sends each session's command until what it asks for is observed.
// A session that wants something has a task, which ends with the want. A task
// has a goroutine only while it sends: in a herd thousands wait for their edges.
type dispatcher struct {
	server *Server
	ctx    context.Context // of the leadership; nil while there is none
	owned  *sync.WaitGroup

	mu       sync.Mutex
	tasks    map[api.SessionID]*task
	admitted map[api.SessionID]uint32 // client number that the edge has acknowledged
	claimed  map[api.SessionID]bool   // whose edge knows that it is no started instance any more
	shared   map[api.SessionID]uint32 // edit of the shares that the edge has acknowledged
	slots    map[api.NodeID]chan struct{}
}

func (d *dispatcher) init(s *Server) {
	d.server = s
	d.tasks = map[api.SessionID]*task{}
	d.admitted, d.shared = map[api.SessionID]uint32{}, map[api.SessionID]uint32{}
	d.claimed = map[api.SessionID]bool{}
	d.slots = map[api.NodeID]chan struct{}{}
}

// begin starts what the state wants at the start of a leadership.
func (d *dispatcher) begin(ctx context.Context, owned *sync.WaitGroup) {
	d.mu.Lock()
	d.ctx, d.owned = ctx, owned
	clear(d.admitted)
	clear(d.claimed)
	clear(d.shared)
	d.mu.Unlock()
	for v := range d.server.root().Sessions() {
		d.kick(v.ID)
	}
}

// end lets no further command be sent; Run waits for those on their way.
func (d *dispatcher) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ctx = nil
	for _, t := range d.tasks {
		if t.rest != nil {
			t.rest.Stop()
		}
	}
	clear(d.tasks)
}

// task is what a session's commands have come to. The dispatcher's mu guards it.
type task struct {
	last  want          // that was sent, or is being sent
	pause time.Duration // after it
	rest  *time.Timer   // until it is sent again; nil while it is being sent
}

// kick looks at a session again, now.
func (d *dispatcher) kick(id api.SessionID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx == nil {
		return
	}
	t := d.tasks[id]
	if t != nil && t.rest == nil {
		return // it looks again when it has sent
	}
	w, ok := d.wantLocked(id)
	switch {
	case !ok && t != nil:
		t.rest.Stop()
		t.rest = nil
		delete(d.tasks, id)
		return
	case !ok, t != nil && w.same(t.last):
		return
	case t != nil:
		t.rest.Stop()
	default:
		t = &task{}
		d.tasks[id] = t
	}
	d.start(id, t)
}

// start sends a task's commands aside. The caller holds mu.
func (d *dispatcher) start(id api.SessionID, t *task) {
	t.rest = nil
	ctx := d.ctx
	d.owned.Go(func() { d.pursue(ctx, id, t) })
}

// want is a command and its node.
type want struct {
	node api.NodeID
	cmd  api.Command
}

func (w want) same(o want) bool {
	return w.node == o.node && w.cmd.Verb == o.cmd.Verb && w.cmd.Generation == o.cmd.Generation && w.cmd.Boot == o.cmd.Boot &&
		w.cmd.Force == o.cmd.Force && w.cmd.Viewer == o.cmd.Viewer && w.edit() == o.edit()
}

// edit is which of the session's lists of shares is told.
func (w want) edit() uint32 {
	if w.cmd.Shares == nil {
		return 0
	}
	return w.cmd.Shares.Edit
}

// wantLocked gives the command that a session is in need of.
func (d *dispatcher) wantLocked(id api.SessionID) (want, bool) {
	root := d.server.root()
	v, ok := root.Live(id)
	if !ok {
		delete(d.admitted, id)
		delete(d.claimed, id)
		delete(d.shared, id)
		return want{}, false
	}
	n, ok := root.Node(v.Node)
	if !ok || n.Lost {
		return want{}, false
	}
	w := want{node: n.ID, cmd: api.Command{Session: id, Generation: v.Generation, Boot: n.Boot}}
	switch {
	case v.Desired == api.DesiredStop:
		w.cmd.Verb, w.cmd.Reason, w.cmd.Force = api.VerbStop, v.Reason, v.Force
	case v.Observed == api.ObservedNone:
		w.cmd.Verb = api.VerbStart
	case v.FromPool && !d.claimed[id] && v.Observed == api.ObservedRunning:
		w.cmd.Verb = api.VerbClaim
	case v.Viewer > max(d.admitted[id], 1) && v.Observed == api.ObservedRunning:
		size := v.Screen
		w.cmd.Verb, w.cmd.Viewer, w.cmd.Screen = api.VerbAdmit, v.Viewer, &size
	case v.Observed == api.ObservedRunning:
		_, list := root.Shares(id)
		if list.Edit <= d.shared[id] {
			return want{}, false
		}
		w.cmd.Verb, w.cmd.Shares = api.VerbShares, &list
	default:
		return want{}, false
	}
	return w, true
}

// pursue sends a session's commands until it wants none, or one that was sent
// needs time.
func (d *dispatcher) pursue(ctx context.Context, id api.SessionID, t *task) {
	for w, ok := d.next(ctx, id, t); ok; w, ok = d.after(ctx, id, t, d.send(ctx, w)) {
	}
}

// next gives the command to send, or ends the task in one step with finding none.
func (d *dispatcher) next(ctx context.Context, id api.SessionID, t *task) (want, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.nextLocked(ctx, id, t)
}

func (d *dispatcher) nextLocked(ctx context.Context, id api.SessionID, t *task) (want, bool) {
	if d.ctx != ctx {
		return want{}, false // another leadership, or none
	}
	w, ok := d.wantLocked(id)
	if !ok {
		delete(d.tasks, id)
		return w, false
	}
	if !w.same(t.last) {
		t.last, t.pause = w, retryFirst
	}
	return w, true
}

// after gives the command to send after one that was sent: another one now, or
// none, and the same later.
func (d *dispatcher) after(ctx context.Context, id api.SessionID, t *task, taken bool) (want, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	sent := t.last
	w, ok := d.nextLocked(ctx, id, t)
	if !ok || !w.same(sent) {
		return w, ok
	}
	if taken {
		t.pause = max(t.pause, retryTaken)
	}
	var rest *time.Timer
	rest = time.AfterFunc(t.pause+rand.N(t.pause/4), func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.ctx == ctx && t.rest == rest { // nobody was faster
			d.start(id, t)
		}
	})
	t.rest = rest
	t.pause = min(2*t.pause, retryMost)
	return want{}, false
}

// send delivers one command and says whether the edge took it.
func (d *dispatcher) send(ctx context.Context, w want) bool {
	slot := d.slot(w.node)
	select {
	case slot <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-slot }()
	cfg := &d.server.cfg
	if (w.cmd.Verb == api.VerbStart || w.cmd.Verb == api.VerbClaim) && !d.fill(ctx, &w) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.CommandTimeout)
	defer cancel()
	ack, err := cfg.Bus.Command(ctx, w.node, w.cmd)
	switch {
	case err != nil:
		cfg.Log.Warn("command was not delivered", "verb", w.cmd.Verb, "session", w.cmd.Session, "node", w.node, "error", err)
		return false
	case !ack.OK:
		cfg.Log.Warn("command was refused", "verb", w.cmd.Verb, "session", w.cmd.Session, "node", w.node, "error", ack.Error)
		return false
	}
	if w.cmd.Verb == api.VerbAdmit {
		d.mu.Lock()
		d.admitted[w.cmd.Session] = max(d.admitted[w.cmd.Session], w.cmd.Viewer)
		d.mu.Unlock()
	}
	if w.cmd.Verb == api.VerbClaim {
		d.mu.Lock()
		d.claimed[w.cmd.Session] = true
		d.mu.Unlock()
	}
	if w.cmd.Verb == api.VerbShares {
		d.mu.Lock()
		d.shared[w.cmd.Session] = max(d.shared[w.cmd.Session], w.edit())
		d.mu.Unlock()
	}
	return true
}

func (d *dispatcher) slot(id api.NodeID) chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.slots[id] == nil {
		d.slots[id] = make(chan struct{}, inFlightPerNode)
	}
	return d.slots[id]
}

// keep forgets the nodes that are not known any more.
func (d *dispatcher) keep(known func(api.NodeID) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, slot := range d.slots {
		if !known(id) && len(slot) == 0 {
			delete(d.slots, id)
		}
	}
}

// fill adds what a start needs. An application that was deleted in between
// cannot start: the session ends.
func (d *dispatcher) fill(ctx context.Context, w *want) bool {
	s := d.server
	root := s.root()
	v, ok := root.Live(w.cmd.Session)
	if !ok {
		return false
	}
	app, ok := root.App(v.App, v.AppVersion)
	if !ok {
		s.cfg.Log.Warn("application was deleted before its session started", "session", v.ID, "app", v.App)
		if _, err := s.propose(ctx, &state.End{ID: v.ID, Reason: api.ReasonStartFailed, Force: true}); err != nil {
			s.cfg.Log.Warn("session could not be ended", "session", v.ID, "error", err)
		}
		return false
	}
	w.cmd.Spec = &api.Spec{App: app, Screen: v.Screen, Pool: v.Pool, Codecs: v.Codecs, Preset: v.Preset, ExtraData: v.ExtraData, Warm: v.Warm, Claimed: v.FromPool,
		ICEServers: s.relaysBeside(nil, v.Session, turn.StreamCredentials, streamRelayLife)}
	if n, ok := root.Node(v.Node); ok && n.Machine != nil && v.Parts.GPU > 0 && v.Parts.GPU <= len(n.Machine.GPUs) {
		w.cmd.Spec.GPU = n.Machine.GPUs[v.Parts.GPU-1].Device
	}
	if len(v.ExtraData) == 0 {
		w.cmd.Spec.ExtraData = app.ExtraData
	}
	return true
}
