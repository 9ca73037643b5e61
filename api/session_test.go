package api

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestStatusTable(t *testing.T) {
	want := map[Desired]map[Observed]Status{
		DesiredRun: {
			ObservedNone: StatusCreated, ObservedStarting: StatusCreated, ObservedRunning: StatusActive,
			ObservedStopped: StatusTerminated, ObservedFailed: StatusError, ObservedLost: StatusError,
		},
		DesiredStop: {
			ObservedNone: StatusTerminating, ObservedStarting: StatusTerminating, ObservedRunning: StatusTerminating,
			ObservedStopped: StatusTerminated, ObservedFailed: StatusError, ObservedLost: StatusTerminating,
		},
	}
	for d, row := range want {
		for o, s := range row {
			if got := StatusOf(d, o); got != s {
				t.Errorf("StatusOf(%q, %q) = %q, want %q", d, o, got, s)
			}
		}
	}
}

func TestNextNeverRevivesAnEndedInstance(t *testing.T) {
	all := []Observed{ObservedNone, ObservedStarting, ObservedRunning, ObservedStopped, ObservedFailed, ObservedLost}
	for _, from := range all {
		for _, to := range all {
			got := Next(from, to)
			if Final(from) && got {
				t.Errorf("%q may be followed by %q", from, to)
			}
			if to == ObservedNone && got {
				t.Errorf("%q may be followed by nothing heard", from)
			}
		}
	}
	if !Next(ObservedLost, ObservedRunning) {
		t.Error("a lost session may not come back")
	}
	if Next(ObservedRunning, ObservedStarting) {
		t.Error("a running session may start again within its generation")
	}
}

func TestOverdue(t *testing.T) {
	t0 := time.Unix(1_000_000, 0)
	min := func(n int) time.Time { return t0.Add(time.Duration(n) * time.Minute) }
	viewed := Session{Desired: DesiredRun, Observed: ObservedRunning, CreatedAt: t0, ViewerAt: min(1)}
	with := func(f func(*Session)) Session { s := viewed; f(&s); return s }
	for _, c := range []struct {
		name string
		s    Session
		now  time.Time
		want Reason
	}{
		{"never connected, early", Session{CreatedAt: t0}, min(4), ""},
		{"never connected", Session{CreatedAt: t0}, min(5), ReasonNeverConnected},
		{"connected", with(func(s *Session) { s.Connected = true }), min(500), ""},
		{"client left, not joinable", viewed, min(1), ReasonClientLeft},
		{"joinable, no idle time", with(func(s *Session) { s.Joinable = true; s.IdleMinutes = IdleUnset }), min(30), ""},
		{"joinable, half an hour", with(func(s *Session) { s.Joinable = true; s.IdleMinutes = IdleUnset }), min(31), ReasonIdle},
		{"joinable, 2 minutes", with(func(s *Session) { s.Joinable = true; s.IdleMinutes = 2 }), min(3), ReasonIdle},
		{"joinable for ever", with(func(s *Session) { s.Joinable = true }), min(5000), ""},
		{"being stopped", with(func(s *Session) { s.Desired = DesiredStop }), min(5000), ""},
	} {
		got, ok := c.s.Overdue(c.now)
		if !ok {
			got = ""
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestCreateRequestNamesTheField(t *testing.T) {
	ok := CreateRequest{App: "xterm", IdleMinutes: IdleUnset}
	for field, r := range map[string]CreateRequest{
		"app":                     {},
		"app_version":             {App: "a", AppVersion: -2},
		"idle_time_min":           {App: "a", IdleMinutes: -3},
		"region":                  {App: "a", Region: strings.Repeat("r", 65)},
		"screen.width":            {App: "a", Screen: Screen{Width: 3841}},
		"screen.height":           {App: "a", Screen: Screen{Height: -1}},
		"screen.fps":              {App: "a", Screen: Screen{FPS: 241}},
		"screen.density":          {App: "a", Screen: Screen{Density: 71}},
		"extra_data":              {App: "a", ExtraData: []byte(strings.Repeat("1", MaxExtraData+1))},
		"perigee.idempotency_key": {App: "a", IdempotencyKey: strings.Repeat("k", 65)},
		"codec":                   {App: "a", Codecs: []Codec{"MPEG2"}},
	} {
		_, err := r.Normalize()
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeInvalid || e.Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
	for _, key := range []string{"\x00c25k8fh3pn6a8q46taug", "a\nb", "a\x7f", "\u0085"} {
		_, err := CreateRequest{App: "a", IdempotencyKey: key}.Normalize()
		var e *Error
		if !errors.As(err, &e) || e.Field != "perigee.idempotency_key" || !strings.Contains(e.Message, "control") {
			t.Errorf("the key %q: %v", key, err)
		}
	}
	ok.IdempotencyKey = "8c2f-Zürich: 1"
	got, err := ok.Normalize()
	if err != nil {
		t.Fatal(err)
	}
	if want := (Screen{1280, 720, 60, 240}); got.Screen != want {
		t.Errorf("default screen %v, want %v", got.Screen, want)
	}
}

func TestScreenRoundsOddSizesUp(t *testing.T) {
	got, err := Screen{Width: 641, Height: 361, FPS: 30, Density: 100}.Normalize()
	if err != nil || got.Width != 642 || got.Height != 362 {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err = (Screen{Width: 1, Height: 1}).Normalize(); err != nil || got.Width != 16 || got.Height != 16 {
		t.Errorf("smallest: got %v, %v", got, err)
	}
}

func TestCost(t *testing.T) {
	hd30 := Screen{Width: 1280, Height: 720, FPS: 30}
	if got := Cost(PoolCPU, H264, hd30); got != 108_000 {
		t.Errorf("720p30 costs %d macroblocks per second, want 108,000", got)
	}
	for _, c := range SoftwareCodecs()[1:] {
		if Cost(PoolCPU, c, hd30) <= Cost(PoolCPU, H264, hd30) {
			t.Errorf("%s costs no more than H264 in software", c)
		}
	}
	if Macroblocks(1920, 1080, 1) != 120*68 {
		t.Error("1080 lines are not rounded up to 68 macroblocks")
	}
}

func TestAppNormalize(t *testing.T) {
	for field, a := range map[string]App{
		"app":                  {Command: []string{"x"}},
		"command":              {Name: "a"},
		"kind":                 {Name: "a", Kind: "vm"},
		"env":                  {Name: "a", Command: []string{"x"}, Env: map[string]string{"A=B": ""}},
		"read_only":            {Name: "a", Command: []string{"x"}, ReadOnly: []string{"../etc"}},
		"resources.memory_mib": {Name: "a", Command: []string{"x"}, Resources: Resources{MemoryMiB: -1}},
	} {
		_, err := a.Normalize()
		var e *Error
		if !errors.As(err, &e) || e.Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
	a, err := App{Name: "a.b-c_9", Command: []string{"xterm"}}.Normalize()
	if err != nil || a.Kind != AppProgram || a.Resources.CPUMillis != DefaultCPUMillis {
		t.Errorf("got %+v, %v", a, err)
	}
}

func TestIDs(t *testing.T) {
	id := NewSessionID([SessionIDBytes]byte{1, 2, 3})
	if len(id) != 20 || !ValidID(string(id)) {
		t.Errorf("session id %q", id)
	}
	if n := NodeIDFromKey([]byte("key")); len(n) != 16 || !ValidID(string(n)) {
		t.Errorf("node id %q", n)
	}
	for _, bad := range []string{"", "a/b", "a b", "ä", strings.Repeat("a", 65)} {
		if ValidID(bad) {
			t.Errorf("%q passes as an id", bad)
		}
	}
}
