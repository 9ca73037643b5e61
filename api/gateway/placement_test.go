package gateway

import (
	"net/http"
	"strings"
	"testing"
)

// TestPolicyIsReadStrictly puts applications with policies that cannot be meant.
func TestPolicyIsReadStrictly(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct{ placement, field string }{
		{`{"max_rtt": 3}`, "placement"},
		{`{"labels": {"require": ["a=b"]}}`, "placement"},
		{`{"max_round_trip_ms": "3"}`, "placement.max_round_trip_ms"},
		{`{"max_round_trip_ms": -1}`, "placement.max_round_trip_ms"},
		{`{"relax_ms_per_s": 2}`, "placement.relax_ms_per_s"},
		{`{"max_round_trip_ms": 9, "relax_ms_per_s": 2, "relax_to_ms": 8}`, "placement.relax_to_ms"},
		{`{"max_round_trip_ms": 9, "relax_to_ms": 12}`, "placement.relax_to_ms"},
		{`{"order": "random"}`, "placement.order"},
		{`{"min_fps": 241}`, "placement.min_fps"},
		{`{"preferred_within_ms": 1e9}`, "placement.preferred_within_ms"},
		{`{"regions": {"required": ["a b"]}}`, "placement.regions.required"},
		{`{"labels": {"preferred": ["gold"]}}`, "placement.labels.preferred"},
		{`{"labels": {"required": ["a=b"], "forbidden": ["a=b"]}}`, "placement.labels.forbidden"},
	} {
		a := r.call(http.MethodPost, "/1.0/applications", `{"name":"x","command":["x"],"placement":`+c.placement+`}`, "Authorization", "Macaroon root=root")
		if a.status != http.StatusBadRequest || !strings.Contains(a.body, c.field) {
			t.Errorf("placement %s answers %d: %s, want a 400 that names %s", c.placement, a.status, a.body, c.field)
		}
	}
	a := r.call(http.MethodPost, "/1.0/applications", `{"name":"x","command":["x"],"placement":{"max_round_trip_ms":40,"order":"pack","labels":{"required":["tier=gold"]}}}`,
		"Authorization", "Macaroon root=root")
	if a.status != http.StatusCreated || !strings.Contains(a.body, `"tier=gold"`) {
		t.Errorf("a good policy answers %d: %s", a.status, a.body)
	}
}
