package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// prober keeps whom it was asked for.
type prober struct {
	list    []api.ProbeTarget
	err     error
	clients []api.Client
	grants  []api.Grant
}

func (p *prober) Probes(_ context.Context, c api.Client, g api.Grant) ([]api.ProbeTarget, error) {
	p.clients, p.grants = append(p.clients, c), append(p.grants, g)
	return p.list, p.err
}

func TestProbes(t *testing.T) {
	want := []api.ProbeTarget{
		{Node: "node1", Region: "home", Addresses: []string{"192.0.2.1:3478", "[2001:db8::1]:3478"}, Ticket: "AQab+/", Password: "pw"},
		{Node: "node2", Region: "away", Addresses: []string{"192.0.2.2:3478"}, Ticket: "AQcd", Password: "pw2"},
	}
	p := &prober{list: want}
	r := newRig(t, func(c *Config) { c.Prober = p; c.TrustedProxies = []string{"127.0.0.0/8"} })
	for _, token := range []string{"tok", "page"} { // a page's token may, and loses no use
		a := r.call("GET", "/1.0/probes", "", "Authorization", "Macaroon root="+token, "X-Forwarded-For", "203.0.113.7")
		var got []api.ProbeTarget
		if err := json.Unmarshal(a.env.Metadata, &got); err != nil || a.status != http.StatusOK || !reflect.DeepEqual(got, want) || *a.env.TotalSize != 2 {
			t.Errorf("%s: %d %s, %v", token, a.status, a.body, err)
		}
	}
	if !strings.Contains(r.call("GET", "/1.0/probes", "").body, `"ticket":"AQab+/"`) {
		t.Error("a ticket is not readable as it is")
	}
	if c := p.clients[0]; c.Address != "203.0.113.7" {
		t.Errorf("asked for %+v", c)
	}
	if a := r.call("GET", "/1.0/probes?client_address=198.51.100.1", ""); a.status != 200 || p.clients[3].Address != "198.51.100.1" {
		t.Errorf("on behalf: %d %s, %+v", a.status, a.body, p.clients)
	}
	if g := p.grants[1]; g.App != "xterm" {
		t.Errorf("asked as %+v", g)
	}
	for path, c := range map[string]struct {
		token  string
		status int
		field  string
	}{
		"/1.0/probes?client_address=here":         {"tok", 400, "perigee.client_address"},
		"/1.0/probes?client_address=198.51.100.1": {"page", 403, ""},
	} {
		if a := r.call("GET", path, "", "Authorization", "Macaroon root="+c.token); a.status != c.status || a.env.Perigee.Field != c.field {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	p.list, p.err = nil, nil
	if a := r.call("GET", "/1.0/probes", ""); a.status != 200 || string(a.env.Metadata) != "[]" {
		t.Errorf("no nodes: %d %s", a.status, a.body)
	}
	p.err = api.Errorf(api.CodeUnavailable, "the scheduler is starting")
	if a := r.call("GET", "/1.0/probes", ""); a.status != 503 {
		t.Errorf("a scheduler that starts: %d %s", a.status, a.body)
	}
}

func TestNoProbesWithoutProber(t *testing.T) {
	r := newRig(t)
	if a := r.call("GET", "/1.0/probes", ""); a.status != 404 || a.env.Perigee.Code != api.CodeNotFound {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestMeasuredRoundTripsReachTheScheduler(t *testing.T) {
	r := newRig(t)
	a := r.call("POST", "/1.0/sessions", `{"app":"xterm","perigee":{"probes":[
		{"node":"node1","round_trip_ms":12.5},{"node":"node2","round_trip_ms":250,"silent":true}]}}`)
	want := []api.Probe{{Node: "node1", RoundTripMS: 12.5}, {Node: "node2", RoundTripMS: 250, Silent: true}}
	if a.status != http.StatusCreated || !reflect.DeepEqual(r.creates[0].Probes, want) {
		t.Errorf("%d %s, asked for %+v", a.status, a.body, r.creates)
	}
}

func TestMeasuredRoundTripsAreChecked(t *testing.T) {
	r := newRig(t)
	var many []string
	for i := range api.MaxProbes + 1 {
		many = append(many, fmt.Sprintf(`{"node":"n%d","round_trip_ms":1}`, i))
	}
	for list, field := range map[string]string{
		`7`:                                           "perigee.probes",
		`{"node":"n"}`:                                "perigee.probes",
		`[1]`:                                         "perigee.probes",
		`[{"round_trip_ms":1}]`:                       "perigee.probes[0].node",
		`[{"node":"n o","round_trip_ms":1}]`:          "perigee.probes[0].node",
		`[{"node":7,"round_trip_ms":1}]`:              "perigee.probes.node",
		`[{"node":"n","round_trip_ms":"1"}]`:          "perigee.probes.round_trip_ms",
		`[{"node":"n"}]`:                              "perigee.probes[0].round_trip_ms",
		`[{"node":"n","rtt":4}]`:                      "perigee.probes[0].round_trip_ms",
		`[{"node":"n","round_trip_ms":-1}]`:           "perigee.probes[0].round_trip_ms",
		`[{"node":"n","round_trip_ms":60001}]`:        "perigee.probes[0].round_trip_ms",
		`[{"node":"n","round_trip_ms":1e999}]`:        "perigee.probes.round_trip_ms",
		`[{"node":"n","round_trip_ms":1,"silent":1}]`: "perigee.probes.silent",
		`[{"node":"n","round_trip_ms":1},{"node":"n","round_trip_ms":2}]`: "perigee.probes[1].node",
		"[" + strings.Join(many, ",") + "]":                               "perigee.probes",
	} {
		a := r.call("POST", "/1.0/sessions", `{"app":"xterm","perigee":{"probes":`+list+`}}`)
		if a.status != 400 || a.env.Perigee.Field != field || !strings.HasPrefix(a.env.Error, field) {
			t.Errorf("%s: %d %s, want %s", list, a.status, a.body, field)
		}
	}
	if len(r.creates) != 0 {
		t.Errorf("the scheduler was asked for %+v", r.creates)
	}
}
