package main

import (
	"os"
	"strings"
	"testing"
)

func TestRefusals(t *testing.T) {
	one := `{"session":"s1","at":"2026-11-21T12:00:00Z","refused":true,"nodes":1,"request":{"app":"xterm","screen":{"width":1280,"height":720,"fps":60},"codecs":["H264"],"client":{"known":false}},` +
		`"candidates":[{"rank":0,"node":"n1","region":"eu","distance_km":-1,"estimate_ms":-1,"source":"unknown","pools":[{"pool":"cpu","macroblocks_per_s":216000,"sessions":0,"codecs":["H264"],"reserved":108000}],` +
		`"refusal":{"node":"n1","code":"encoder","detail":"pool cpu has 108000 of 216000 macroblocks/s free, 216000 are needed"}}]}`
	none := `{"session":"s2","at":"2026-11-21T12:00:01Z","refused":true,"nodes":0,"request":{"app":"xterm","screen":{"width":1280,"height":720,"fps":60},"codecs":["H264"],"client":{"known":false}},"candidates":[]}`
	s := newStub(t, map[string]canned{"GET /1.0/perigee/refusals": {200, `"total_size":2,"metadata":[` + none + "," + one + `]`}})
	status, out, errs := s.perigee(t, "", "refusals", "--limit", "2")
	if status != 0 || !strings.Contains(out, "n1: pool cpu has 108000") || !strings.Contains(out, "no node has joined") {
		t.Errorf("%d %s%s", status, out, errs)
	}
	if _, _, errs := s.perigee(t, "", "refusals", "--limit", "0"); !strings.Contains(errs, "--limit") {
		t.Errorf("no limit at all: %s", errs)
	}
	_, list, _ := s.perigee(t, "", "refusals", "--json")
	policy := t.TempDir() + "/p.yaml"
	if err := os.WriteFile(policy, []byte("min_fps: 30\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out, errs := s.perigee(t, list, "replay", "-", "--policy", policy); status != 0 || !strings.Contains(out, "1 of 2 sessions would change") || !strings.Contains(out, "H264@30") {
		t.Errorf("replayed: %d %s%s", status, out, errs)
	}
}
