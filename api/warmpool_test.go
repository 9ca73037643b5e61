package api

import (
	"strings"
	"testing"
	"time"
)

func TestWarmPoolCounts(t *testing.T) {
	noon := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC) // a Friday
	for _, c := range []struct {
		pool     WarmPool
		sessions int
		want     int
	}{
		{WarmPool{AlwaysOn: 2}, 0, 2},
		{WarmPool{AlwaysOn: 2}, 1, 1},
		{WarmPool{AlwaysOn: 2}, 5, 0},
		{WarmPool{TargetIdle: 1}, 5, 1},
		{WarmPool{AlwaysOn: 2, TargetIdle: 1}, 0, 2},
		{WarmPool{AlwaysOn: 2, TargetIdle: 1}, 2, 1},
		{WarmPool{AlwaysOn: 2, TargetIdle: 1, Maximum: 5}, 4, 1},
		{WarmPool{AlwaysOn: 2, TargetIdle: 1, Maximum: 5}, 5, 0},
		{WarmPool{AlwaysOn: 2, TargetIdle: 1, Maximum: 5}, 9, 0},
		{WarmPool{}, 3, 0},
	} {
		if got := c.pool.Wanted(c.sessions, noon); got != c.want {
			t.Errorf("%+v beside %d sessions wants %d, not %d", c.pool, c.sessions, got, c.want)
		}
	}
}

func TestWarmPoolSchedule(t *testing.T) {
	w, err := ParsePoolWindow("mon-fri 22:00-07:00")
	if err != nil {
		t.Fatal(err)
	}
	p := WarmPool{App: "a", Region: "eu", AlwaysOn: 3, Schedule: []PoolWindow{w, {From: "12:00", To: "13:00", AlwaysOn: 5}, {Days: []string{"sun"}, From: "00:00", To: "00:00"}}}
	if _, err := p.Normalize(); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]int{
		"Fri 21:59": 3, "Fri 22:00": 0, "Fri 23:59": 0, "Sat 00:00": 0, "Sat 06:59": 0, "Sat 07:00": 3,
		"Sat 22:00": 3, "Sun 06:00": 0, "Sun 12:30": 5, "Sun 23:59": 0, "Mon 06:59": 3, "Mon 12:00": 5, "Mon 13:00": 3, "Mon 22:00": 0, "Tue 03:00": 0,
	} {
		day := time.Date(2026, 11, 15, 0, 0, 0, 0, time.UTC) // a Sunday
		for day.Format("Mon") != at[:3] {
			day = day.AddDate(0, 0, 1)
		}
		minute, _ := minuteOf(at[4:])
		if got := p.Wanted(0, day.Add(time.Duration(minute)*time.Minute)); got != want {
			t.Errorf("%s: wants %d, not %d", at, got, want)
		}
	}
}

func TestWarmPoolRefuses(t *testing.T) {
	good := WarmPool{App: "a", Region: "eu", AlwaysOn: 1}
	for field, change := range map[string]func(*WarmPool){
		"app":                   func(p *WarmPool) { p.App = "" },
		"region":                func(p *WarmPool) { p.Region = "" },
		"always_on":             func(p *WarmPool) { p.AlwaysOn = -1 },
		"target_idle":           func(p *WarmPool) { p.TargetIdle = maxWarm + 1 },
		"max":                   func(p *WarmPool) { p.AlwaysOn, p.Maximum = 3, 2 },
		"within_ms":             func(p *WarmPool) { p.WithinMS = -1 },
		"schedule":              func(p *WarmPool) { p.Schedule = make([]PoolWindow, maxPoolWindows+1) },
		"schedule[0].days":      func(p *WarmPool) { p.Schedule = []PoolWindow{{Days: []string{"Mo"}, From: "00:00", To: "01:00"}} },
		"schedule[0].from":      func(p *WarmPool) { p.Schedule = []PoolWindow{{From: "24:00", To: "01:00"}} },
		"schedule[0].to":        func(p *WarmPool) { p.Schedule = []PoolWindow{{From: "00:00", To: "7:00"}} },
		"schedule[0].always_on": func(p *WarmPool) { p.Schedule = []PoolWindow{{From: "00:00", To: "07:00", AlwaysOn: -1}} },
	} {
		p := good
		change(&p)
		_, err := p.Normalize()
		if e, ok := err.(*Error); !ok || e.Field != field || e.Code != CodeInvalid {
			t.Errorf("%+v: %v, want a fault of %s", p, err, field)
		}
	}
	for _, s := range []string{"", "22:00", "mon", "mo 22:00-07:00", "22:00-07:00 idle=1", "22:00-07:00 always-on=x", "22:00-07:00 always-on=1x", "22:00-07:00 target-idle=", "22:00-25:00"} {
		if w, err := ParsePoolWindow(s); err == nil {
			t.Errorf("%q was read as %+v", s, w)
		}
	}
	if _, err := ParsePoolWindow("22:00-07:00 always-on=1 target-idle=2x"); err == nil || !strings.Contains(err.Error(), "target-idle") || !strings.Contains(err.Error(), "2x") {
		t.Errorf("the fault is not named: %v", err)
	}
	w, err := ParsePoolWindow("fri-sun,wed 08:00-20:30 always-on=2 target-idle=1")
	if err != nil || len(w.Days) != 4 || w.AlwaysOn != 2 || w.TargetIdle != 1 || w.To != "20:30" {
		t.Errorf("read %+v, %v", w, err)
	}
}
