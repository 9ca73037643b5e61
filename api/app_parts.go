package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Resources bounds one instance. Zero means the default.
type Resources struct {
	CPUMillis int `json:"cpu_millis,omitempty" yaml:"cpu_millis"` // thousandths of a core
	MemoryMiB int `json:"memory_mib,omitempty" yaml:"memory_mib"`
	Processes int `json:"processes,omitempty" yaml:"processes"`
	// DiskMiB bounds what it writes to its home; 0 = half of the memory, in memory.
	DiskMiB int `json:"disk_mib,omitempty" yaml:"disk_mib"`
	// GPUMemoryMiB is what it needs of one graphics processor's memory; with it an
	// instance runs only where that is free.
	GPUMemoryMiB int `json:"gpu_memory_mib,omitempty" yaml:"gpu_memory_mib"`
	// Encoder says which pools may encode its picture; "" = gpu-preferred.
	Encoder EncoderChoice `json:"encoder,omitempty" yaml:"encoder"`
}

// Default and largest resources of an instance.
const (
	DefaultCPUMillis = 2000
	DefaultMemoryMiB = 1024
	DefaultProcesses = 256
	MaxCPUMillis     = 256_000
	MaxMemoryMiB     = 1 << 20
	MaxProcesses     = 1 << 16
	MaxDiskMiB       = 1 << 20
	MaxGPUMemoryMiB  = 1 << 20
	MinDiskMiB       = 8 // less holds no file system
)

// EncoderChoice says which pools may encode an application's picture.
type EncoderChoice string

// Choices of encoder, as AMS names them.
const (
	EncoderGPU          EncoderChoice = "gpu"           // hardware only
	EncoderGPUPreferred EncoderChoice = "gpu-preferred" // hardware where there is room, else software
	EncoderSoftware     EncoderChoice = "software"
)

// Allows says whether a pool may encode.
func (e EncoderChoice) Allows(p Pool) bool {
	switch e {
	case EncoderGPU:
		return p != PoolCPU
	case EncoderSoftware:
		return p == PoolCPU
	default:
		return true
	}
}

// Video is the picture of an application. Zero means the general default or bound.
type Video struct {
	// What a session gets whose client asks for nothing: pixels, frames per second, dpi.
	Width   int `json:"width,omitempty" yaml:"width"`
	Height  int `json:"height,omitempty" yaml:"height"`
	FPS     int `json:"fps,omitempty" yaml:"fps"`
	Density int `json:"density,omitempty" yaml:"density"`
	// Above these a session is refused.
	MaxWidth  int `json:"max_width,omitempty" yaml:"max_width"`
	MaxHeight int `json:"max_height,omitempty" yaml:"max_height"`
	MaxFPS    int `json:"max_fps,omitempty" yaml:"max_fps"`
	// Content says what to keep when bits are short: "detail" (text), "motion"
	// (games), "auto" or "" = what the picture is measured to be.
	Content string `json:"content,omitempty" yaml:"content"`
	// MaxKbps is the ceiling of the picture's bitrate; 0 = by its size and rate.
	MaxKbps int `json:"max_kbps,omitempty" yaml:"max_kbps"`
}

// Contents of a picture.
const (
	ContentAuto   = "auto"
	ContentDetail = "detail"
	ContentMotion = "motion"
)

// NetworkAccess is what an instance may reach.
type NetworkAccess string

// Accesses to the network.
const (
	NetworkNone   NetworkAccess = "none"   // nothing, the default
	NetworkEgress NetworkAccess = "egress" // the internet, but no private range and no metadata address
	NetworkFull   NetworkAccess = "full"   // the host's network
)

