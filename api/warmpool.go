package api

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// WarmPool says how many instances of an application are kept started in a
// region for sessions to come, with Amazon GameLift Streams' three counts
// (LocationConfiguration of its API reference): what is started, sessions and
// idle instances together, is always_on, or as many as there are sessions and
// target_idle more, and never above maximum.
type WarmPool struct {
	App    string `json:"app"`
	Region string `json:"region"`
	// AlwaysOn are started whatever the demand, TargetIdle beyond the sessions
	// that run.
	AlwaysOn   int `json:"always_on"`
	TargetIdle int `json:"target_idle"`
	// Maximum of sessions and idle instances together up to which the pool starts
	// some; 0 = as many as there is room for. Sessions beyond it start cold.
	Maximum int `json:"max,omitempty"`
	// WithinMS is how much farther than the nearest node with room the node of a
	// started instance may be; 0 = DefaultWarmMS.
	WithinMS float64 `json:"within_ms,omitempty"`
	// TimeZone of the schedule, an IANA name; "" = UTC.
	TimeZone string `json:"time_zone,omitempty"`
	// Schedule replaces both counts within its windows; the first that fits holds.
	Schedule []PoolWindow `json:"schedule,omitempty"`
}

// PoolWindow is a part of each day, or of some, with counts of its own: of zero
// in both the pool drains.
type PoolWindow struct {
	Days       []string `json:"days,omitempty"` // "mon" to "sun", on which it begins; none = every day
	From       string   `json:"from"`           // "22:00"
	To         string   `json:"to"`             // "07:00" is of the next day; the same as From is a whole day
	AlwaysOn   int      `json:"always_on"`
	TargetIdle int      `json:"target_idle"`
}

// Bounds of a pool.
const (
	DefaultWarmMS  = 10
	maxWarm        = 1000
	maxPoolSize    = 100_000
	maxPoolWindows = 16
)

// WarmPoolState is a pool as it is now.
type WarmPoolState struct {
	WarmPool
	Wanted   int    `json:"wanted"`   // idle instances by the counts that hold now
	Ready    int    `json:"ready"`    // started and idle
	Starting int    `json:"starting"` // not running yet
	Sessions int    `json:"sessions"` // of the application in the region
	Message  string `json:"message,omitempty"`
}

// LabelWarm is the mark of nodes that hand a started instance to a session: they
// bear it themselves, and pools start instances on no others.
const LabelWarm = "perigee/warm=yes"

// Normalize checks a pool as an operator gives it. Whether the time zone is known
// the schedulers say.
func (p WarmPool) Normalize() (WarmPool, error) {
	if err := ValidAppName(p.App); err != nil {
		return p, err
	}
	if !ValidID(p.Region) {
		return p, Invalidf("region", "%q must be a region's name: 1 to 64 characters of [a-zA-Z0-9-_:]", p.Region)
	}
	if err := checkCounts("", p.AlwaysOn, p.TargetIdle); err != nil {
		return p, err
	}
	switch {
	case p.Maximum < 0 || p.Maximum > maxPoolSize:
		return p, Invalidf("max", "must be 0 (no bound) to %d, got %d", maxPoolSize, p.Maximum)
	case p.Maximum > 0 && p.Maximum < p.AlwaysOn:
		return p, Invalidf("max", "%d is below always_on, %d: raise it", p.Maximum, p.AlwaysOn)
	case !(p.WithinMS >= 0 && p.WithinMS <= MaxPolicyMS): // a NaN is neither
		return p, Invalidf("within_ms", "must be 0 to %d, got %v", MaxPolicyMS, p.WithinMS)
	case len(p.Schedule) > maxPoolWindows:
		return p, Invalidf("schedule", "at most %d windows, got %d", maxPoolWindows, len(p.Schedule))
	}
	for i, w := range p.Schedule {
		if err := w.check(fmt.Sprintf("schedule[%d]", i)); err != nil {
			return p, err
		}
	}
	return p, nil
}

func checkCounts(under string, alwaysOn, targetIdle int) error {
	for _, f := range []struct {
		name string
		v    int
	}{{"always_on", alwaysOn}, {"target_idle", targetIdle}} {
		if f.v < 0 || f.v > maxWarm {
			return Invalidf(under+f.name, "must be 0 to %d, got %d", maxWarm, f.v)
		}
	}
	return nil
}

