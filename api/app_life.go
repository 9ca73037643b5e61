package api

import "time"

// Hooks are commands that run in the instance's sandbox around the application.
type Hooks struct {
	// PreStart must end well before the application starts.
	PreStart *Hook `json:"pre_start,omitempty" yaml:"pre_start"`
	// PostStart runs once the application does; the instance counts as running after it.
	PostStart *Hook `json:"post_start,omitempty" yaml:"post_start"`
	// PostStop runs when the application has ended; how it ends changes nothing.
	PostStop *Hook `json:"post_stop,omitempty" yaml:"post_stop"`
}

// Hook is one command with its time.
type Hook struct {
	Command  []string `json:"command" yaml:"command"`
	TimeoutS int      `json:"timeout_s,omitempty" yaml:"timeout_s"` // 0 = DefaultHookS
}

// Times of hooks in seconds, as AMS has them.
const (
	DefaultHookS = 300
	MaxHookS     = 900
)

// StartTime is what the hooks before an instance counts as running may take.
func (h Hooks) StartTime() time.Duration {
	var t time.Duration
	for _, x := range []*Hook{h.PreStart, h.PostStart} {
		if x != nil {
			t += x.Timeout()
		}
	}
	return t
}

// StopTime is what the hook after the end may take.
func (h Hooks) StopTime() time.Duration {
	if h.PostStop == nil {
		return 0
	}
	return h.PostStop.Timeout()
}

// Timeout is the hook's time.
func (h *Hook) Timeout() time.Duration {
	if h.TimeoutS == 0 {
		return DefaultHookS * time.Second
	}
	return time.Duration(h.TimeoutS) * time.Second
}

// Watchdog ends an instance that does nothing any more. Crashes are dealt with
// by OnExit.
type Watchdog struct {
	Off bool `json:"off,omitempty" yaml:"off"`
	// HangS ends an application whose window has not answered the window
	// manager's ping (EWMH _NET_WM_PING) for so many seconds; 0 = DefaultHangS.
	// Windows that take no pings are not watched.
	HangS int `json:"hang_s,omitempty" yaml:"hang_s"`
	// DrawS ends one that has drawn nothing so many seconds after a viewer came;
	// 0 = the node's own time.
	DrawS int `json:"draw_s,omitempty" yaml:"draw_s"`
}

// Times of the watchdog in seconds.
const (
	DefaultHangS = 60
	MaxWatchS    = 3600
)

// Hang is the time after which an application counts as hung; 0 = never.
func (w Watchdog) Hang() time.Duration {
	switch {
	case w.Off:
		return 0
	case w.HangS == 0:
		return DefaultHangS * time.Second
	default:
		return time.Duration(w.HangS) * time.Second
	}
}

// OnExit says what follows on the same node when an application ends by itself.
type OnExit struct {
	Restart RestartPolicy `json:"restart,omitempty" yaml:"restart"` // "" = never
	// MaxRestarts of one instance; 0 = DefaultRestarts.
	MaxRestarts int `json:"max_restarts,omitempty" yaml:"max_restarts"`
}

// RestartPolicy is when an application is started again.
type RestartPolicy string

// Policies of restarting.
const (
	RestartNever     RestartPolicy = "never"
	RestartOnFailure RestartPolicy = "on-failure" // a crash, a hang, a status other than 0
	RestartAlways    RestartPolicy = "always"
)

// Numbers of restarts.
const (
	DefaultRestarts = 3
	MaxRestarts     = 1000
)

// Again says whether an application is started once more after n restarts.
func (o OnExit) Again(failed bool, n int) bool {
	most := o.MaxRestarts
	if most == 0 {
		most = DefaultRestarts
	}
	return n < most && (o.Restart == RestartAlways || o.Restart == RestartOnFailure && failed)
}

// IdlePolicy is for sessions whose client says nothing about it.
type IdlePolicy struct {
	// Minutes without a client that end a joinable session; 0 = the general default.
	Minutes int `json:"minutes,omitempty" yaml:"minutes"`
	// Guests who came by a share count as its client: a session goes on while one
	// of them watches. Without it, it is idle once its own client has left.
	Guests bool `json:"guests,omitempty" yaml:"guests"`
	// InputMinutes and PictureMinutes end a session whose client is connected and
	// does nothing: no input for so long and, where both are set, a picture that has
	// not changed for so long either. 0 = that one is not watched; both 0 = never.
	InputMinutes   int `json:"input_minutes,omitempty" yaml:"input_minutes"`
	PictureMinutes int `json:"picture_minutes,omitempty" yaml:"picture_minutes"`
}

// Watches says whether a connected client that does nothing ends a session.
func (p IdlePolicy) Watches() bool { return p.InputMinutes > 0 || p.PictureMinutes > 0 }

// WarnBefore is how long before its end for want of input and change a session's
// pages are warned: a minute, or half of a shorter time.
func (p IdlePolicy) WarnBefore() time.Duration {
	return min(time.Minute, time.Duration(max(p.InputMinutes, p.PictureMinutes))*time.Minute/2)
}
