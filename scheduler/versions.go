package scheduler

import (
	"context"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

// raiseWait is how long a command waits for the schedulers to agree on entries
// that may hold it: a new cluster does within its first second.
const raiseWait = 5 * time.Second

// Application finds an application with all its versions.
func (s *Server) Application(ctx context.Context, name string) (r api.AppRecord, err error) {
	if err := s.serving(); err != nil {
		return api.AppRecord{}, err
	}
	if !s.sure(ctx, func() (ok bool) { r, ok = s.root().AppRecord(name); return ok }) {
		return r, api.Errorf(api.CodeNotFound, "application %q does not exist", name)
	}
	return r, nil
}

// StageApplication makes a new version that is not published.
func (s *Server) StageApplication(ctx context.Context, a api.App) (api.App, error) {
	return onLeader(ctx, s, "app.stage", a, s.stageApp)
}

func (s *Server) stageApp(ctx context.Context, a api.App) (api.App, error) {
	doc, err := appDoc(a)
	if err != nil {
		return api.App{}, err
	}
	res, err := s.proposeNew(ctx, &state.StageApp{Doc: doc})
	if err != nil {
		return api.App{}, err
	}
	s.cfg.Log.Info("application staged", "app", res.App.Name, "version", res.App.Version)
	return *res.App, nil
}

type versionCall struct {
	Name      string
	Version   int
	Published bool
}

// PublishVersion publishes a version of an application, or takes it back.
func (s *Server) PublishVersion(ctx context.Context, name string, version int, published bool) error {
	_, err := onLeader(ctx, s, "app.publish", versionCall{name, version, published}, s.publishApp)
	return err
}

func (s *Server) publishApp(ctx context.Context, c versionCall) (nothing, error) {
	if _, err := s.proposeNew(ctx, &state.PublishApp{Name: c.Name, Version: c.Version, Published: c.Published}); err != nil {
		return nothing{}, err
	}
	s.cfg.Log.Info("application published", "app", c.Name, "version", c.Version, "published", c.Published)
	return nothing{}, nil
}

// DeleteVersion removes a version that nobody runs.
func (s *Server) DeleteVersion(ctx context.Context, name string, version int) error {
	_, err := onLeader(ctx, s, "version.delete", versionCall{Name: name, Version: version}, s.deleteVersion)
	return err
}

func (s *Server) deleteVersion(ctx context.Context, c versionCall) (nothing, error) {
	if _, err := s.proposeNew(ctx, &state.DropVersion{Name: c.Name, Version: c.Version}); err != nil {
		return nothing{}, err
	}
	s.cfg.Log.Info("application version deleted", "app", c.Name, "version", c.Version)
	return nothing{}, nil
}

// proposeNew proposes a command that needs a later version of entries, once all
// replicas read it.
func (s *Server) proposeNew(ctx context.Context, c state.Command) (state.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	wait, stop := context.WithTimeout(ctx, raiseWait)
	defer stop()
	for s.root().EntryVersion() < state.Since(c) {
		if !pause(wait, pollEvery) {
			return state.Result{}, api.Errorf(api.CodeConflict,
				"some scheduler is too old for this (entries are written in version %d, %d is needed): upgrade all of them; perigee scheduler members shows their versions",
				s.root().EntryVersion(), state.Since(c))
		}
	}
	return s.propose(ctx, c)
}

// appOf finds the version of the application that a request asks for.
func (s *Server) appOf(r api.CreateRequest) (api.App, error) {
	if app, ok := s.root().App(r.App, r.AppVersion); ok {
		return app, nil
	}
	_, there := s.root().AppRecord(r.App)
	switch {
	case !there && r.AppVersion <= 0:
		return api.App{}, api.Errorf(api.CodeNotFound, "application %q is not in the catalogue", r.App)
	case r.AppVersion > 0:
		return api.App{}, api.Errorf(api.CodeNotFound, "application %q has no version %d", r.App, r.AppVersion)
	default:
		return api.App{}, api.Errorf(api.CodeConflict, "application %q has no published version: publish one, or ask for a version by its number", r.App)
	}
}

// filledBy gives a request with what its client leaves open as the application
// says it.
func filledBy(r api.CreateRequest, app api.App) (api.CreateRequest, error) {
	asked := r.Screen
	if r.Asked != nil {
		asked = *r.Asked
	}
	var err error
	if r.Screen, err = app.Screen(asked); err != nil {
		return r, err
	}
	if r.IdleMinutes == api.IdleUnset && app.Idle.Minutes > 0 {
		r.IdleMinutes = app.Idle.Minutes
	}
	return r, nil
}