func (w PoolWindow) check(field string) error {
	for _, d := range w.Days {
		if !slices.Contains(weekdays(), d) {
			return Invalidf(field+".days", "%q is no day; use %s", d, strings.Join(weekdays(), ", "))
		}
	}
	for _, f := range []struct{ name, v string }{{".from", w.From}, {".to", w.To}} {
		if _, ok := minuteOf(f.v); !ok {
			return Invalidf(field+f.name, "%q must be a time of day as HH:MM, 00:00 to 23:59", f.v)
		}
	}
	return checkCounts(field+".", w.AlwaysOn, w.TargetIdle)
}

// weekdays in the order of time.Weekday.
func weekdays() []string { return []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} }

// minuteOf reads a time of day as minutes since midnight.
func minuteOf(s string) (int, bool) {
	t, err := time.Parse("15:04", s)
	return t.Hour()*60 + t.Minute(), err == nil && len(s) == len("15:04")
}

// holds says whether a local time lies in the window.
func (w PoolWindow) holds(at time.Time) bool {
	from, _ := minuteOf(w.From)
	to, _ := minuteOf(w.To)
	now, day := at.Hour()*60+at.Minute(), int(at.Weekday())
	on := func(day int) bool { return len(w.Days) == 0 || slices.Contains(w.Days, weekdays()[day]) }
	if from < to {
		return now >= from && now < to && on(day)
	}
	return now >= from && on(day) || now < to && on((day+6)%7) // begun the day before
}

// Wanted is how many idle instances the pool is to have at a local time beside
// so many sessions.
func (p WarmPool) Wanted(sessions int, at time.Time) int {
	on, idle := p.AlwaysOn, p.TargetIdle
	for _, w := range p.Schedule {
		if w.holds(at) {
			on, idle = w.AlwaysOn, w.TargetIdle
			break
		}
	}
	total := max(on, sessions+idle)
	if p.Maximum > 0 {
		total = min(total, p.Maximum)
	}
	return min(max(total-sessions, 0), maxWarm)
}

// Within is how many ms farther than the nearest node with room an instance may be.
func (p WarmPool) Within() float64 {
	if p.WithinMS > 0 {
		return p.WithinMS
	}
	return DefaultWarmMS
}

// ParsePoolWindow reads a window as the command line gives it:
// "mon-fri 22:00-07:00 always-on=1 target-idle=0"; counts left out are 0, days
// left out are all.
func ParsePoolWindow(s string) (PoolWindow, error) {
	var w PoolWindow
	for _, f := range strings.Fields(s) {
		key, count, counts := strings.Cut(f, "=")
		from, to, span := strings.Cut(f, "-")
		switch {
		case counts:
			at := map[string]*int{"always-on": &w.AlwaysOn, "target-idle": &w.TargetIdle}[key]
			if at == nil {
				return w, Invalidf("schedule", "%q: counts are always-on=N and target-idle=N", f)
			}
			n, err := strconv.Atoi(count)
			if err != nil {
				return w, Invalidf("schedule", "%s: %q is no whole number: use %s=N", key, count, key)
			}
			*at = n
		case strings.Contains(f, ":"):
			if !span {
				return w, Invalidf("schedule", "%q must be HH:MM-HH:MM", f)
			}
			w.From, w.To = from, to
		default:
			for part := range strings.SplitSeq(f, ",") {
				days, err := daysOf(part)
				if err != nil {
					return w, err
				}
				w.Days = append(w.Days, days...)
			}
		}
	}
	return w, w.check("schedule")
}

// daysOf reads "mon" or "mon-fri".
func daysOf(s string) ([]string, error) {
	first, last, span := strings.Cut(s, "-")
	if !span {
		last = first
	}
	from, to := slices.Index(weekdays(), first), slices.Index(weekdays(), last)
	if from < 0 || to < 0 {
		return nil, Invalidf("schedule", "%q: days are %s, or a span as mon-fri", s, strings.Join(weekdays(), ", "))
	}
	var out []string
	for d := from; ; d = (d + 1) % 7 {
		out = append(out, weekdays()[d])
		if d == to {
			return out, nil
		}
	}
}
