package instance

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/image"
	"github.com/perigee-cloud/perigee/edge/local"
)

// start brings the instance up; when it fails the end says why.
func (s *shim) start(ctx context.Context) (end, error) {
	// A stop that comes meanwhile is heard.
	asked := make(chan end, 1)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		select {
		case m := <-s.hub.stops:
			asked <- end{api.ObservedStopped, m.Reason, "", m.Force}
			stop(errors.New("asked to stop"))
		case <-ctx.Done():
		}
	}()
	err := s.bringUp(ctx)
	stop(nil)
	<-listening
	select {
	case e := <-asked:
		return e, context.Canceled
	default:
	}
	if err != nil {
		why := api.ReasonStartFailed
		if e, ok := errors.AsType[*image.Error](err); ok {
			why = e.Reason
		}
		return end{api.ObservedFailed, why, err.Error(), true}, err
	}
	return end{}, nil
}

// bringUp starts the servers, then the application between its hooks. Servers
// and application have the start deadline each, hooks their own time.
func (s *shim) bringUp(ctx context.Context) error {
	if s.spec.App.Kind == api.AppProgram {
		if _, err := findCommand(s.spec.App); err != nil {
			return err
		}
	}
	if err := s.bound(); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.within(gctx, s.serve) })
	if s.spec.App.Kind == api.AppContainer {
		g.Go(func() (err error) {
			s.img, err = s.fetchImage(gctx) // it has a time of its own
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := s.furnish(); err != nil {
		return err
	}
	if err := s.runHook(ctx, "pre_start", s.spec.App.Hooks.PreStart); err != nil {
		return err
	}
	if err := s.within(ctx, s.launch); err != nil {
		return err
	}
	if err := s.runHook(ctx, "post_start", s.spec.App.Hooks.PostStart); err != nil {
		return err
	}
	return s.hub.set(func(st *local.InstanceState) { st.Observed = api.ObservedRunning })
}

// furnish makes what every sandbox of the instance is made of.
func (s *shim) furnish() (err error) {
	if s.box.gpu, err = s.graphics(); err != nil {
		return err
	}
	if s.img != nil {
		if s.box.root, err = newRoot(s.stage, s.img, s.disk, s.spec.App, s.box.gpu); err != nil {
			return err
		}
		if !s.box.root.writable {
			s.log.Warn("this kernel maps no users of images: the application can change none of its image's files")
		}
		if len(s.box.spec.App.Command) == 0 {
			s.box.spec.App.Command = s.img.Command
		}
		if len(s.box.spec.App.Command) == 0 {
			return fmt.Errorf("image %s says no command: give one in the manifest", s.spec.App.Image)
		}
	}
	return s.box.prepare()
}

// launch starts the application and waits until it runs.
func (s *shim) launch(ctx context.Context) error {
	command, err := s.box.find()
	if err != nil {
		return err
	}
	box := s.box
	if box.temps, err = s.stage.temps(s.spec.App.Resources.MemoryMiB); err != nil {
		return err
	}
	if s.app, err = startApplication(box, command); err != nil {
		return err
	}
	s.running.Store(s.app)
	if err := s.app.waitStarted(ctx); err != nil {
		return err
	}
	s.visits.open(box, s.app)
	return nil
}

func (s *shim) within(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.StartDeadline, fmt.Errorf("not up within %s", s.cfg.StartDeadline))
	defer cancel()
	return f(ctx)
}

// serve makes the stage and starts what the application needs, all at once.
func (s *shim) serve(ctx context.Context) error {
	var err error
	s.l = newLauncher()
	if s.stage, err = newStage(s.l, s.cfg.Dir, s.spec.App.ReadOnly); err != nil {
		return err
	}
	if s.stage.warn != "" {
		s.log.Warn("sandbox is weaker than it could be", "why", s.stage.warn)
	}
	if err := os.MkdirAll(s.cfg.Dir.Shared(), 0o755); err != nil {
		return fmt.Errorf("make shared folder: %w", err)
	}
	if err := s.tellApp(s.spec.Screen); err != nil {
		return err
	}
	shared, err := s.stage.share(s.cfg.Dir.Shared(), "io")
	if err != nil {
		return err
	}
	var home string
	var g errgroup.Group
	g.Go(func() (err error) {
		s.x, err = startX(ctx, s.l, s.stage, s.cfg.Dir, s.srvG, s.spec.Screen)
		return err
	})
	g.Go(func() (err error) {
		s.sound, err = startSound(ctx, s.l, s.stage, s.cfg.Dir, s.srvG, s.spec.App.Permissions.Microphone)
		return err
	})
	g.Go(func() (err error) {
		r := s.spec.App.Resources
		if s.disk, err = s.stage.disk(ctx, s.cfg.Dir, r.MemoryMiB, r.DiskMiB); err != nil {
			return err
		}
		home, err = s.stage.home(s.disk)
		return err
	})
	if s.spec.App.Permissions.Network == api.NetworkEgress {
		g.Go(func() (err error) {
			s.net, err = startEgress(ctx, s.l, s.cfg.Dir, s.srvG)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	s.box = boxConfig{spec: s.spec, dir: s.cfg.Dir, stage: s.stage, group: s.appG, x: s.x, sound: s.sound, shared: shared, home: home, net: s.net}
	if err := s.openDoor(home); err != nil {
		return err
	}
	s.box.pads = s.pads
	// The stream may look and listen already: both are empty, but there.
	return s.hub.set(func(st *local.InstanceState) {
		st.Display, st.XAuth, st.Pulse = s.x.display(), s.x.xauth, s.sound.server()
	})
}
