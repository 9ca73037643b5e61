package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	candidates = `[{"rank":1,"node":"node1","region":"eu","location":{"latitude":48,"longitude":11,"known":true},"distance_km":20,"estimate_ms":0.4,"error_ms":0.2,"source":"distance","score_ms":0.4,
		"pool":"cpu","codec":"H264","fps":60,"cost":216000,"free_share":0.5,"pools":[{"pool":"cpu","macroblocks_per_s":864000,"codecs":["H264"],"reserved":216000}]},
		{"rank":0,"node":"node2","region":"eu","location":{"latitude":48,"longitude":11,"known":true},"distance_km":20,"estimate_ms":0.4,"error_ms":0.2,"source":"distance","score_ms":0.4,
		"pools":[{"pool":"cpu","macroblocks_per_s":864000,"codecs":["H264"],"reserved":864000}],"refusal":{"code":"encoder","detail":"pool cpu is full"}},
		{"rank":2,"node":"node3","region":"us","location":{"latitude":40,"longitude":-74,"known":true},"distance_km":6400,"estimate_ms":134,"error_ms":50,"source":"distance","score_ms":134,
		"pool":"cpu","codec":"H264","fps":60,"cost":216000,"free_share":0.5,"pools":[{"pool":"cpu","macroblocks_per_s":864000,"codecs":["H264"],"reserved":216000}]}]`
	recorded = `{"session":"s1","at":"2026-11-21T12:00:00Z","nodes":3,"request":{"app":"xterm","screen":{"width":1280,"height":720,"fps":60},"codecs":["H264"],
		"client":{"latitude":48.1,"longitude":11.2,"known":true,"source":"mmdb"}},"candidates":` + candidates + `}`
)

// TestExplainAndReplay prints an explanation, records it and asks what other
// policies would change.
func TestExplainAndReplay(t *testing.T) {
	s := newStub(t, map[string]canned{"GET /1.0/sessions/s1/placement": {200, `"metadata":` + recorded}})
	status, out, errs := s.perigee(t, "", "session", "explain", "s1")
	for _, part := range []string{"48.10,11.20", "(mmdb)", "node1", "134.0 ±50.0 ms", "encoder: pool cpu is full", "1280x720@60"} {
		if status != 0 || !strings.Contains(out, part) {
			t.Errorf("explain: status %d, %q is missing in\n%s%s", status, part, out, errs)
		}
	}
	status, out, errs = s.perigee(t, "", "session", "explain", "s1", "--json")
	if status != 0 || !strings.Contains(out, `"refusal"`) {
		t.Fatalf("explain --json: status %d\n%s%s", status, out, errs)
	}
	file := filepath.Join(t.TempDir(), "requests.json")
	if err := os.WriteFile(file, []byte(out+out), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ policy, want string }{
		{"", "0 of 2 sessions would change"},
		{"order: pack", "0 of 2 sessions would change"},
		{"regions: {forbidden: [eu]}", "2 of 2 sessions would change"},
		{"regions: {forbidden: [eu]}", "node3, 137 ms"},
		{"{max_round_trip_ms: 50, regions: {required: [us]}}", "refused: "},
	} {
		policy := filepath.Join(t.TempDir(), "policy.yaml")
		if err := os.WriteFile(policy, []byte(c.policy), 0o600); err != nil {
			t.Fatal(err)
		}
		if status, out, errs := s.perigee(t, "", "replay", file, "--policy", policy); status != 0 || !strings.Contains(out, c.want) {
			t.Errorf("replay by %q: status %d, want %q in\n%s%s", c.policy, status, c.want, out, errs)
		}
		if status, out, errs := s.perigee(t, recorded, "replay", "-", "--policy", policy, "--all", "--json"); status != 0 || !strings.Contains(out, `"was"`) {
			t.Errorf("replay of the standard input by %q: status %d\n%s%s", c.policy, status, out, errs)
		}
	}
}

// TestReplayRefuses what cannot be meant, in words that help.
func TestReplayRefuses(t *testing.T) {
	s := newStub(t, nil)
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	for _, c := range []struct{ policy, stdin, want string }{
		{"max_rtt: 3", recorded, "max_rtt"},
		{"order: random", recorded, "placement.order"},
		{"order: pack", "{}", "session explain --json"},
		{"order: pack", "nonsense", "recorded request 1"},
	} {
		if err := os.WriteFile(policy, []byte(c.policy), 0o600); err != nil {
			t.Fatal(err)
		}
		if status, _, errs := s.perigee(t, c.stdin, "replay", "-", "--policy", policy); status == 0 || !strings.Contains(errs, c.want) {
			t.Errorf("policy %q, input %q: status %d, %s, want %q", c.policy, c.stdin, status, errs, c.want)
		}
	}
	if status, _, errs := s.perigee(t, "", "replay", "-"); status == 0 || !strings.Contains(errs, "--policy") {
		t.Errorf("without a policy: status %d, %s", status, errs)
	}
}
