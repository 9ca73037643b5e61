package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// Applications gives the newest version of every application, by name.
func (s *Server) Applications(context.Context) ([]api.App, error) {
	if err := s.serving(); err != nil {
		return nil, err
	}
	return append([]api.App{}, s.root().Apps()...), nil
}

// PutApplication makes a new version of an application, or finds that the
// newest is the same.
func (s *Server) PutApplication(ctx context.Context, a api.App) (api.App, error) {
	return onLeader(ctx, s, "app.put", a, s.putApp)
}

// appDoc checks an application and writes it as entries hold it.
func appDoc(a api.App) ([]byte, error) {
	a.Version = 0 // the state numbers versions
	a, err := a.Normalize()
	if err != nil {
		return nil, err
	}
	doc, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("write application: %w", err)
	}
	return doc, nil
}

func (s *Server) putApp(ctx context.Context, a api.App) (api.App, error) {
	doc, err := appDoc(a)
	if err != nil {
		return api.App{}, err
	}
	res, err := s.propose(ctx, &state.PutApp{Doc: doc})
	if err != nil {
		return api.App{}, err
	}
	s.cfg.Log.Info("application put", "app", res.App.Name, "version", res.App.Version)
	return *res.App, nil
}

// DeleteApplication takes an application out of the catalogue; its sessions go on.
func (s *Server) DeleteApplication(ctx context.Context, name string) error {
	_, err := onLeader(ctx, s, "app.delete", name, s.deleteApp)
	return err
}

func (s *Server) deleteApp(ctx context.Context, name string) (nothing, error) {
	if _, err := s.propose(ctx, &state.DeleteApp{Name: name}); err != nil {
		return nothing{}, err
	}
	s.cfg.Log.Info("application deleted", "app", name)
	return nothing{}, nil
}

// Status says how the schedulers are.
func (s *Server) Status(context.Context) (api.ClusterStatus, error) {
	if err := s.serving(); err != nil {
		return api.ClusterStatus{}, err
	}
	r, root := s.replica.Load(), s.root()
	_, leader := r.raft.LeaderWithID()
	st := api.ClusterStatus{Healthy: leader != "", Replicas: len(r.configuration()), Leader: string(leader), Sessions: root.LiveCount() - root.WarmCount()}
	for n := range root.Nodes() {
		if s.leases.alive(n, s.cfg.Clock(), s.cfg.Lease) {
			st.Nodes++
		}
	}
	return st, nil
}

// Regions gives the regions of the nodes that are not lost, by name.
func (s *Server) Regions(context.Context) ([]string, error) {
	if err := s.serving(); err != nil {
		return nil, err
	}
	out := []string{}
	for n := range s.root().Nodes() {
		if !n.Lost {
			out = append(out, n.Region)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
