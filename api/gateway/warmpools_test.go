package gateway

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// fakePools keeps pools in memory.
type fakePools struct{ list []api.WarmPoolState }

func (f *fakePools) WarmPools(context.Context) ([]api.WarmPoolState, error) { return f.list, nil }

func (f *fakePools) SetWarmPool(_ context.Context, p api.WarmPool) error {
	f.list = append(f.list, api.WarmPoolState{WarmPool: p, Ready: 1})
	return nil
}

func (f *fakePools) DropWarmPool(_ context.Context, app, region string) error {
	for i, p := range f.list {
		if p.App == app && p.Region == region {
			f.list = append(f.list[:i:i], f.list[i+1:]...)
			return nil
		}
	}
	return api.Errorf(api.CodeNotFound, "no pool")
}

func TestWarmPools(t *testing.T) {
	r := newRig(t, func(c *Config) { c.WarmPools = &fakePools{} })
	root := []string{"Authorization", "Macaroon root=root"}
	const path = "/1.0/perigee/applications/xterm/pools/eu"
	if a := r.call("PUT", path, `{"always_on":1}`); a.status != http.StatusForbidden {
		t.Errorf("without the right: %d", a.status)
	}
	if a := r.call("PUT", path, `{"always_on":2,"target_idle":1,"max":5,"schedule":[{"from":"22:00","to":"07:00"}]}`, root...); a.status != http.StatusOK || meta[api.WarmPool](t, a).Maximum != 5 {
		t.Fatalf("set: %s", a.body)
	}
	for _, p := range []string{"/1.0/perigee/pools", "/1.0/perigee/applications/xterm/pools"} {
		if a := r.call("GET", p, "", root...); !strings.Contains(a.body, `"app":"xterm","region":"eu","always_on":2`) || !strings.Contains(a.body, `"ready":1`) || *a.env.TotalSize != 1 {
			t.Errorf("%s shows %s", p, a.body)
		}
	}
	if a := r.call("GET", "/1.0/perigee/applications/other/pools", "", root...); *a.env.TotalSize != 0 || !strings.Contains(a.body, `"metadata":[]`) {
		t.Errorf("of another one: %s", a.body)
	}
	for body, field := range map[string]string{
		`{"allways_on":2}`:                             "pool",
		`{"always_on":-1}`:                             "always_on",
		`{"always_on":3,"max":2}`:                      "max",
		`{"always_on":1,"region":"us"}`:                "region",
		`{"always_on":1,"app":"other"}`:                "app",
		`{"schedule":[{"from":"25:00","to":"07:00"}]}`: "schedule[0].from",
		`{"schedule":[{"from":"2:00","to":"07:00"}]}`:  "schedule[0].from",
		`{"schedule":[{"days":["mon"],"to":"07:00"}]}`: "schedule[0].from",
		`{"always_on":"two"}`:                          "always_on",
	} {
		if a := r.call("PUT", path, body, root...); a.status != http.StatusBadRequest || a.env.Perigee.Field != field {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	if a := r.call("DELETE", path, "", root...); a.status != http.StatusOK {
		t.Errorf("take away: %s", a.body)
	}
	if a := r.call("DELETE", path, "", root...); a.status != http.StatusNotFound {
		t.Errorf("take away again: %s", a.body)
	}
	none := newRig(t)
	for method, p := range map[string]string{"GET": "/1.0/perigee/pools", "PUT": path, "DELETE": path} {
		if a := none.call(method, p, `{}`, root...); a.status != http.StatusNotFound {
			t.Errorf("%s without anybody to ask: %d", method, a.status)
		}
	}
}
