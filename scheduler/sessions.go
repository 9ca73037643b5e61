package scheduler

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"slices"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/place"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// firstGeneration is a new session's.
const firstGeneration = 1

// CreateSession places and commits a session. It answers after one commit,
// without waiting for the edge. CodeNoCapacity carries each node's refusal.
func (s *Server) CreateSession(ctx context.Context, r api.CreateRequest) (api.Admission, error) {
	var random [api.SessionIDBytes]byte
	_, _ = rand.Read(random[:]) // never fails
	a, err := onLeaderBy(ctx, s, "create", createCall{ID: api.NewSessionID(random), Request: r}, s.create, s.createThere)
	a.Session.ExtraData = unlessNull(a.Session.ExtraData)
	return a, err
}

// createCall carries the session's id: a create that is tried again under
// another leader makes no second session.
type createCall struct {
	ID      api.SessionID
	Request api.CreateRequest
}

// unlessNull undoes what encoding does to JSON that is not there.
func unlessNull(b json.RawMessage) json.RawMessage {
	if string(b) == "null" {
		return nil
	}
	return b
}

func (s *Server) create(ctx context.Context, c createCall) (api.Admission, error) {
	m, err := s.make(ctx, c)
	if err != nil {
		return api.Admission{}, err
	}
	return s.admission(m.Session, m.Viewer), nil
}

// made finds what an earlier try of the same call has made.
func (s *Server) made(id api.SessionID, account string) (madeSession, bool) {
	v, ok := s.root().Session(id)
	if !ok {
		return s.claimedBefore(id, account)
	}
	if v.Account != account {
		return madeSession{}, false
	}
	return madeSession{v, 1}, true
}

func (s *Server) created(c *state.Create, res state.Result, err error) (madeSession, error) {
	if api.CodeOf(err) == api.CodeConflict {
		if m, ok := s.made(c.ID, c.Account); ok {
			return m, nil
		}
	}
	if err != nil {
		return madeSession{}, err
	}
	if v := res.Session; !res.Duplicate && v.Queue == nil && s.cfg.Log.Enabled(context.Background(), slog.LevelInfo) {
		s.cfg.Log.Info("session created", "session", v.ID, "app", v.App, "node", v.Node, "pool", v.Pool, "codec", v.Codec, "km", v.Placement.DistanceKM)
	}
	return madeSession{*res.Session, res.Viewer}, nil
}

func newCreate(id api.SessionID, r api.CreateRequest, app api.App) *state.Create {
	return &state.Create{
		ID: id, Generation: firstGeneration,
		Account: r.Grant.Account, Token: r.Grant.TokenID, Key: r.IdempotencyKey,
		App: app.Name, AppVersion: app.Version, Screen: r.Screen,
		Joinable: r.Joinable, Ephemeral: r.Ephemeral, IdleMinutes: r.IdleMinutes, ExtraData: r.ExtraData,
	}
}

// needOf gives what the session asks of a node: the client's codecs in its
// order, as far as the application allows them.
func needOf(r api.CreateRequest, app api.App) (api.Need, error) {
	allowed := app.AllowedCodecs()
	codecs := allowed
	if len(r.Codecs) > 0 {
		codecs = slices.DeleteFunc(slices.Clone(r.Codecs), func(c api.Codec) bool { return !slices.Contains(allowed, c) })
	}
	if len(codecs) == 0 {
		return api.Need{}, api.Invalidf("codecs", "the application streams in %v only", allowed)
	}
	return api.Need{App: app.Name, Region: r.Region, Screen: r.Screen, Codecs: codecs, Client: r.Client.Location, Network: r.Client.Address,
		Probes: r.Probes, Encoder: app.Resources.Encoder}, nil
}

// needFor completes it by what this scheduler knows: the client's network and
// the policy that holds.
func (s *Server) needFor(r api.CreateRequest, app api.App) (api.Need, error) {
	need, err := needOf(r, app)
	if err != nil {
		return need, err
	}
	if s.cfg.Networks != nil {
		need.ASN = s.cfg.Networks.ASN(r.Client.Address)
	}
	s.ruled(s.root(), &need, app, r.Grant.Account)
	return need, nil
}

// ruled gives a need the policy that holds for the application and the account.
func (s *Server) ruled(root *state.State, need *api.Need, app api.App, account string) {
	own, _ := root.Policy(account)
	need.Policy, need.Trunk = api.MergePolicies(app.Policy(), own.Placement), own.Trunk
	if root.EntryVersion() >= state.PartsSince { // before, no entry can say it
		need.Parts, need.Counted = app.Resources.Takes(), true
	}
	// An earlier version's entry cannot say the preset: the node would take the
	// usual one at the price of the faster.
	if need.Policy != nil && need.Policy.LowerPreset && root.EntryVersion() < state.Since(&state.Place{}) {
		p := *need.Policy
		p.LowerPreset = false
		need.Policy = &p
	}
}

// placed keeps why a new session runs where it does, and whose it is.
func (s *Server) placed(res state.Result, p *pending, need api.Need) {
	if res.Duplicate || res.Session == nil {
		return
	}
	s.view.lore.remember(res.Session.ID, networksOf(need))
	s.keepExplanation(res.Session.ID, p.why)
}