// Screen fills what a client leaves open (zero) from the application's defaults
// and refuses what is above its bounds.
func (a App) Screen(s Screen) (Screen, error) {
	v := a.Video
	for _, f := range []struct {
		into *int
		def  int
	}{{&s.Width, v.Width}, {&s.Height, v.Height}, {&s.FPS, v.FPS}, {&s.Density, v.Density}} {
		if *f.into == 0 {
			*f.into = f.def
		}
	}
	asked := s
	s, err := s.Normalize()
	if err != nil {
		return s, err
	}
	for _, f := range []struct {
		name    string
		v, most int
		asked   int
	}{
		{"width", s.Width, v.MaxWidth, asked.Width}, {"height", s.Height, v.MaxHeight, asked.Height}, {"fps", s.FPS, v.MaxFPS, asked.FPS},
	} {
		if f.most > 0 && f.v > f.most && f.asked > f.most {
			return s, Invalidf("screen."+f.name, "the application %s allows at most %d, got %d", a.Name, f.most, f.asked)
		}
	}
	// A general default above the application's bound gives way to it.
	if v.MaxFPS > 0 {
		s.FPS = min(s.FPS, v.MaxFPS)
	}
	return s, nil
}

// checkParts checks every part of an application but its kind and its lists.
func (a App) checkParts() error {
	for _, f := range []struct {
		name       string
		v, lo, max int
		zero       string // what 0 stands for
	}{
		{"resources.disk_mib", a.Resources.DiskMiB, MinDiskMiB, MaxDiskMiB, "half of the memory"},
		{"resources.gpu_memory_mib", a.Resources.GPUMemoryMiB, 1, MaxGPUMemoryMiB, "none"},
		{"video.width", a.Video.Width, minSide, MaxWidth, "the default"},
		{"video.height", a.Video.Height, minSide, MaxHeight, "the default"},
		{"video.fps", a.Video.FPS, 1, MaxFPS, "the default"},
		{"video.density", a.Video.Density, MinDensity, 1 << 16, "the default"},
		{"video.max_width", a.Video.MaxWidth, minSide, MaxWidth, "no bound of its own"},
		{"video.max_height", a.Video.MaxHeight, minSide, MaxHeight, "no bound of its own"},
		{"video.max_fps", a.Video.MaxFPS, 1, MaxFPS, "no bound of its own"},
		{"video.max_kbps", a.Video.MaxKbps, MinKbps, MaxKbps, "a ceiling by size and rate"},
		{"watchdog.hang_s", a.Watchdog.HangS, 1, MaxWatchS, "the default"},
		{"watchdog.draw_s", a.Watchdog.DrawS, 1, MaxWatchS, "the node's time"},
		{"on_exit.max_restarts", a.OnExit.MaxRestarts, 1, MaxRestarts, "the default"},
		{"idle.minutes", a.Idle.Minutes, 1, MaxIdleMinutes, "the default"},
		{"idle.input_minutes", a.Idle.InputMinutes, 1, MaxIdleMinutes, "any time"},
		{"idle.picture_minutes", a.Idle.PictureMinutes, 1, MaxIdleMinutes, "any time"},
	} {
		if f.v != 0 && (f.v < f.lo || f.v > f.max) {
			return Invalidf(f.name, "must be %d to %d, or 0 for %s, got %d", f.lo, f.max, f.zero, f.v)
		}
	}
	if err := a.checkVideo(); err != nil {
		return err
	}
	for _, w := range []struct {
		name, v string
		allowed []string
	}{
		{"resources.encoder", string(a.Resources.Encoder), []string{string(EncoderGPU), string(EncoderGPUPreferred), string(EncoderSoftware)}},
		{"video.content", a.Video.Content, []string{ContentAuto, ContentDetail, ContentMotion}},
		{"permissions.network", string(a.Permissions.Network), []string{string(NetworkNone), string(NetworkEgress), string(NetworkFull)}},
		{"permissions.clipboard", string(a.Permissions.Clipboard), []string{string(ClipboardNone), string(ClipboardIn), string(ClipboardOut), string(ClipboardBoth)}},
		{"permissions.files", string(a.Permissions.Files), []string{string(FilesNone), string(FilesUp), string(FilesDown), string(FilesBoth)}},
		{"permissions.gamepads", string(a.Permissions.Gamepads), []string{string(GamepadsNone), string(GamepadsAllow)}},
		{"on_exit.restart", string(a.OnExit.Restart), []string{string(RestartNever), string(RestartOnFailure), string(RestartAlways)}},
	} {
		if w.v != "" && !slices.Contains(w.allowed, w.v) {
			return Invalidf(w.name, "%q is not known; use %s", w.v, strings.Join(w.allowed, ", "))
		}
	}
	if a.Kind == AppExternal && a.Hooks != (Hooks{}) {
		return Invalidf("hooks", "an external application runs elsewhere: leave the hooks out")
	}
	if err := a.Hooks.check(); err != nil {
		return err
	}
	if len(a.ExtraData) > MaxExtraData || len(a.ExtraData) > 0 && !json.Valid(a.ExtraData) {
		return Invalidf("extra_data", "must be JSON of at most %d bytes, got %d", MaxExtraData, len(a.ExtraData))
	}
	if len(a.Labels) > MaxLabels {
		return Invalidf("labels", "at most %d, got %d", MaxLabels, len(a.Labels))
	}
	for _, k := range slices.Sorted(maps.Keys(a.Labels)) {
		if why := labelFault(k, a.Labels[k]); why != "" {
			return Invalidf("labels", "%q=%q: %s", k, a.Labels[k], why)
		}
	}
	return nil
}

