package instance

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/perigee-cloud/perigee/api"
)

// fileSession is what the application may read of its session, as
// /run/perigee/session.json. It is replaced whole, so whoever watches the folder
// (inotify, IN_MOVED_TO) reads no half of it.
const fileSession = "session.json"

// sessionFile is its content.
type sessionFile struct {
	Session api.SessionID `json:"session"`
	// Waiting says that the instance was started for a session to come: what
	// follows is nobody's yet, and ExtraData comes with the session.
	Waiting   bool            `json:"waiting"`
	Screen    api.Screen      `json:"screen"`
	ExtraData json.RawMessage `json:"extra_data,omitempty"`
}

// claimed gives a started instance its session: the screen is the client's, and
// the application is told the session's extra data.
func (s *shim) claimed(spec api.Spec) {
	if s.spec.Claimed {
		return // said again: the screen may be a later one by now
	}
	s.spec.ExtraData, s.spec.Warm, s.spec.Claimed = spec.ExtraData, false, true
	s.box.spec.ExtraData = spec.ExtraData // for when it is started again
	s.resize(spec.Screen)                 // which tells the application
	s.log.Info("instance has its session")
}

// tellApp writes what the application may read.
func (s *shim) tellApp(size api.Screen) (err error) {
	id, _, err := s.cfg.Dir.ID()
	if err != nil {
		return err
	}
	b, err := json.Marshal(sessionFile{Session: id, Waiting: s.spec.Warm, Screen: size, ExtraData: s.spec.ExtraData})
	if err != nil {
		return fmt.Errorf("encode session: %w", err)
	}
	f, err := os.CreateTemp(s.cfg.Dir.Shared(), "."+fileSession+"-*")
	if err != nil {
		return fmt.Errorf("write session: %w", err)
	}
	_, err = f.Write(b)
	// The application runs as another user.
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.cfg.Dir.Shared(), fileSession))
	}
	if err != nil {
		return fmt.Errorf("write session: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