// earlier finds the session that the same idempotency key made: a full fleet
// must not hide it from a client that asks again.
func (s *Server) earlier(c *state.Create) (state.Result, bool) {
	v, viewer, ok := s.root().ByKey(c.Account, c.Key)
	return state.Result{Session: &v, Viewer: viewer, Duplicate: true}, ok
}

// codecsThere lists what the stream may use: the reserved codec first, then the
// others of the client's order that the pool encodes.
func (s *Server) codecsThere(c place.Choice, need api.Need) []api.Codec {
	out := []api.Codec{c.Codec}
	n, ok := s.root().Node(c.Node)
	if !ok {
		return out
	}
	capacity, _ := n.Capacity(c.Pool)
	for _, codec := range need.Codecs {
		if codec != c.Codec && slices.Contains(capacity.Codecs, codec) {
			out = append(out, codec)
		}
	}
	return out
}

// JoinSession hands a running session to a new client.
func (s *Server) JoinSession(ctx context.Context, id api.SessionID, r api.JoinRequest) (api.Admission, error) {
	a, err := onLeader(ctx, s, "join", joinCall{ID: id, Request: r}, s.join)
	a.Session.ExtraData = unlessNull(a.Session.ExtraData)
	return a, err
}

type joinCall struct {
	ID      api.SessionID
	Request api.JoinRequest
}

func (s *Server) join(ctx context.Context, c joinCall) (api.Admission, error) {
	id, r := c.ID, c.Request
	if err := s.may(id, r.Grant); err != nil {
		return api.Admission{}, err
	}
	size, err := s.joinScreen(id, r.Screen)
	if err != nil {
		return api.Admission{}, err
	}
	seat, err := r.Seat.Normalize()
	if err != nil {
		return api.Admission{}, err
	}
	res, err := s.propose(ctx, &state.Join{ID: id, Screen: size})
	if err != nil {
		return api.Admission{}, err
	}
	s.cfg.Log.Info("session joined", "session", id, "node", res.Session.Node, "viewer", res.Viewer)
	return s.admissionFor(*res.Session, api.Ticket{Role: seat.Role, Rights: seat.Rights, Viewer: res.Viewer}), nil
}

// joinScreen fills what a join leaves open from the session's present screen;
// the zero screen when all is.
func (s *Server) joinScreen(id api.SessionID, want api.Screen) (api.Screen, error) {
	if want == (api.Screen{}) {
		return want, nil
	}
	if (want.Width == 0) != (want.Height == 0) {
		return want, api.Invalidf("screen", "needs width and height together")
	}
	if v, ok := s.root().Live(id); ok {
		if want.Width == 0 {
			want.Width, want.Height = v.Screen.Width, v.Screen.Height
		}
		want.FPS = cmp.Or(want.FPS, v.Screen.FPS)
		want.Density = cmp.Or(want.Density, v.Screen.Density)
	}
	return want.Normalize()
}

// may says whether a grant reaches a session: its own account's, with a token
// of one application only that one's, and with a page token only those that the
// token made.
func (s *Server) may(id api.SessionID, g api.Grant) error {
	root := s.root()
	v, ok := root.Session(id)
	if !ok {
		return noSession(id)
	}
	if g.Account == "" || g.Can(api.RightAdmin) {
		return nil
	}
	live, alive := root.Live(id)
	if v.Account != g.Account || g.App != "" && v.App != g.App || !g.Can(api.RightSessions) && alive && live.Token != g.TokenID {
		return noSession(id) // what is another's is not there
	}
	return nil
}

func noSession(id api.SessionID) error {
	return api.Errorf(api.CodeNotFound, "no session %q", id)
}

// EndSession wants a session ended; with Wait it answers when it has ended, or
// CodeTimeout.
func (s *Server) EndSession(ctx context.Context, id api.SessionID, e api.EndRequest) error {
	_, err := onLeader(ctx, s, "end", endCall{ID: id, Request: e}, s.end)
	return err
}

type endCall struct {
	ID      api.SessionID
	Request api.EndRequest
}

func (s *Server) end(ctx context.Context, c endCall) (nothing, error) {
	id, e := c.ID, c.Request
	if err := s.may(id, e.Grant); err != nil {
		return nothing{}, err
	}
	if e.Reason == "" {
		e.Reason = api.ReasonDeleted
	}
	t := s.term.Load()
	if t == nil {
		return nothing{}, errNotLeader
	}
	ended := s.ends.watch(id)
	res, err := s.propose(ctx, &state.End{ID: id, Reason: e.Reason, Force: e.Force})
	if err != nil || !e.Wait || api.Final(res.Session.Observed) {
		return nothing{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.EndTimeout)
	defer cancel()
	select {
	case <-ended:
		return nothing{}, nil
	case <-t.over:
		return nothing{}, errDeposed // the next leader knows when it has ended
	case <-ctx.Done():
		return nothing{}, &api.Error{Code: api.CodeTimeout, Message: "the session is being ended but its node did not confirm it in time", Err: ctx.Err()}
	}
}

// Session finds a session, also one that ended within the last 24 hours.
func (s *Server) Session(ctx context.Context, id api.SessionID) (v api.Session, err error) {
	if err := s.serving(); err != nil {
		return api.Session{}, err
	}
	if !s.sure(ctx, func() (ok bool) { v, ok = s.root().Session(id); return ok }) {
		return v, noSession(id)
	}
	if v.Queue != nil {
		s.waiting.saw(id)
	}
	v.Latency = s.view.latency.of(id)
	return v, nil
}
