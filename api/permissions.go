package api

// Permissions are what an instance may use beside its screen and sound, and
// what a session's own client may exchange with it.
type Permissions struct {
	Network NetworkAccess `json:"network,omitempty" yaml:"network"`
	// Clipboard, Files and Gamepads are allowed where the manifest says nothing.
	Clipboard ClipboardAccess `json:"clipboard,omitempty" yaml:"clipboard"`
	Files     FilesAccess     `json:"files,omitempty" yaml:"files"`
	Gamepads  GamepadAccess   `json:"gamepads,omitempty" yaml:"gamepads"`
	// Microphone gives the instance a sound source that carries what the client
	// says; without it there is none, and no client is asked for it.
	Microphone bool `json:"microphone,omitempty" yaml:"microphone"`
}

// ClipboardAccess says which way text and pictures are copied.
type ClipboardAccess string

// Ways of the clipboard.
const (
	ClipboardNone ClipboardAccess = "none"
	ClipboardIn   ClipboardAccess = "in"   // from the viewer to the application
	ClipboardOut  ClipboardAccess = "out"  // from the application to the viewer
	ClipboardBoth ClipboardAccess = "both" // the default
)

// In says whether the viewer's clipboard may reach the application.
func (c ClipboardAccess) In() bool { return c == "" || c == ClipboardBoth || c == ClipboardIn }

// Out says whether what the application copies may reach the viewer.
func (c ClipboardAccess) Out() bool { return c == "" || c == ClipboardBoth || c == ClipboardOut }

// FilesAccess says which way files are sent.
type FilesAccess string

// Ways of files.
const (
	FilesNone FilesAccess = "none"
	FilesUp   FilesAccess = "up"   // from the viewer into ~/Uploads
	FilesDown FilesAccess = "down" // from ~/Downloads to the viewer
	FilesBoth FilesAccess = "both" // the default
)

// Up says whether the viewer may send files.
func (f FilesAccess) Up() bool { return f == "" || f == FilesBoth || f == FilesUp }

// Down says whether the viewer may fetch files.
func (f FilesAccess) Down() bool { return f == "" || f == FilesBoth || f == FilesDown }

// GamepadAccess says whether the viewer's gamepads reach the application.
type GamepadAccess string

// Accesses of gamepads.
const (
	GamepadsNone  GamepadAccess = "none"
	GamepadsAllow GamepadAccess = "allow" // the default
)

// Allowed says whether gamepads reach the application.
func (g GamepadAccess) Allowed() bool { return g == "" || g == GamepadsAllow }
