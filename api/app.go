package api

import (
	"path"
	"strings"
)

// AppKind says who runs an application.
type AppKind string

// The kinds of application.
const (
	AppProgram  AppKind = "program"  // a program of the edge's host, in a sandbox
	AppExternal AppKind = "external" // somebody else's provider on the master websocket
)

// Resources bounds one instance. Zero means the default.
type Resources struct {
	CPUMillis int `json:"cpu_millis,omitempty" yaml:"cpu_millis"` // thousandths of a core
	MemoryMiB int `json:"memory_mib,omitempty" yaml:"memory_mib"`
	Processes int `json:"processes,omitempty" yaml:"processes"`
}

// Default and largest resources of an instance.
const (
	DefaultCPUMillis = 2000
	DefaultMemoryMiB = 1024
	DefaultProcesses = 256
	MaxCPUMillis     = 256_000
	MaxMemoryMiB     = 1 << 20
	MaxProcesses     = 1 << 16
)

// App is an application that can be streamed.
type App struct {
	Name    string            `json:"name" yaml:"name"`
	Version int               `json:"version" yaml:"version"`
	Title   string            `json:"title,omitempty" yaml:"title"`
	Kind    AppKind           `json:"kind" yaml:"kind"`
	Command []string          `json:"command,omitempty" yaml:"command"` // argv; an absolute path or a name found in PATH
	Env     map[string]string `json:"env,omitempty" yaml:"env"`
	// Network gives the instance the host's network; otherwise it has none.
	Network   bool      `json:"network,omitempty" yaml:"network"`
	Resources Resources `json:"resources" yaml:"resources"`
	// Codecs the application may be streamed in, preferred first; empty means all.
	Codecs []Codec `json:"codecs,omitempty" yaml:"codecs"`
	// ReadOnly lists host paths shown read-only in the sandbox beside /usr.
	ReadOnly []string `json:"read_only,omitempty" yaml:"read_only"`
	// Restart lets a session be started anew on another node when its own is lost;
	// what the instance held in memory and on its disk is gone then.
	Restart bool `json:"restart,omitempty" yaml:"restart"`
	// Placement says where sessions may run; nil = the nearest node with room.
	Placement *PlacementPolicy `json:"placement,omitempty" yaml:"placement"`
}

const (
	maxAppName = 255
	maxArgs    = 64
	maxEnv     = 64
	maxArg     = 4096
)

// Normalize fills the defaults and checks an application as an operator gives it.
func (a App) Normalize() (App, error) {
	if err := ValidAppName(a.Name); err != nil {
		return a, err
	}
	if a.Kind == "" {
		a.Kind = AppProgram
	}
	switch a.Kind {
	case AppProgram:
		if len(a.Command) == 0 || a.Command[0] == "" {
			return a, Invalidf("command", "a program needs the command to run, for example [\"xterm\"]")
		}
	case AppExternal:
		if len(a.Command) != 0 {
			return a, Invalidf("command", "an external application runs elsewhere: leave the command out")
		}
	default:
		return a, Invalidf("kind", "%q is not a kind; use program or external", a.Kind)
	}
	if err := a.checkLists(); err != nil {
		return a, err
	}
	return a.withResources()
}

func (a App) checkLists() error {
	if len(a.Command) > maxArgs {
		return Invalidf("command", "at most %d arguments, got %d", maxArgs, len(a.Command))
	}
	for _, arg := range a.Command {
		if len(arg) > maxArg || strings.ContainsRune(arg, 0) {
			return Invalidf("command", "an argument is over %d bytes or holds a zero byte", maxArg)
		}
	}
	if len(a.Env) > maxEnv {
		return Invalidf("env", "at most %d variables, got %d", maxEnv, len(a.Env))
	}
	for k, v := range a.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) || len(v) > maxArg {
			return Invalidf("env", "%q is not a usable variable", k)
		}
	}
	for _, c := range a.Codecs {
		if _, err := ParseCodec(string(c)); err != nil {
			return err
		}
	}
	if a.Placement != nil {
		if err := a.Placement.Check(); err != nil {
			return err
		}
	}
	for _, p := range a.ReadOnly {
		if !path.IsAbs(p) || path.Clean(p) != p {
			return Invalidf("read_only", "%q must be a clean absolute path", p)
		}
	}
	return nil
}

func (a App) withResources() (App, error) {
	r := &a.Resources
	for _, f := range []struct {
		name string
		v    *int
		def  int
		max  int
	}{
		{"resources.cpu_millis", &r.CPUMillis, DefaultCPUMillis, MaxCPUMillis},
		{"resources.memory_mib", &r.MemoryMiB, DefaultMemoryMiB, MaxMemoryMiB},
		{"resources.processes", &r.Processes, DefaultProcesses, MaxProcesses},
	} {
		if *f.v == 0 {
			*f.v = f.def
		}
		if *f.v < 1 || *f.v > f.max {
			return a, Invalidf(f.name, "must be 1 to %d, got %d", f.max, *f.v)
		}
	}
	return a, nil
}

// AllowedCodecs gives the codecs the application may be streamed in.
func (a App) AllowedCodecs() []Codec {
	if len(a.Codecs) == 0 {
		return Codecs()
	}
	return a.Codecs
}

// ValidAppName checks an application's name: 1 to 255 characters of [a-zA-Z0-9._-].
func ValidAppName(s string) error {
	if s == "" {
		return Invalidf("app", "is missing: name the application to run")
	}
	if len(s) > maxAppName {
		return Invalidf("app", "at most %d characters", maxAppName)
	}
	for _, c := range s {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return Invalidf("app", "%q holds %q; use letters, digits, dot, dash and underscore", s, c)
		}
	}
	return nil
}
