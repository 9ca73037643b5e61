package gateway

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func admin(r *rig) []string { return []string{"Authorization", "Bearer root"} }

func TestApplicationLife(t *testing.T) {
	r := newRig(t)
	ask := func(method, path, body string, want int, into any, headers ...string) answer {
		t.Helper()
		a := r.call(method, path, body, append(admin(r), headers...)...)
		if a.status != want {
			t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
		}
		if into != nil {
			if err := json.Unmarshal(a.env.Metadata, into); err != nil {
				t.Fatal(err)
			}
		}
		return a
	}
	var v api.AppView
	again := func() *api.AppView { v = api.AppView{}; return &v }
	yaml := "name: game\ncommand: [game]\nresources: {memory_mib: 256}\nvideo: {content: motion}\n"
	ask("POST", "/1.0/applications", yaml, 201, again(), "Content-Type", "application/yaml")
	if v.Perigee.Version != 1 || v.Perigee.App.Resources.MemoryMiB != 256 {
		t.Errorf("created as %+v", v.Perigee)
	}
	ask("PATCH", "/1.0/applications/game?publish=false", `{"resources":{"memory_mib":512},"video":null,"title":"Game"}`, 201, again())
	if a := v.Perigee.App; v.Perigee.Version != 2 || a.Resources.MemoryMiB != 512 || a.Resources.CPUMillis != api.DefaultCPUMillis || a.Video != (api.Video{}) || a.Title != "Game" {
		t.Errorf("patched to %+v", v.Perigee.App)
	}
	ask("GET", "/1.0/applications/game/", "", 200, again())
	if got := v.Perigee.Versions; v.Perigee.Version != 1 || len(got) != 2 || !got[0].Default || got[1].Published {
		t.Errorf("shown as %+v", v.Perigee)
	}
	var one api.VersionView
	ask("PATCH", "/1.0/applications/game/2", `{"published":true}`, 200, &one)
	if !one.Published || !one.Default || one.App.Title != "Game" {
		t.Errorf("published as %+v", one)
	}
	var m api.ManifestView
	ask("GET", "/1.0/applications/game/1/manifest", "", 200, &m)
	if !strings.Contains(m.Manifest, "memory_mib: 512") || strings.Contains(m.Manifest, "version") {
		t.Errorf("the manifest is\n%s", m.Manifest)
	}
	ask("POST", "/1.0/applications", m.Manifest, 201, again(), "Content-Type", "text/yaml; charset=utf-8")
	ask("DELETE", "/1.0/applications/game/1", "", 200, nil)
	if len(r.dropped) != 1 || r.dropped[0] != 1 {
		t.Errorf("deleted %v", r.dropped)
	}
	// An ordinary account sees that it is there, not what it runs.
	a := r.call("GET", "/1.0/applications/game", "")
	if a.status != 200 || strings.Contains(a.body, "command") || strings.Contains(a.body, "versions") {
		t.Errorf("shown to everybody: %d %s", a.status, a.body)
	}
	if a := r.call("GET", "/1.0/applications/game/1", ""); a.status != 403 {
		t.Errorf("a version is shown to everybody: %d", a.status)
	}
}

func TestApplicationsRefuse(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		method, path, kind, body, want string
		status                         int
	}{
		{"POST", "", "application/yaml", "name: x\ncommand: [x]\nresources:\n  memory_mib: 2GiB\n", `line 4: resources.memory_mib: \"2GiB\": the field counts MiB: write 2048`, 400},
		{"POST", "", "application/yaml", "name: x\ncommand: [x]\n---\nname: y\ncommand: [y]\n", "one at a time", 400},
		{"POST", "", "application/yaml", strings.Repeat("#", 2<<20), "over", 413},
		{"POST", "", "", `{"name":"x","command":["x"],"memory":3}`, `unknown field \"memory\"`, 400},
		{"POST", "", "", `{"name":"x","command":["x"],"resources":{"gpu":3}}`, `unknown field \"gpu\"`, 400},
		{"POST", "?publish=perhaps", "", `{"name":"x","command":["x"]}`, "publish: must be true or false", 400},
		{"PATCH", "/xterm", "", `{"name":"other"}`, "cannot be changed", 400},
		{"PATCH", "/xterm", "", `{"command":null}`, "a program needs the command", 400},
		{"PATCH", "/xterm", "", `[]`, "must be a JSON object", 400},
		{"PATCH", "/none", "", `{}`, "does not exist", 404},
		{"GET", "/none", "", "", "does not exist", 404},
		{"GET", "/xterm/9", "", "", "has no version 9", 404},
		{"GET", "/xterm/last", "", "", "must be the number of a version", 400},
		{"PATCH", "/xterm/1", "", `{}`, "published: is missing", 400},
		{"PATCH", "/xterm/9", "", `{"published":true}`, "has no version 9", 404},
		{"DELETE", "/xterm/0", "", "", "must be the number", 400},
	} {
		a := r.call(c.method, "/1.0/applications"+c.path, c.body, append(admin(r), "Content-Type", c.kind)...)
		if a.status != c.status || !strings.Contains(a.body, c.want) {
			t.Errorf("%s %s %.60s: %d %s", c.method, c.path, c.body, a.status, a.body)
		}
	}
	if a := r.call("GET", "/1.0/perigee/manifest.schema.json", ""); a.status != 200 || !json.Valid([]byte(a.body)) {
		t.Errorf("the schema: %d %.100s", a.status, a.body)
	}
}
