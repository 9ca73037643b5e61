package scheduler

import (
	"context"
	"errors"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// placeAttempts bounds how often a session is placed anew when the ledger
// refuses what placement chose.
const placeAttempts = 4

// making is a create that the leader carries out.
type making struct {
	create *state.Create
	need   api.Need
	waitS  int          // that it may wait for room
	made   *madeSession // by an earlier try of the same call; then there is nothing to do
	alone  bool         // its application is external: it needs no place
	tries  int
	full   *api.Error // the ledger's last refusal

	claim    *state.Claim // of an instance that is started already
	held     *pending     // what its place takes, and the command on its way
	proposal *proposal
	flying   bool
}

// make places and commits a session as the leader.
func (s *Server) make(ctx context.Context, c createCall) (madeSession, error) {
	m, err := s.prepare(c)
	if err != nil {
		return madeSession{}, err
	}
	return s.carryOut(ctx, m)
}

// prepare checks a create and finds what it needs of a node.
func (s *Server) prepare(c createCall) (*making, error) {
	r, err := c.Request.Normalize()
	if err != nil {
		return nil, err
	}
	if m, ok := s.made(c.ID, r.Grant.Account); ok {
		return &making{made: &m}, nil
	}
	r.ExtraData = unlessNull(r.ExtraData)
	if r.Grant.App != "" && r.Grant.App != r.App {
		return nil, api.Errorf(api.CodeForbidden, "the token is for the application %q only", r.Grant.App)
	}
	app, err := s.appOf(r)
	if err != nil {
		return nil, err
	}
	if r, err = filledBy(r, app); err != nil {
		return nil, err
	}
	m := &making{create: newCreate(c.ID, r, app), waitS: r.WaitS}
	if app.Kind == api.AppExternal {
		m.alone, m.create.Region = true, r.Region
		return m, nil
	}
	m.need, err = s.needFor(r, app)
	return m, err
}

// carryOut does what is left of a create.
func (s *Server) carryOut(ctx context.Context, m *making) (madeSession, error) {
	if m.made != nil {
		return *m.made, nil
	}
	var res state.Result
	var err error
	if m.alone {
		res, err = s.propose(ctx, m.create)
	} else {
		res, err = s.placeAndCommit(ctx, m)
	}
	return s.created(m.create, res, err)
}

func (s *Server) placeAndCommit(ctx context.Context, m *making) (state.Result, error) {
	for m.tries < placeAttempts {
		if no := s.submit(ctx, m); no != nil {
			return s.unplaced(ctx, m, no)
		}
		if res, again, err := s.land(ctx, m); !again {
			return res, err
		}
	}
	s.demand.count(s.now(), m.need, m.full.Refusals)
	return state.Result{}, m.full
}

// submit gives a create its place and queues it for the log, unless it is on its
// way already. It waits only while the queue is full.
func (s *Server) submit(ctx context.Context, m *making) *refused {
	if m.flying {
		return nil
	}
	if s.claim(ctx, m) {
		return nil
	}
	choice, held, no := s.place(m.need)
	if no != nil {
		return no
	}
	create := m.create
	create.Node, create.Region, create.Pool, create.Codec, create.Reserved = choice.Node, choice.Region, choice.Pool, choice.Codec, choice.Cost
	create.Placement, create.Codecs = choice.Placement, s.codecsThere(choice, m.need)
	create.Screen.FPS, create.Preset, create.Parts = choice.FPS, choice.Preset, choice.Parts
	m.held, m.proposal, m.flying = held, s.enqueue(ctx, create, held), true
	return nil
}

// land waits for a create that is on its way. Again says that the ledger refused
// its place.
func (s *Server) land(ctx context.Context, m *making) (res state.Result, again bool, err error) {
	res, err = s.await(ctx, m.proposal)
	m.flying = false
	s.unclaim(m)
	m.tries++
	if err == nil {
		s.placed(res, m.held, m.need)
		return res, false, nil
	}
	if !errors.As(err, &m.full) || m.full.Code != api.CodeNoCapacity {
		return res, false, err
	}
	copied := *m.create // the refused command is in the log's hands
	m.create = &copied
	return res, true, err
}

// unplaced ends a create that no node takes now: it may have been carried out
// before, or wait.
func (s *Server) unplaced(ctx context.Context, m *making, no *refused) (state.Result, error) {
	if dup, ok := s.earlier(m.create); ok {
		return dup, nil
	}
	if m.tries++; m.tries < placeAttempts && s.makeRoom(ctx, m.need) {
		return s.placeAndCommit(ctx, m)
	}
	if res, queued, err := s.queueUp(ctx, m.waitS, m.create, m.need, no); queued {
		return res, err
	}
	s.turnedAway(m.create.ID, m.need, no)
	e := api.Errorf(api.CodeNoCapacity, "no node can host the session")
	e.Refusals = no.refusals
	return state.Result{}, e
}
