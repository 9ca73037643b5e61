package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/perigee-cloud/perigee/api"
)

// Run is the node's run directory.
type Run string

// Session is the folder of one session and generation.
type Session string

// Files of a session's folder. The socket paths stay short: a unix socket's
// path is limited to 107 bytes.
const (
	fileSpec     = "spec.json"     // api.Spec, written by the daemon before it starts anything
	fileInstance = "instance.json" // InstanceState, written by the shim
	fileMedia    = "media.json"    // MediaState, written by the stream process
	fileShim     = "shim.sock"
	fileStream   = "stream.sock"
	dirShared    = "io" // the part the instance sees as /run/perigee
)

// fileAddresses is in the run directory itself, written by the daemon.
const fileAddresses = "addresses.json"

// Addresses are the node's public addresses, as the daemon last learnt them;
// none when it never did.
func (r Run) Addresses() []string {
	var out []string
	if readFile(filepath.Join(string(r), fileAddresses), &out) != nil {
		return nil
	}
	return out
}

// SetAddresses tells the node's processes its public addresses: the relay from
// its next allocation on, streams that are started from now on. It makes the
// run directory.
func (r Run) SetAddresses(list []string) error {
	if err := os.MkdirAll(string(r), 0o700); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	return writeFile(string(r), fileAddresses, list)
}

// fileRelay is in the run directory itself, written by the relay.
const fileRelay = "relay-state.json"

// RelayState is what the node's relay says of itself.
type RelayState struct {
	Alarms []api.Alarm `json:"alarms,omitempty"`
}

// Relay gives what the relay last said; nothing when it never did.
func (r Run) Relay() RelayState {
	var s RelayState
	if readFile(filepath.Join(string(r), fileRelay), &s) != nil {
		return RelayState{}
	}
	return s
}

// SetRelay tells the node's daemon how its relay is.
func (r Run) SetRelay(s RelayState) error {
	if err := os.MkdirAll(string(r), 0o700); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	return writeFile(string(r), fileRelay, s)
}

// Session gives the folder of a session and generation.
func (r Run) Session(id api.SessionID, g api.Generation) Session {
	return Session(filepath.Join(string(r), fmt.Sprintf("%s.%d", id, g)))
}

// Sessions lists the folders that are there.
func (r Run) Sessions() ([]Session, error) {
	entries, err := os.ReadDir(string(r))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list run directory: %w", err)
	}
	var out []Session
	for _, e := range entries {
		s := Session(filepath.Join(string(r), e.Name()))
		if _, _, err := s.ID(); err == nil && e.IsDir() {
			out = append(out, s)
		}
	}
	return out, nil
}

// ID reads the session and generation from the folder's name.
func (s Session) ID() (api.SessionID, api.Generation, error) {
	name := filepath.Base(string(s))
	id, gen, ok := strings.Cut(name, ".")
	g, err := strconv.ParseUint(gen, 10, 32)
	if !ok || err != nil || !api.ValidID(id) {
		return "", 0, fmt.Errorf("folder %q is not <session>.<generation>", name)
	}
	return api.SessionID(id), api.Generation(g), nil
}

// AppLog is what the application wrote; LogBefore and LogGone stand beside it.
func (s Session) AppLog() string { return s.Path("app.log") }

// LogBefore is the part of a log before its file, LogGone the number of bytes
// that were dropped before that.
func LogBefore(log string) string { return log + ".1" }

// LogGone is where the number of dropped bytes stands, in decimal.
func LogGone(log string) string { return log + ".gone" }

// Run is the run directory that the folder lies in.
func (s Session) Run() Run { return Run(filepath.Dir(string(s))) }

// Path joins a name to the folder.
func (s Session) Path(name string) string { return filepath.Join(string(s), name) }

// ShimSocket is where the shim listens.
func (s Session) ShimSocket() string { return s.Path(fileShim) }

// StreamSocket is where the stream process listens.
func (s Session) StreamSocket() string { return s.Path(fileStream) }

// Shared is the folder that the instance sees as /run/perigee; data channel
// sockets are made in its "data" folder.
func (s Session) Shared() string { return s.Path(dirShared) }

// InstanceState is what the shim says of its instance.
type InstanceState struct {
	PID      int          `json:"pid"` // the shim's
	Observed api.Observed `json:"observed"`
	Reason   api.Reason   `json:"reason,omitempty"`
	Message  string       `json:"message,omitempty"`
	Display  string       `json:"display"` // ":7"
	XAuth    string       `json:"xauth"`
	Pulse    string       `json:"pulse"` // "unix:/…/pulse.sock"
	Screen   api.Screen   `json:"screen"`
	Restarts int          `json:"restarts,omitempty"` // how often the application was started again
}

// MediaState is what the stream process says of itself. The relay reads
// Candidates: the only addresses a TURN credential of this session may reach.
type MediaState struct {
	PID        int      `json:"pid"`
	Candidates []string `json:"candidates"` // "ip:port", UDP
}

// ReadSpec reads the daemon's part. The error of this and the other reads wraps
// os.ErrNotExist when the file is not there yet.
func (s Session) ReadSpec() (v api.Spec, err error) { return v, s.read(fileSpec, &v) }

// ReadInstance reads the shim's state.
func (s Session) ReadInstance() (v InstanceState, err error) { return v, s.read(fileInstance, &v) }

// ReadMedia reads the stream process's state.
func (s Session) ReadMedia() (v MediaState, err error) { return v, s.read(fileMedia, &v) }

// WriteSpec writes the daemon's part; so that a reader never sees half a file,
// each write replaces the whole.
func (s Session) WriteSpec(v api.Spec) error { return s.write(fileSpec, v) }

// WriteInstance writes the shim's part.
func (s Session) WriteInstance(v InstanceState) error { return s.write(fileInstance, v) }

// WriteMedia writes the stream process's part.
func (s Session) WriteMedia(v MediaState) error { return s.write(fileMedia, v) }

func (s Session) read(name string, v any) error { return readFile(s.Path(name), v) }

func (s Session) write(name string, v any) error { return writeFile(string(s), name, v) }

func readFile(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %s: %w", filepath.Base(path), err)
	}
	return nil
}

func writeFile(dir, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	f, err := os.CreateTemp(dir, "."+name+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
