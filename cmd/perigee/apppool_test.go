package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func TestAppPool(t *testing.T) {
	const path = "/1.0/perigee/applications/xterm/pools"
	s := newStub(t, map[string]canned{
		"PUT " + path + "/home":    {200, `"metadata":{}`},
		"DELETE " + path + "/home": {200, `"metadata":{}`},
		"GET " + path:              {200, `"metadata":[{"app":"xterm","region":"home","always_on":2,"target_idle":1,"max":5,"wanted":2,"ready":1,"starting":1,"sessions":0,"message":"no room"}]`},
		"GET /1.0/perigee/pools":   {200, `"metadata":[]`},
	})
	status, out, errs := s.perigee(t, "", "app", "pool", "set", "xterm", "--region", "home", "--always-on", "2", "--target-idle", "1", "--max", "5",
		"--time-zone", "Europe/Berlin", "--schedule", "mon-fri 22:00-07:00", "--schedule", "12:00-13:00 always-on=4")
	if status != 0 || !strings.Contains(out, "pool of xterm in home set") {
		t.Fatalf("set: %d %s %s", status, out, errs)
	}
	var sent api.WarmPool
	if err := json.Unmarshal([]byte(s.bodies[len(s.bodies)-1]), &sent); err != nil || sent.Maximum != 5 || len(sent.Schedule) != 2 || len(sent.Schedule[0].Days) != 5 || sent.Schedule[1].AlwaysOn != 4 {
		t.Errorf("sent %+v, %v", sent, err)
	}
	if status, out, _ := s.perigee(t, "", "app", "pool", "list", "xterm"); status != 0 || !strings.Contains(out, "no room") || !strings.Contains(out, "ALWAYS-ON") {
		t.Errorf("list: %d %s", status, out)
	}
	if status, out, _ := s.perigee(t, "", "app", "pool", "list", "xterm", "--json"); status != 0 || !strings.Contains(out, `"target_idle": 1`) {
		t.Errorf("list --json: %d %s", status, out)
	}
	if status, out, _ := s.perigee(t, "", "app", "pool", "list"); status != 0 || !strings.Contains(out, "perigee app pool set") {
		t.Errorf("an empty list: %d %s", status, out)
	}
	if status, out, _ := s.perigee(t, "", "app", "pool", "delete", "xterm", "--region", "home"); status != 0 || !strings.Contains(out, "removed") {
		t.Errorf("delete: %d %s", status, out)
	}
	for what, args := range map[string][]string{
		"--region is missing":    {"set", "xterm", "--always-on", "1"},
		"--always-on or":         {"set", "xterm", "--region", "home"},
		"always_on: must be":     {"set", "xterm", "--region", "home", "--always-on", "-1"},
		"--schedule: ":           {"set", "xterm", "--region", "home", "--schedule", "22:00"},
		"perigee app pool list":  {"delete", "xterm"},
		"the application's name": {"set", "--region", "home"},
	} {
		if status, _, errs := s.perigee(t, "", append([]string{"app", "pool"}, args...)...); status != 2 || !strings.Contains(errs, what) {
			t.Errorf("%v: %d %s, want %q", args, status, errs, what)
		}
	}
}
