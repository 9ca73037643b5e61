package main

import (
	"strings"
	"testing"
)

func TestAccountPolicyCommand(t *testing.T) {
	const path = "/1.0/perigee/accounts/acme/policy"
	s := newStub(t, map[string]canned{"PUT " + path: {200, `"metadata":{}`}, "DELETE " + path: {200, `"metadata":{}`},
		"GET " + path: {200, `"metadata":{"trunk":true,"placement":{"max_round_trip_ms":40}}`}})
	if status, out, errs := s.perigee(t, "", "account", "policy", "acme"); status != 0 || !strings.Contains(out, "trunk: true") || !strings.Contains(out, "max_round_trip_ms: 40") {
		t.Errorf("show: %d %s%s", status, out, errs)
	}
	policy := "trunk: true\nplacement:\n  max_round_trip_ms: 40\n"
	if status, _, errs := s.perigee(t, policy, "account", "policy", "acme", "--set", "-"); status != 0 {
		t.Errorf("set: %d %s", status, errs)
	}
	if got := s.bodies[len(s.bodies)-1]; got != `{"placement":{"max_round_trip_ms":40},"trunk":true}` {
		t.Errorf("it sent %s", got)
	}
	if status, _, errs := s.perigee(t, "", "account", "policy", "acme", "--clear"); status != 0 || s.asked[len(s.asked)-1] != "DELETE "+path {
		t.Errorf("clear: %d %s %v", status, errs, s.asked)
	}
	for _, bad := range []string{"tronk: true", "placement: {order: random}", ""} {
		if status, _, errs := s.perigee(t, bad, "account", "policy", "acme", "--set", "-"); status == 0 || !strings.Contains(errs, "--set") {
			t.Errorf("%q: %d %s", bad, status, errs)
		}
	}
}
