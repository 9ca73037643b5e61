package api

import (
	"encoding/json"
	"path"
	"strings"
)

// RoleEnter marks the links of those who enter an instance: they end at its
// shim, not at its stream. No ticket carries it.
const RoleEnter Role = "enter"

// EnterOp is what one who enters an instance does there.
type EnterOp string

// What may be done in an instance.
const (
	EnterExec EnterOp = "exec" // run a command beside the application
	EnterPush EnterOp = "push" // write a file
	EnterPull EnterOp = "pull" // read a file
)

// Channels of an entered instance's frames: the first byte of a frame that is
// not a control message in JSON, which begins with a brace.
const (
	EnterInput  byte = 0 // towards the instance: a command's input, a file's content
	EnterOutput byte = 1 // a command's output, a file's content
	EnterErrors byte = 2 // a command's standard error; a terminal has none
)

// Bounds of entering.
const (
	// EnterPiece is how much of a file or of input goes into one frame, in bytes.
	EnterPiece = 64 << 10
	// MaxInstanceFile bounds one file that goes into or out of an instance, in bytes.
	MaxInstanceFile = 4 << 30
	maxTerminal     = 4096
)

// EnterRequest is the first frame of a link of RoleEnter.
type EnterRequest struct {
	Op          EnterOp           `json:"op,omitempty"`
	Command     []string          `json:"command,omitempty"` // to run: argv
	Environment map[string]string `json:"environment,omitempty"`
	Dir         string            `json:"cwd,omitempty"`         // absolute; "" = the application's
	Interactive bool              `json:"interactive,omitempty"` // in a terminal
	Width       int               `json:"width,omitempty"`       // of the terminal, characters; 0 = 80
	Height      int               `json:"height,omitempty"`      // 0 = 24
	Path        string            `json:"path,omitempty"`        // of a file: absolute, or from the home on
	Mode        uint32            `json:"mode,omitempty"`        // of a file that is written; 0 = 0644
	Size        int64             `json:"size,omitempty"`        // of a file that is written, bytes; negative = not known
}

// Kinds of an EnterControl.
const (
	EnterResize  = "resize"  // to the instance: the terminal has this size now
	EnterEnd     = "end"     // to the instance: the input is over
	EnterPing    = "ping"    // to the instance: somebody is still there
	EnterStarted = "started" // from it: the command runs, or the file is open
	EnterEnded   = "ended"   // from it, last: how it ended
)

// EnterControl is a control message of an entered instance.
type EnterControl struct {
	Type   string `json:"type"`
	Width  int    `json:"width,omitempty"`  // resize
	Height int    `json:"height,omitempty"` // resize
	Size   int64  `json:"size,omitempty"`   // of a file, bytes: with started and ended
	Mode   uint32 `json:"mode,omitempty"`   // of a file: with started
	// Exit is the command's status, 128 and more where a signal ended it, 127
	// where there is no such command; only with ended.
	Exit int `json:"exit"`
	// Code, Field and Message say what went wrong; with ended.
	Code    Code   `json:"code,omitempty"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message,omitempty"`
}

// Frame writes a control message.
func (c EnterControl) Frame() []byte {
	b, _ := json.Marshal(c) // plain fields: cannot fail
	return b
}

// Err is what went wrong; nil when nothing did.
func (c EnterControl) Err() error {
	if c.Code == "" {
		return nil
	}
	return &Error{Code: c.Code, Field: c.Field, Message: c.Message}
}

// EnterFailed is the last message of one that went wrong.
func EnterFailed(err error) EnterControl {
	c := EnterControl{Type: EnterEnded, Code: CodeOf(err), Message: err.Error(), Exit: -1}
	if e, ok := err.(*Error); ok { //nolint:errorlint // only its own words are split
		c.Field, c.Message = e.Field, e.Message
	}
	return c
}

// ParseEnterControl reads a control message; ok is false for a frame of data.
func ParseEnterControl(frame []byte) (c EnterControl, ok bool) {
	return c, len(frame) > 0 && frame[0] == '{' && json.Unmarshal(frame, &c) == nil
}

// Normalize fills the defaults and checks what one who enters asks for.
func (r EnterRequest) Normalize() (EnterRequest, error) {
	switch r.Op {
	case EnterExec:
		return r.normalizeExec()
	case EnterPush, EnterPull:
	default:
		return r, Invalidf("op", "%q is not something to do in an instance: it is exec, push or pull", r.Op)
	}
	if r.Path == "" {
		return r, Invalidf("path", "is missing: name the file in the instance, for example /home/app/notes.txt")
	}
	if len(r.Path) > maxArg || strings.ContainsRune(r.Path, 0) {
		return r, Invalidf("path", "is no path: at most %d bytes without zeroes", maxArg)
	}
	if strings.HasSuffix(r.Path, "/") {
		return r, Invalidf("path", "%q is a folder: name the file in it", r.Path)
	}
	if r.Mode == 0 {
		r.Mode = 0o644
	}
	if r.Mode&^0o777 != 0 {
		return r, Invalidf("mode", "%o is not a file's mode: 0 to 777, in octal", r.Mode)
	}
	if r.Size > MaxInstanceFile {
		return r, tooBigFile()
	}
	return r, nil
}

func tooBigFile() error {
	return Errorf(CodeTooLarge, "the file is over %d GiB, the most that goes into or out of an instance at once", MaxInstanceFile>>30)
}

func (r EnterRequest) normalizeExec() (EnterRequest, error) {
	if len(r.Command) == 0 || r.Command[0] == "" {
		return r, Invalidf("command", "is missing: name what to run, for example [\"sh\"]")
	}
	if err := checkArgs("command", r.Command); err != nil {
		return r, err
	}
	if len(r.Environment) > maxEnv {
		return r, Invalidf("environment", "at most %d variables, got %d", maxEnv, len(r.Environment))
	}
	for k, v := range r.Environment {
		if !isVariable(k) {
			return r, Invalidf("environment", "%q is no variable's name: use letters, digits and underscores, and no digit first", k)
		}
		if strings.ContainsRune(v, 0) || len(v) > maxArg {
			return r, Invalidf("environment", "the value of %q is not usable: at most %d bytes without zeroes", k, maxArg)
		}
	}
	if r.Dir != "" && (!path.IsAbs(r.Dir) || strings.ContainsRune(r.Dir, 0)) {
		return r, Invalidf("cwd", "%q must be an absolute path in the instance", r.Dir)
	}
	if r.Width == 0 {
		r.Width = 80
	}
	if r.Height == 0 {
		r.Height = 24
	}
	return r, CheckTerminal(r.Width, r.Height)
}

// isVariable says whether a name is one that every shell can read.
func isVariable(name string) bool {
	for i, c := range []byte(name) {
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != "" && len(name) <= maxArg
}

// CheckTerminal checks a terminal's size in characters.
func CheckTerminal(width, height int) error {
	if width < 1 || height < 1 || width > maxTerminal || height > maxTerminal {
		return Invalidf("width", "a terminal of %dx%d cannot be: 1 to %d characters each way", width, height, maxTerminal)
	}
	return nil
}

// FileView says what is of a file in an instance.
type FileView struct {
	Path string `json:"path"`
	Size int64  `json:"size"` // bytes
	Mode string `json:"mode"` // octal
}
