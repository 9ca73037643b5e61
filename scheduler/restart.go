package scheduler

import (
	"context"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// maxRestarts bounds the sessions of lost nodes that one sweep places again.
const maxRestarts = 256

// placeLost places sessions of lost nodes again whose application says that it
// can start anew. Those that find no room stay in error and are tried again,
// unless their node is back before.
func (s *Server) placeLost(ctx context.Context) {
	root := s.root()
	var grants []grant
	now := s.cfg.Clock()
	full := map[string]bool{}
	for n := range root.Nodes() {
		if !n.Lost {
			continue
		}
		for id := range n.Sessions() {
			v, ok := root.Live(id)
			if !ok || v.Observed != api.ObservedLost || v.Desired == api.DesiredStop || v.Pool == api.PoolNone || v.Warm || len(grants) == maxRestarts {
				continue
			}
			app, ok := root.App(v.App, v.AppVersion)
			if !ok || !app.Restart {
				continue
			}
			need := s.needOfLost(root, n, v, app)
			kind := kindOfNeed(v, need)
			if full[kind] {
				continue
			}
			if g, ok := s.restart(v, need, now); ok {
				grants = append(grants, g)
			} else {
				full[kind] = true
			}
		}
	}
	s.grant(ctx, grants)
}

func (s *Server) restart(v *state.Session, need api.Need, now time.Time) (grant, bool) {
	s.view.mu.Lock()
	choice, held, _ := s.placeHere(need, now, 0, false)
	s.view.mu.Unlock()
	if held == nil {
		return grant{}, false
	}
	size := need.Screen
	size.FPS = choice.FPS
	s.cfg.Log.Info("session of a lost node is placed again", "session", v.ID, "lost", v.Node, "node", choice.Node)
	return grant{need: need, held: held, cmd: &state.Place{
		ID: v.ID, From: v.Generation, Generation: v.Generation + 1, Node: choice.Node, Pool: choice.Pool, Codec: choice.Codec,
		Region: choice.Region, Codecs: s.codecsThere(choice, need), Reserved: choice.Cost, Screen: size, Placement: choice.Placement, Preset: choice.Preset, Parts: choice.Parts,
	}}, true
}

// needOfLost is what a session of a lost node asks of another: what was kept of
// its request. Where that is lost, the client is where the node was, and the
// session stays in its region: it may have been asked for.
func (s *Server) needOfLost(root *state.State, n *state.Node, v *state.Session, app api.App) api.Need {
	need := api.Need{App: v.App, Region: v.Region, Screen: v.Screen, Codecs: v.Codecs, Client: n.Location, Encoder: app.Resources.Encoder, MoreViewers: v.MoreViewers}
	x, ok, err := s.view.kept.get(s.explainDir(), v.ID)
	if err != nil {
		s.cfg.Log.Warn("the request of a session could not be read again", "session", v.ID, "error", err)
	}
	if ok {
		r := x.Request
		need.Region, need.Codecs, need.Client, need.Network, need.ASN, need.Probes = r.Region, r.Codecs, r.Client, r.Network, r.ASN, r.Probes
		need.Screen.FPS = r.Screen.FPS // not what the ladder came down to there
	}
	s.ruled(root, &need, app, v.Account)
	return need
}
