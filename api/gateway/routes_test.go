package gateway

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/perigee-cloud/perigee/api"
)

// documented reads the document's paths as "METHOD /path".
func documented(t *testing.T) []string {
	t.Helper()
	var doc struct {
		Paths map[string]map[string]yaml.Node `yaml:"paths"`
	}
	if err := yaml.Unmarshal([]byte(api.OpenAPI()), &doc); err != nil {
		t.Fatal(err)
	}
	var out []string
	for path, methods := range doc.Paths {
		for m := range methods {
			if m != "parameters" {
				out = append(out, strings.ToUpper(m)+" "+path)
			}
		}
	}
	slices.Sort(out)
	return out
}

// openAPIPath writes a route's path as the document does.
func openAPIPath(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if strings.HasPrefix(p, ":") || strings.HasPrefix(p, "*") {
			parts[i] = "{" + p[1:] + "}"
		}
	}
	return strings.Join(parts, "/")
}

func TestRoutesAndDocumentAreTheSame(t *testing.T) {
	r := newRig(t)
	var served []string
	for _, route := range r.srv.routes {
		served = append(served, route.method+" "+openAPIPath(route.path))
	}
	slices.Sort(served)
	if got := documented(t); !slices.Equal(got, served) {
		for _, line := range got {
			if !slices.Contains(served, line) {
				t.Errorf("documented but not served: %s", line)
			}
		}
		for _, line := range served {
			if !slices.Contains(got, line) {
				t.Errorf("served but not documented: %s", line)
			}
		}
	}
}

// TestDocumentIsWhole finds references to what the document does not hold.
func TestDocumentIsWhole(t *testing.T) {
	var doc map[string]any
	if err := yaml.Unmarshal([]byte(api.OpenAPI()), &doc); err != nil {
		t.Fatal(err)
	}
	refs := 0
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				refs++
				var at any = doc
				for _, part := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
					m, _ := at.(map[string]any)
					at = m[part]
				}
				if at == nil {
					t.Errorf("%s points nowhere", ref)
				}
			}
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(doc)
	if refs < 50 {
		t.Fatalf("found only %d references: the walk is broken", refs)
	}
}

// concrete fills a route's parameters.
func concrete(path string) string {
	return strings.NewReplacer(":id", "sess0000000000000009", ":name", "nobody", ":token", "t1", "*file", "x.js").Replace(path)
}

func TestSlashFormsAreServedWithoutRedirect(t *testing.T) {
	r := newRig(t)
	for _, route := range r.srv.routes {
		if !strings.HasPrefix(route.path, "/1.0/") {
			continue
		}
		plain := r.call(route.method, concrete(route.path), "{}", "Authorization", "Macaroon root=root")
		slash := r.call(route.method, concrete(route.path)+"/", "{}", "Authorization", "Macaroon root=root")
		if plain.status/100 == 3 || plain.status == http.StatusMethodNotAllowed {
			t.Errorf("%s %s answers %d", route.method, route.path, plain.status)
		}
		if plain.status != slash.status {
			t.Errorf("%s %s answers %d, with a slash %d", route.method, route.path, plain.status, slash.status)
		}
	}
}

// TestClosedSchemasStandAlone holds that no schema that forbids further fields is
// a part of another: it would forbid the other parts' fields.
func TestClosedSchemasStandAlone(t *testing.T) {
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Additional any `yaml:"additionalProperties"`
				AllOf      []struct {
					Ref        string `yaml:"$ref"`
					Additional any    `yaml:"additionalProperties"`
				} `yaml:"allOf"`
			} `yaml:"schemas"`
		} `yaml:"components"`
	}
	if err := yaml.Unmarshal([]byte(api.OpenAPI()), &doc); err != nil {
		t.Fatal(err)
	}
	parts := 0
	for name, schema := range doc.Components.Schemas {
		for _, part := range schema.AllOf {
			parts++
			of := doc.Components.Schemas[strings.TrimPrefix(part.Ref, "#/components/schemas/")]
			if part.Additional == false || of.Additional == false || schema.Additional == false {
				t.Errorf("%s is made of parts, of which %s forbids further fields", name, part.Ref)
			}
		}
	}
	if parts == 0 {
		t.Error("no schema of parts was found")
	}
}

func TestEachRouteWantsItsRight(t *testing.T) {
	r := newRig(t)
	closed := 0
	for _, route := range r.srv.routes {
		if len(route.rights) == 0 {
			continue
		}
		closed++
		path := concrete(route.path)
		for _, c := range []struct {
			what, header string
			want         int
		}{
			{"no token", "", 401},
			{"a wrong token", "Macaroon root=wrong", 401},
			{"a scheme we do not know", "Basic dG9rOnRvaw==", 401},
			{"macaroon without root", "Macaroon tok", 401},
			{"an empty token", "Bearer ", 401},
		} {
			if a := r.call(route.method, path, "{}", "Authorization", c.header); a.status != c.want || a.env.Perigee == nil || a.env.Perigee.Code != api.CodeUnauthorized {
				t.Errorf("%s %s with %s: %d %s", route.method, path, c.what, a.status, a.body)
			}
		}
		forbidden := "Macaroon root=page"
		if slices.Contains(route.rights, api.RightCreate) || slices.Contains(route.rights, api.RightJoin) {
			r.mu.Lock()
			r.tokens["edge"] = api.Grant{Account: "acme", Rights: []api.Right{api.RightNode}}
			r.mu.Unlock()
			forbidden = "Macaroon root=edge"
		}
		if a := r.call(route.method, path, "{}", "Authorization", forbidden); a.status != http.StatusForbidden {
			t.Errorf("%s %s with %s: %d %s", route.method, path, forbidden, a.status, a.body)
		}
	}
	if closed < 15 {
		t.Fatalf("only %d routes want a right", closed)
	}
}

func TestAdminHandlerNeedsNoToken(t *testing.T) {
	r := newRig(t, func(c *Config) { c.LocalURL = "http://127.0.0.1:8080"; c.MaxRequestsPerSecond = 1 })
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/1.0/perigee/accounts", ""},
		{"POST", "/1.0/applications", `{"name":"top","command":["top"]}`},
		{"POST", "/1.0/sessions", `{"app":"top"}`},
	} {
		w := httptest.NewRecorder()
		r.srv.AdminHandler().ServeHTTP(w, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		if w.Code/100 != 2 {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
	}
	if got := r.creates[0]; got.Grant.Account != localAccount || !got.Grant.Can(api.RightAdmin) || got.Client.Address != "" {
		t.Errorf("created as %+v from %q", got.Grant, got.Client.Address)
	}
}
