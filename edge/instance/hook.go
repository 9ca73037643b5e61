package instance

import (
	"context"
	"fmt"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// runHook runs a hook in a sandbox like the application's and waits for it. A
// hook that fails or takes too long is an error that names it; its output goes
// into the application's log.
func (s *shim) runHook(ctx context.Context, name string, h *api.Hook) error {
	if h == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.Timeout(), fmt.Errorf("hook %s did not end within %s", name, h.Timeout()))
	defer cancel()
	b := s.box
	b.pads = nil // nobody plays yet
	b.spec.App.Command = h.Command
	command, err := b.find()
	if err != nil {
		return fmt.Errorf("hook %s: %w", name, err)
	}
	begun := time.Now()
	a, err := startApplication(b, command)
	if err != nil {
		return fmt.Errorf("hook %s: %w", name, err)
	}
	select {
	case <-a.ended:
	case <-ctx.Done():
		a.endAlone()
		return context.Cause(ctx)
	}
	status, sig := a.exit()
	last := ""
	if status != 0 {
		a.out.settle()
		last = a.out.lastLine()
	}
	a.endAlone()
	s.log.Info("hook ended", "hook", name, "status", status, "after", time.Since(begun))
	switch {
	case sig != 0:
		return fmt.Errorf("hook %s was killed by %s: %s", name, sig, last)
	case status != 0:
		return fmt.Errorf("hook %s exited with status %d: %s", name, status, last)
	}
	return nil
}
