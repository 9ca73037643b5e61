package gateway

import (
	"net/http"
	"strings"
	"testing"
)

func TestAccountPolicy(t *testing.T) {
	r := newRig(t)
	root := []string{"Authorization", "Macaroon root=root"}
	const path = "/1.0/perigee/accounts/acme/policy"
	if a := r.call("GET", path, ""); a.status != http.StatusForbidden {
		t.Errorf("without the right: %d", a.status)
	}
	if a := r.call("PUT", path, `{"trunk":true,"placement":{"max_round_trip_ms":40}}`, root...); a.status != http.StatusOK {
		t.Fatalf("set: %s", a.body)
	}
	if a := r.call("GET", path, "", root...); !strings.Contains(a.body, `"trunk":true`) || !strings.Contains(a.body, `"max_round_trip_ms":40`) {
		t.Errorf("it shows %s", a.body)
	}
	for body, field := range map[string]string{
		`{"tronk":true}`:                   "policy",
		`{"placement":{"max_rtt":1}}`:      "policy",
		`{"placement":{"order":"random"}}`: "placement.order",
		`{"trunk":"yes"}`:                  "trunk",
	} {
		if a := r.call("PUT", path, body, root...); a.status != http.StatusBadRequest || a.env.Perigee.Field != field {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	if a := r.call("DELETE", path, "", root...); a.status != http.StatusOK {
		t.Errorf("take away: %s", a.body)
	}
	if a := r.call("GET", path, "", root...); strings.Contains(a.body, "trunk") {
		t.Errorf("then it shows %s", a.body)
	}
	if a := r.call("GET", "/1.0/perigee/accounts/nobody/policy", "", root...); a.status != http.StatusNotFound {
		t.Errorf("of nobody: %d", a.status)
	}
}
