package instance

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/perigee-cloud/perigee/edge/local"
)

// openDoor serves the stream process what only this one can reach.
func (s *shim) openDoor(home string) error {
	var err error
	refused := errors.New("the application's manifest permits none")
	if s.spec.App.Permissions.Gamepads.Allowed() {
		if s.pads, err = startPads(s.stage, s.log); err != nil {
			refused = fmt.Errorf("this node has no gamepads: %w", err)
			s.log.Warn("no gamepads", "error", err)
		}
	}
	s.door, err = local.NewDoor(s.cfg.Dir.DoorSocket(),
		func() (*os.File, error) { return s.openHome(home) },
		func(c net.Conn) error {
			switch {
			case s.pads == nil:
				return refused
			case c == nil:
				return nil
			}
			return s.pads.serve(c)
		})
	return err
}

// openHome opens the application's home, for use by its descriptor alone.
func (s *shim) openHome(home string) (f *os.File, err error) {
	if home == "" { // without root each sandbox has its own
		a := s.running.Load()
		if a == nil || a.init.Load() == 0 {
			return nil, errors.New("the application does not run")
		}
		if f, err = os.Open(fmt.Sprintf("/proc/%d/root%s", a.init.Load(), boxHome)); err != nil {
			return nil, fmt.Errorf("open the sandbox's home: %w", err)
		}
		return f, nil
	}
	err = s.l.do(func() error {
		f, err = os.Open(home)
		return err
	})
	return f, err
}