func (a App) checkVideo() error {
	v := a.Video
	if (v.Width == 0) != (v.Height == 0) {
		return Invalidf("video.width", "needs width and height together")
	}
	for _, f := range []struct {
		name    string
		v, most int
	}{{"width", v.Width, v.MaxWidth}, {"height", v.Height, v.MaxHeight}, {"fps", v.FPS, v.MaxFPS}} {
		if f.most > 0 && f.v > f.most {
			return Invalidf("video."+f.name, "is above video.max_%s, %d: raise that or lower this, %d", f.name, f.most, f.v)
		}
	}
	// Without a default of its own the general one must fit.
	if v.Width == 0 && (v.MaxWidth > 0 && v.MaxWidth < DefaultWidth || v.MaxHeight > 0 && v.MaxHeight < DefaultHeight) {
		return Invalidf("video.max_width", "is below the general default of %dx%d: give video.width and video.height too", DefaultWidth, DefaultHeight)
	}
	return nil
}

func (h Hooks) check() error {
	for _, x := range []struct {
		name string
		hook *Hook
	}{{"pre_start", h.PreStart}, {"post_start", h.PostStart}, {"post_stop", h.PostStop}} {
		if x.hook == nil {
			continue
		}
		field := "hooks." + x.name
		if len(x.hook.Command) == 0 || x.hook.Command[0] == "" {
			return Invalidf(field+".command", "is missing: give the command to run, for example [sh, -c, \"…\"]")
		}
		if err := checkArgs(field+".command", x.hook.Command); err != nil {
			return err
		}
		if x.hook.TimeoutS < 0 || x.hook.TimeoutS > MaxHookS {
			return Invalidf(field+".timeout_s", "must be 1 to %d seconds, or 0 for %d, got %d", MaxHookS, DefaultHookS, x.hook.TimeoutS)
		}
	}
	return nil
}

func checkArgs(field string, args []string) error {
	if len(args) > maxArgs {
		return Invalidf(field, "at most %d arguments, got %d", maxArgs, len(args))
	}
	for _, arg := range args {
		if len(arg) > maxArg || strings.ContainsRune(arg, 0) {
			return Invalidf(field, "an argument is over %d bytes or holds a zero byte", maxArg)
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

// AppVersionInfo is one version in the catalogue.
type AppVersionInfo struct {
	Version   int  `json:"version"`
	Published bool `json:"published"`
	App       App  `json:"app"`
}

// AppRecord is an application with all its versions, oldest first.
type AppRecord struct {
	Name     string           `json:"name"`
	Default  int              `json:"default"` // the last published version; 0 = none is published
	Versions []AppVersionInfo `json:"versions"`
}

// Version finds a version; 0 and -1 are the default one, or the newest where
// none is published.
func (r AppRecord) Version(n int) (AppVersionInfo, error) {
	if n <= 0 {
		n = r.Default
		if n == 0 && len(r.Versions) > 0 {
			n = r.Versions[len(r.Versions)-1].Version
		}
	}
	for _, v := range r.Versions {
		if v.Version == n {
			return v, nil
		}
	}
	return AppVersionInfo{}, Errorf(CodeNotFound, "application %q has no version %s", r.Name, fmt.Sprint(n))
}
