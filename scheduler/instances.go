package scheduler

import (
	"cmp"
	"context"
	"crypto/rand"
	"slices"
	"strings"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/place"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// LaunchInstance launches an instance first, with a stream or without. It
// answers after one commit, without waiting for the edge.
func (s *Server) LaunchInstance(ctx context.Context, r api.LaunchRequest) (api.Instance, error) {
	var random [api.SessionIDBytes]byte
	_, _ = rand.Read(random[:]) // never fails
	return onLeader(ctx, s, "launch", launchCall{ID: api.NewSessionID(random), Request: r}, s.launch)
}

// launchCall carries the id: a launch tried again under another leader makes
// no second instance.
type launchCall struct {
	ID      api.SessionID
	Request api.LaunchRequest
}

func (s *Server) launch(ctx context.Context, c launchCall) (api.Instance, error) {
	r, err := c.Request.Normalize()
	if err != nil {
		return api.Instance{}, err
	}
	if v, ok := s.root().Session(c.ID); ok {
		return s.root().Instance(v), nil
	}
	ask, err := api.CreateRequest{
		App: r.App, AppVersion: r.AppVersion, Region: r.Region, Screen: r.Screen, Joinable: true, IdleMinutes: r.IdleMinutes,
		ExtraData: unlessNull(r.UserData), Client: r.Client, Grant: r.Grant,
	}.Normalize()
	if err != nil {
		return api.Instance{}, err
	}
	ask.Asked = &r.Screen
	app, err := s.appOf(ask)
	if err != nil {
		return api.Instance{}, err
	}
	if app.Kind == api.AppExternal {
		return api.Instance{}, api.Invalidf("app_id", "%q is external: its provider runs it; create a session for it instead", r.App)
	}
	if ask, err = filledBy(ask, app); err != nil {
		return api.Instance{}, err
	}
	need, err := s.needFor(ask, app)
	if err != nil {
		return api.Instance{}, err
	}
	var res state.Result
	for range placeAttempts { // the ledger may refuse what was free a moment ago
		m := &state.Launch{Create: *newCreate(c.ID, ask, app), Name: r.Name, Tags: r.Tags, Streaming: r.Streaming}
		if err := s.locate(ctx, m, need, r); err != nil {
			return api.Instance{}, err
		}
		if res, err = s.proposeNew(ctx, m); api.CodeOf(err) != api.CodeNoCapacity {
			break
		}
	}
	if err != nil {
		if v, ok := s.root().Session(c.ID); ok && api.CodeOf(err) == api.CodeConflict {
			return s.root().Instance(v), nil // an earlier try of this call has made it
		}
		return api.Instance{}, err
	}
	s.cfg.Log.Info("instance launched", "session", c.ID, "app", app.Name, "node", res.Session.Node, "streaming", r.Streaming)
	return s.root().Instance(*res.Session), nil
}

// locate chooses the node of an instance: the one that was asked for, else the
// best one. Without a stream it needs no encoder, only a node that is there.
func (s *Server) locate(ctx context.Context, m *state.Launch, need api.Need, r api.LaunchRequest) error {
	screen := need.Screen
	if !r.Streaming {
		need.Screen = api.Screen{Width: 16, Height: 16, FPS: 1, Density: screen.Density} // the least there is
		need.Encoder, need.Counted = "", false
	}
	if r.Node != "" {
		if err := s.locateOn(m, need, r.Node); err != nil {
			return err
		}
	} else {
		choice, held, no := s.place(need)
		if no != nil {
			s.turnedAway(m.Create.ID, need, no)
			e := api.Errorf(api.CodeNoCapacity, "no node can host the instance")
			e.Refusals = no.refusals
			return e
		}
		s.view.giveBack(held) // the commit decides
		m.Create.Node, m.Create.Region, m.Create.Pool, m.Create.Codec, m.Create.Reserved = choice.Node, choice.Region, choice.Pool, choice.Codec, choice.Cost
		m.Create.Parts = choice.Parts
		m.Create.Placement, m.Create.Codecs = choice.Placement, s.codecsThere(choice, need)
		need.Screen.FPS = choice.FPS
	}
	m.Create.Screen = need.Screen
	if !r.Streaming {
		m.Create.Screen, m.Create.Pool, m.Create.Codec, m.Create.Codecs, m.Create.Reserved = screen, api.PoolNone, "", nil, 0
	}
	return ctx.Err()
}

// locateOn takes a node that was named, if it has room.
func (s *Server) locateOn(m *state.Launch, need api.Need, id api.NodeID) error {
	n, ok := s.root().Node(id)
	if !ok {
		return api.Errorf(api.CodeNotFound, "no node %q; perigee node list shows them", id)
	}
	refused := func(r api.Refusal) error {
		e := api.Errorf(api.CodeNoCapacity, "node %s cannot host the instance", id)
		e.Refusals = []api.Refusal{r}
		return e
	}
	if !s.leases.alive(n, s.cfg.Clock(), s.cfg.Lease) {
		return refused(api.Refusal{Node: id, Region: n.Region, Code: api.RefusedLost, Detail: "the node is not heard"})
	}
	if k, v, _ := strings.Cut(api.LabelContainers, "="); need.Policy != nil && slices.Contains(need.Policy.Labels.Required, api.LabelContainers) && n.Labels[k] != v {
		return refused(api.Refusal{Node: id, Region: n.Region, Code: api.RefusedLabel, Detail: "the node runs no containers: it has no containerd"})
	}
	last := api.Refusal{Node: id, Region: n.Region, Code: api.RefusedCodec, Detail: "none of its pools encodes what the application may be streamed in"}
	for _, codec := range need.Codecs {
		for _, c := range n.Pools {
			cost := c.Cost(codec, api.PresetDefault, need.Screen)
			if !need.Encoder.Allows(c.Pool) || !slices.Contains(c.Codecs, codec) {
				continue
			}
			r, fits := n.Fits(c.Pool, codec, cost, 0, 0)
			if !fits {
				last = r
				continue
			}
			m.Create.Node, m.Create.Region, m.Create.Pool, m.Create.Codec, m.Create.Reserved = id, n.Region, c.Pool, codec, cost
			m.Create.Parts = n.OnGPU(place.Takes(&need, need.Screen.FPS))
			if r, fits = n.Carries(m.Create.Parts); !fits {
				last = r
				continue
			}
			m.Create.Codecs = []api.Codec{codec}
			m.Create.Placement = api.Placement{Rank: 1, DistanceKM: -1, EstimateMS: -1, ErrorMS: -1, Source: "operator"}
			return nil
		}
	}
	return refused(last)
}

// Instance finds an instance by its id, or a live one by its name.
func (s *Server) Instance(ctx context.Context, account, name string) (i api.Instance, err error) {
	if err := s.serving(); err != nil {
		return api.Instance{}, err
	}
	found := s.sure(ctx, func() bool {
		root := s.root()
		v, ok := root.Session(api.SessionID(name))
		if !ok {
			if id, named := root.InstanceNamed(account, name); named {
				v, ok = root.Session(id)
			}
		}
		if ok && account != "" && v.Account != account {
			ok = false // what is another's is not there
		}
		if ok {
			i = root.Instance(v)
		}
		return ok
	})
	if !found || i.Session.Node == "" {
		return api.Instance{}, api.Errorf(api.CodeNotFound, "no instance %q: it never was, or ended over 24 hours ago", name)
	}
	return i, nil
}

// ListInstances gives one page of instances, oldest first, and how many there
// are in all. Sessions of external applications have none.
func (s *Server) ListInstances(_ context.Context, q api.InstanceQuery) ([]api.Instance, int, error) {
	if err := s.serving(); err != nil {
		return nil, 0, err
	}
	root := s.root()
	all := []api.Instance{}
	add := func(v api.Session) {
		if i := root.Instance(v); v.Node != "" && q.Fits(&i) {
			all = append(all, i)
		}
	}
	for v := range root.Sessions() {
		add(root.Shown(v))
	}
	for v := range root.Finished() {
		add(v)
	}
	slices.SortFunc(all, func(a, b api.Instance) int {
		return cmp.Or(a.Session.CreatedAt.Compare(b.Session.CreatedAt), cmp.Compare(a.Session.ID, b.Session.ID))
	})
	from := min(max(q.Offset, 0), len(all))
	to := len(all)
	if q.Limit > 0 {
		to = min(from+q.Limit, to)
	}
	return all[from:to], len(all), nil
}

type changeCall struct {
	ID     api.SessionID
	Change api.InstanceChange
}

// ChangeInstance changes what an instance's owner may change while it lives.
func (s *Server) ChangeInstance(ctx context.Context, id api.SessionID, c api.InstanceChange) (api.Instance, error) {
	return onLeader(ctx, s, "instance.change", changeCall{ID: id, Change: c}, s.changeInstance)
}

func (s *Server) changeInstance(ctx context.Context, q changeCall) (api.Instance, error) {
	if err := s.may(q.ID, q.Change.Grant); err != nil {
		return api.Instance{}, err
	}
	c, err := q.Change.Normalize()
	if err != nil {
		return api.Instance{}, err
	}
	m := &state.EditInstance{ID: q.ID, HasTags: c.Tags != nil, HasJoinable: c.Joinable != nil, HasProtect: c.Protected != nil, HasIdle: c.IdleMinutes != nil}
	if m.HasTags {
		m.Tags = *c.Tags
	}
	if m.HasJoinable {
		m.Joinable = *c.Joinable
	}
	if m.HasProtect {
		m.Protected = *c.Protected
	}
	if m.HasIdle {
		m.IdleMinutes = *c.IdleMinutes
	}
	res, err := s.proposeNew(ctx, m)
	if err != nil {
		return api.Instance{}, err
	}
	s.cfg.Log.Info("instance changed", "session", q.ID, "account", c.Grant.Account, "tags", m.Tags, "protected", m.Protected)
	return s.root().Instance(*res.Session), nil
}

// EnterInstance asks an instance's node whether the instance can be entered.
func (s *Server) EnterInstance(ctx context.Context, v api.Session) error {
	if err := s.serving(); err != nil {
		return err
	}
	if v.Node == "" || v.Observed != api.ObservedRunning {
		return api.Errorf(api.CodeConflict, "the instance does not run: it is %s", v.Status())
	}
	ack, err := s.cfg.Bus.Command(ctx, v.Node, api.Command{Verb: api.VerbEnter, Session: v.ID, Generation: v.Generation})
	switch {
	case err != nil:
		return &api.Error{Code: api.CodeUnavailable, Message: "the instance's node does not answer", Err: err}
	case !ack.OK && strings.HasPrefix(ack.Error, "verb "):
		return api.Errorf(api.CodeConflict, "the instance's node runs a version that lets nobody in: upgrade it")
	case !ack.OK:
		return api.Errorf(api.CodeConflict, "%s", ack.Error)
	}
	return nil
}

// InstanceLog asks an instance's node for a part of its log.
func (s *Server) InstanceLog(ctx context.Context, v api.Session, q api.LogQuery) (api.LogPart, error) {
	if err := s.serving(); err != nil {
		return api.LogPart{}, err
	}
	if v.Node == "" {
		return api.LogPart{}, api.Errorf(api.CodeConflict, "no node runs the instance: there is no log")
	}
	ack, err := s.cfg.Bus.Command(ctx, v.Node, api.Command{Verb: api.VerbLog, Session: v.ID, Generation: v.Generation, Log: &q})
	switch {
	case err != nil:
		return api.LogPart{}, &api.Error{Code: api.CodeUnavailable, Message: "the instance's node does not answer", Err: err}
	case !ack.OK:
		return api.LogPart{}, api.Errorf(api.CodeNotFound, "%s", ack.Error)
	case ack.Log == nil:
		return api.LogPart{}, api.Errorf(api.CodeUnavailable, "the instance's node runs a version that shows no logs")
	}
	return *ack.Log, nil
}
