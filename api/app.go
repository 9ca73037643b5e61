package api

import (
	"encoding/json"
	"path"
	"regexp"
	"slices"
	"strings"
)

// AppKind says who runs an application.
type AppKind string

// The kinds of application.
const (
	AppProgram   AppKind = "program"   // a program of the edge's host, in a sandbox
	AppContainer AppKind = "container" // an OCI image
	AppExternal  AppKind = "external"  // somebody else's provider on the master websocket
)

// App is one version of an application that can be streamed: what an operator's
// manifest says. Fields are only ever added: older replicas and edges read it.
type App struct {
	Name    string            `json:"name" yaml:"name"`
	Version int               `json:"version" yaml:"version"`
	Title   string            `json:"title,omitempty" yaml:"title"`
	Kind    AppKind           `json:"kind" yaml:"kind"`
	Command []string          `json:"command,omitempty" yaml:"command"` // argv; an absolute path or a name found in PATH
	Env     map[string]string `json:"env,omitempty" yaml:"env"`
	// Image of a container: registry.example.com/game:1.2 or, better, as a tag can
	// change, with its digest: registry.example.com/game@sha256:…. Command, if
	// given, replaces the image's own.
	Image string `json:"image,omitempty" yaml:"image"`
	// Network is the older form of permissions.network: full.
	Network   bool      `json:"network,omitempty" yaml:"network"`
	Resources Resources `json:"resources" yaml:"resources"`
	Video     Video     `json:"video,omitzero" yaml:"video"`
	// Codecs the application may be streamed in, preferred first; empty means all.
	Codecs []Codec `json:"codecs,omitempty" yaml:"codecs"`
	// ReadOnly lists host paths shown read-only in the sandbox beside /usr.
	ReadOnly []string `json:"read_only,omitempty" yaml:"read_only"`
	// Restart lets a session be started anew on another node when its own is lost;
	// what the instance held in memory and on its disk is gone then.
	Restart     bool        `json:"restart,omitempty" yaml:"restart"`
	Permissions Permissions `json:"permissions,omitzero" yaml:"permissions"`
	Hooks       Hooks       `json:"hooks,omitzero" yaml:"hooks"`
	Watchdog    Watchdog    `json:"watchdog,omitzero" yaml:"watchdog"`
	OnExit      OnExit      `json:"on_exit,omitzero" yaml:"on_exit"`
	Idle        IdlePolicy  `json:"idle,omitzero" yaml:"idle"`
	// Placement says where sessions may run; nil = the nearest node with room.
	Placement *PlacementPolicy `json:"placement,omitempty" yaml:"placement"`
	// Labels are the operator's own, for finding and grouping applications.
	Labels map[string]string `json:"labels,omitempty" yaml:"labels"`
	// ExtraData is handed to sessions whose client gives none: any JSON.
	ExtraData json.RawMessage `json:"extra_data,omitempty" yaml:"-"`
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
	if err := a.checkKind(); err != nil {
		return a, err
	}
	if a.Network && a.Permissions.Network == "" {
		a.Permissions.Network = NetworkFull
	}
	// Edges of before know only this one.
	a.Network = a.Permissions.Network == NetworkFull
	if err := a.checkParts(); err != nil {
		return a, err
	}
	if err := a.checkLists(); err != nil {
		return a, err
	}
	return a.withResources()
}

func (a App) checkLists() error {
	if err := checkArgs("command", a.Command); err != nil {
		return err
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

// checkKind checks what each kind needs and may not have.
func (a App) checkKind() error {
	runs := len(a.Command) > 0 && a.Command[0] != ""
	switch a.Kind {
	case AppProgram:
		if !runs {
			return Invalidf("command", "a program needs the command to run, for example [\"xterm\"]")
		}
		if a.Image != "" {
			return Invalidf("image", "a program is installed on the node: leave the image out, or use kind container")
		}
	case AppContainer:
		if a.Image == "" {
			return Invalidf("image", "a container needs an image, for example registry.example.com/game@sha256:…")
		}
		if !imageName().MatchString(a.Image) {
			return Invalidf("image", "%q is not an image's name, like registry.example.com/game:1.2 or registry.example.com/game@sha256:<64 hex digits>", a.Image)
		}
	case AppExternal:
		if len(a.Command) != 0 {
			return Invalidf("command", "an external application runs elsewhere: leave the command out")
		}
		if a.Image != "" {
			return Invalidf("image", "an external application runs elsewhere: leave the image out")
		}
	default:
		return Invalidf("kind", "%q is not a kind; use program, container or external", a.Kind)
	}
	return nil
}

// imageName is a repository with a tag, a digest or both, as the OCI
// distribution specification writes them.
func imageName() *regexp.Regexp {
	return regexp.MustCompile(`^[a-z0-9][a-zA-Z0-9._-]*(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
}

// LabelContainers is the mark of nodes that run containers: they bear it
// themselves, and containers are placed on no others.
const LabelContainers = "perigee/containers=yes"

// Policy is where sessions of the application may run: what its manifest says,
// and what its kind needs. Nil is anywhere.
func (a App) Policy() *PlacementPolicy {
	if a.Kind != AppContainer {
		return a.Placement
	}
	var p PlacementPolicy
	if a.Placement != nil {
		p = *a.Placement
	}
	p.Labels.Required = append(slices.Clip(p.Labels.Required), LabelContainers)
	return &p
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
