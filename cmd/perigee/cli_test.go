package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"
)

// stub is a scheduler's admin socket with canned answers: "METHOD /path" to a
// status and the envelope's metadata or error.
type stub struct {
	mu      sync.Mutex
	answers map[string]canned
	asked   []string
	bodies  []string
	socket  string
}

type canned struct {
	status int
	body   string
}

func newStub(t *testing.T, answers map[string]canned) *stub {
	t.Helper()
	s := &stub{answers: answers, socket: filepath.Join(t.TempDir(), "admin.sock")}
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: s}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return s
}

func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r.Method+" "+r.URL.RequestURI())
	s.bodies = append(s.bodies, string(b))
	a, ok := s.answers[r.Method+" "+r.URL.Path]
	if !ok {
		a = canned{404, `"error":"` + r.URL.Path + ` is not served here","perigee":{"code":"not_found"}`}
	}
	status := "success"
	if a.status >= 400 {
		status = "failed"
	}
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, `{"type":"sync","status":"`+status+`","status_code":200,`+a.body+`}`)
}

// perigee runs one command line against the stub.
func (s *stub) perigee(t *testing.T, stdin string, args ...string) (status int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	status = run(t.Context(), append([]string{"--socket", s.socket}, args...), strings.NewReader(stdin), &o, &e)
	return status, o.String(), e.String()
}

const (
	grant   = `{"account":"acme","token_id":"id1","rights":["sessions","on_behalf"],"expires":"2027-01-02T03:04:05Z","uses":-1}`
	detail  = `{"node":"node1","region":"home","distance_km":12.4,"rank":1,"generation":1,"codec":"H264","pool":"cpu","app_version":3,"screen":{"width":1280,"height":720,"fps":60},"connected":true,"created_at":"2026-11-21T12:00:00Z","account":"acme"}`
	session = `{"id":"s1","app":"xterm","region":"home","joinable":true,"status":"active","status_message":"","perigee":` + detail + `}`
	node    = `{"node":{"id":"node1","name":"berlin","region":"home","addresses":["203.0.113.1"],"pools":[{"pool":"cpu","macroblocks_per_s":1000,"codecs":["H264"]}],"location":{"latitude":52.5,"longitude":13.4,"known":true,"source":"operator"}},"headroom":{"cpu":40,"memory":20,"saturation":40,"binding":"cpu"},"reserved":{"cpu":250},"sessions":2,"heard_at":"2026-11-21T12:00:00Z","alive":true}`
	appView = `{"name":"xterm","perigee":{"version":4,"kind":"program","title":"Terminal","app":{"name":"xterm","command":["xterm","-maximized"]}}}`
)

func operation(status string, code int) string {
	return fmt.Sprintf(`{"id":"start-i1","class":"task","status":%q,"status_code":%d,"resources":{"instances":["/1.0/instances/i1"]}}`, status, code)
}

const instanceView = `{"id":"i1","name":"lab","status":"running","status_code":4,"node":"node1","app_name":"xterm","app_version":3,"created_at":1795000000,` +
	`"config":{"enable_streaming":true},"tags":["session=i1"],"perigee":` + detail + `}`

func full() map[string]canned {
	m := func(s string) string { return `"metadata":` + s }
	return map[string]canned{
		"GET /1.0/perigee/accounts":                    {200, m(`[{"name":"acme","tokens":[` + grant + `]},{"name":"idle"}]`)},
		"POST /1.0/perigee/accounts":                   {201, m(`{"token":"secret-token","grant":` + grant + `}`)},
		"DELETE /1.0/perigee/accounts/acme":            {200, `"x":0`},
		"POST /1.0/perigee/accounts/acme/tokens":       {201, m(`{"token":"second-token","grant":` + grant + `}`)},
		"DELETE /1.0/perigee/accounts/acme/tokens/id1": {200, `"x":0`},
		"GET /1.0/applications":                        {200, m(`[` + appView + `]`)},
		"POST /1.0/applications":                       {201, m(appView)},
		"DELETE /1.0/applications/xterm":               {200, `"x":0`},
		"GET /1.0/applications/xterm":                  {200, m(strings.Replace(appView, `"app":`, `"versions":[{"version":3,"published":true},{"version":4,"published":true,"default":true},{"version":5}],"app":`, 1))},
		"GET /1.0/applications/xterm/4/manifest":       {200, m(`{"manifest":"name: xterm\n"}`)},
		"PATCH /1.0/applications/xterm/5":              {200, m(`{"version":5,"published":true,"default":true}`)},
		"DELETE /1.0/applications/xterm/3":             {200, `"x":0`},
		"POST /1.0/sessions":                           {201, m(`{"id":"s1","region":"home","status":"created","joinable":true,"url":"ws://h/s?token=t","stun_servers":[],"perigee":` + detail + `}`)},
		"GET /1.0/sessions":                            {200, m(`[`+session+`]`) + `,"total_size":9`},
		"GET /1.0/sessions/s1":                         {200, m(session)},
		"POST /1.0/sessions/s1/join":                   {200, m(`{"url":"ws://h/s?token=t2","stun_servers":[],"perigee":` + detail + `}`)},
		"DELETE /1.0/sessions/s1":                      {200, `"x":0`},
		"DELETE /1.0/sessions":                         {207, m(`{"deleted_sessions":["s1"],"errors":[{"session_id":"s2","error_message":"session s2 does not exist","status_code":404}]}`)},
		"POST /1.0/instances":                          {202, m(operation("Running", 103))},
		"GET /1.0/operations/start-i1/wait":            {200, m(operation("Success", 200))},
		"GET /1.0/instances":                           {200, m(`[`+instanceView+`]`) + `,"total_size":4`},
		"GET /1.0/instances/lab":                       {200, m(instanceView)},
		"DELETE /1.0/instances/lab":                    {202, m(operation("Running", 103))},
		"GET /1.0/perigee/nodes":                       {200, m(`[` + node + `]`)},
		"POST /1.0/perigee/nodes/node1/drain":          {200, `"x":0`},
		"DELETE /1.0/perigee/nodes/node1":              {200, `"x":0`},
	}
}

// TestCommands: what each asks, sends and prints.
func TestCommands(t *testing.T) {
	for _, c := range []struct {
		args string
		asks string // the last request
		body string // part of what it sends
		out  string // parts of what it prints, by |
	}{
		{"account create acme --ttl 1h", "POST /1.0/perigee/accounts", `"name":"acme"`, "secret-token|sessions,on_behalf|2027-01-02|only now"},
		{"account token acme --right node --right admin", "POST /1.0/perigee/accounts/acme/tokens", `"rights":["node","admin"]`, "second-token"},
		{"account page-token acme --app xterm --uses 3", "POST /1.0/perigee/accounts/acme/tokens", `"rights":["create","join"],"app":"xterm","uses":3,"ttl":3600000000000`, "second-token"},
		{"account list", "GET /1.0/perigee/accounts", "", "ACCOUNT|acme     id1|idle     -"},
		{"account revoke acme id1", "DELETE /1.0/perigee/accounts/acme/tokens/id1", "", "token id1 of acme revoked"},
		{"account delete acme", "DELETE /1.0/perigee/accounts/acme", "", "account acme deleted"},
		{"app put xterm --title T --env A=b=c --memory 64 --codec vp8 -- xterm -e top", "POST /1.0/applications", `"title":"T","kind":"","command":["xterm","-e","top"],"env":{"A":"b=c"}`, "xterm is at version 4"},
		{"app show xterm", "GET /1.0/applications/xterm", "", "Terminal|xterm -maximized|3, 4 (default), 5 (not published)"},
		{"app show xterm --manifest", "GET /1.0/applications/xterm/4/manifest", "", "name: xterm"},
		{"app publish xterm 5", "PATCH /1.0/applications/xterm/5", `{"published":true}`, "version 5 of application xterm is published"},
		{"app publish xterm 5 --withdraw", "PATCH /1.0/applications/xterm/5", `{"published":false}`, "not published any more"},
		{"app delete xterm --version 3", "DELETE /1.0/applications/xterm/3", "", "version 3 of application xterm deleted"},
		{"app create ../../deploy/apps/xterm.yaml --stage", "POST /1.0/applications?publish=false", `"name":"xterm"`, "not published"},
		{"app create ../../deploy/apps/samples/container.yaml", "POST /1.0/applications", `"kind":"container"`, "is at version 4"},
		{"app create ../../deploy/apps/xterm.yaml", "POST /1.0/applications", `"name":"xterm"`, "is at version 4"},
		{"app run xterm --account acme --player http://h:1 --print", "POST /1.0/perigee/accounts/acme/tokens", `"rights":["create","join"],"app":"xterm","uses":0,"ttl":43200000000000`, "open http://h:1/?app=xterm&token=second-token"},
		{"app list", "GET /1.0/applications", "", "NAME|xterm|Terminal|xterm -maximized"},
		{"app delete xterm", "DELETE /1.0/applications/xterm", "", "deleted"},
		{"session create --app xterm --joinable --idle-min 0 --width 800 --extra-data {} --codec AV1 --location 52.5,13.4", "POST /1.0/sessions",
			`"screen":{"width":800},"joinable":true,"ephemeral":true,"idle_time_min":0,"extra_data":{},"perigee":{"location":{"latitude":52.5,"longitude":13.4},"codecs":["AV1"]}`, "s1|12 km|ws://h/s?token=t"},
		{"session list --status active --limit 1", "GET /1.0/sessions?limit=1&recursion=true&sort_by=created_at&sort_order=asc&status=active", "", "SESSION|s1|active|node1|12 km|1 of 9"},
		{"session show s1", "GET /1.0/sessions/s1", "", "xterm version 3|1280x720@60|H264|acme"},
		{"session join s1 --width 640 --height 480", "POST /1.0/sessions/s1/join", `{"screen":{"width":640,"height":480}}`, "ws://h/s?token=t2"},
		{"session join s1", "POST /1.0/sessions/s1/join", `{}`, "node1"},
		{"session delete s1 --force --sync", "DELETE /1.0/sessions/s1?force=true&sync=true", "", "session s1 ended"},
		{"instance launch xterm --name lab --stream --tag a=b --width 800 --height 600 --user-data {}", "POST /1.0/instances",
			`"name":"lab","app_id":"xterm","user_data":{},"tags":["a=b"],"config":{"enable_streaming":true,"display":{"width":800,"height":600}}`, "instance i1: start running"},
		{"instance launch xterm --wait", "GET /1.0/operations/start-i1/wait?timeout=7", "", "instance i1: start success"},
		{"instance list --status running --tag lab --limit 1", "GET /1.0/instances?limit=1&recursion=true&status=running&tags=lab", "", "i1|lab|xterm 3|running|node1|1 of 4"},
		{"instance show lab", "GET /1.0/instances/lab", "", "running (4)|xterm version 3|session=i1|1280x720@60"},
		{"instance delete lab --force", "DELETE /1.0/instances/lab?force=true", "", "instance i1: start running"},
		{"node list", "GET /1.0/perigee/nodes", "", "NODE|node1|berlin|ready|40% cpu|cpu 25%"},
		{"node show berlin", "GET /1.0/perigee/nodes", "", "52.500, 13.400 (operator)|250 of 1000 macroblocks/s reserved"},
		{"node drain berlin", "POST /1.0/perigee/nodes/node1/drain", `{"drain":true}`, "takes no new sessions"},
		{"node undrain node1", "POST /1.0/perigee/nodes/node1/drain", `{"drain":false}`, "takes new sessions again"},
		{"node remove node1", "DELETE /1.0/perigee/nodes/node1", "", "removed"},
	} {
		s := newStub(t, full())
		status, out, errs := s.perigee(t, "", strings.Fields(c.args)...)
		if status != 0 || errs != "" {
			t.Errorf("%s: status %d, %s", c.args, status, errs)
			continue
		}
		last := len(s.asked) - 1
		if s.asked[last] != c.asks || !strings.Contains(s.bodies[last], c.body) {
			t.Errorf("%s: asked %s with %s", c.args, s.asked[last], s.bodies[last])
		}
		for _, part := range strings.Split(c.out, "|") {
			if !strings.Contains(out, part) {
				t.Errorf("%s: prints no %q:\n%s", c.args, part, out)
			}
		}
		// Each prints JSON when asked to.
		args := append([]string{"--json"}, strings.Fields(c.args)...)
		status, out, errs = newStub(t, full()).perigee(t, "", args...)
		if status != 0 || !json.Valid([]byte(out)) {
			t.Errorf("%s --json: status %d, %s\n%s", c.args, status, errs, out)
		}
	}
}

func TestPartOfABatchFails(t *testing.T) {
	s := newStub(t, full())
	status, out, errs := s.perigee(t, "", "session", "delete", "s1", "s2")
	if status != exitFailed || !strings.Contains(out, "1 sessions will end") || !strings.Contains(errs, "1 of 2") || !strings.Contains(errs, "s2 does not exist") {
		t.Errorf("status %d\n%s\n%s", status, out, errs)
	}
}

func TestEmptyListsSayWhatToDo(t *testing.T) {
	empty := canned{200, `"metadata":[],"total_size":0`}
	s := newStub(t, map[string]canned{"GET /1.0/perigee/accounts": empty, "GET /1.0/applications": empty, "GET /1.0/sessions": empty, "GET /1.0/instances": empty, "GET /1.0/perigee/nodes": empty})
	for args, want := range map[string]string{"account list": "account create", "app list": "app put", "session list": "no sessions", "instance list": "no instances", "node list": "perigee-edge"} {
		if status, out, _ := s.perigee(t, "", strings.Fields(args)...); status != 0 || !strings.Contains(out, want) {
			t.Errorf("%s: %d %s", args, status, out)
		}
	}
}

// TestUsage: a wrong command line is one line and status 2.
func TestUsage(t *testing.T) {
	s := newStub(t, nil)
	for args, want := range map[string]string{
		"frobnicate":                             `"frobnicate" is not a command of "perigee"`,
		"account frobnicate":                     `"frobnicate" is not a command of "perigee account"`,
		"account create":                         "the account's name is missing",
		"account create a b":                     `"b" is too much`,
		"account create a --ttl soon":            "invalid argument",
		"account page-token a":                   "--app is missing",
		"account page-token a --app x --uses 0":  "--uses must be 1 or more",
		"account page-token a --app x --ttl 0s":  "--ttl must be a time",
		"account revoke a":                       "the token's id",
		"app put":                                "name is missing",
		"app create":                             "the manifest's file is missing",
		"app publish xterm last":                 "must be the number of a version",
		"app run xterm --player here":            "must be the address of the player",
		"app put -- xterm":                       "name is missing",
		"app put x xterm":                        "put the command after --",
		"app put x":                              "command: a program needs",
		"app put x --env A -- x":                 "must be NAME=VALUE",
		"app put x --codec H266 -- x":            "H266",
		"app put x --memory -1 -- x":             "resources.memory_mib",
		"app put x --kind other -- x":            "kind",
		"app put --file m.yaml --title T":        "--file says everything",
		"app put --file m.yaml x":                "--file says everything",
		"session create":                         "--app is missing",
		"instance launch":                        "the application's name is missing",
		"instance launch x --user-data {":        "not JSON",
		"instance list --status gone":            "is no state",
		"instance logs x --tail -1":              "--tail must be 0 or more",
		"instance logs":                          "id or name is missing",
		"session create --app x --extra-data {":  "not JSON",
		"session create --app x --location here": "LATITUDE,LONGITUDE",
		"session list --limit -1":                "0 or more",
		"session delete":                         "id is missing",
		"session show":                           "id is missing",
		"node drain":                             "id or name is missing",
		"node list --nonsense":                   "unknown flag",
		"--token t node list":                    "--token goes with --url",
		"--url ftp://x node list":                "must be like",
		"version extra":                          `"extra" is too much`,
	} {
		status, out, errs := s.perigee(t, "", strings.Fields(args)...)
		if status != exitUsage || !strings.Contains(errs, want) || strings.Count(errs, "\n") != 1 || out != "" {
			t.Errorf("%q: status %d, stdout %q\n%s", args, status, out, errs)
		}
	}
	if len(s.asked) != 0 {
		t.Errorf("wrong command lines asked the scheduler: %v", s.asked)
	}
}

// TestErrorsNameTheRemedy: one line, status 1.
func TestErrorsNameTheRemedy(t *testing.T) {
	refused := `"error":"no node can host the session now","perigee":{"code":"no_capacity","refusals":[{"node":"node1","code":"encoder","detail":"needs 216000 macroblocks/s, 12 are free"},{"code":"no_nodes","detail":"no node has joined"}]}`
	for _, c := range []struct {
		answer canned
		want   string
	}{
		{canned{401, `"error":"this token is not known","perigee":{"code":"unauthorized"}`}, "PERIGEE_TOKEN"},
		{canned{403, `"error":"not allowed","perigee":{"code":"forbidden"}`}, "a token that has the right"},
		{canned{503, `"error":"no leader","perigee":{"code":"unavailable"}`}, "try again"},
		{canned{400, `"error":"screen.width: must be 1 to 3840","perigee":{"code":"invalid","field":"screen.width"}`}, "screen.width: must be 1 to 3840"},
		{canned{404, refused}, "node node1: needs 216000 macroblocks/s, 12 are free (encoder); no node has joined (no_nodes)"},
	} {
		s := newStub(t, map[string]canned{"POST /1.0/sessions": c.answer})
		status, _, errs := s.perigee(t, "", "session", "create", "--app", "x")
		if status != exitFailed || !strings.Contains(errs, c.want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("status %d: %s", status, errs)
		}
	}
	var out, errs bytes.Buffer
	status := run(t.Context(), []string{"--socket", filepath.Join(t.TempDir(), "none.sock"), "node", "list"}, nil, &out, &errs)
	if status != exitFailed || !strings.Contains(errs.String(), "no scheduler answers") || !strings.Contains(errs.String(), "perigee scheduler") {
		t.Errorf("without a scheduler: %d %s", status, errs.String())
	}
	s := newStub(t, full())
	if status, _, errs := s.perigee(t, "", "node", "show", "paris"); status != exitFailed || !strings.Contains(errs, "perigee node list") {
		t.Errorf("an unknown node: %d %s", status, errs)
	}
}

func TestManifests(t *testing.T) {
	good := "name: one\ncommand: [xterm, -e, top]\nresources: {cpu_millis: 500}\n---\nname: two\nkind: external\n"
	file := filepath.Join(t.TempDir(), "apps.yaml")
	if err := os.WriteFile(file, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"app", "put", "--file", "-"}, {"app", "put", "-f", file}, {"--json", "app", "put", "-f", file}} {
		s := newStub(t, full())
		status, _, errs := s.perigee(t, good, args...)
		if status != 0 || len(s.bodies) != 2 || !strings.Contains(s.bodies[0], `"command":["xterm","-e","top"]`) || !strings.Contains(s.bodies[1], `"kind":"external"`) {
			t.Errorf("%v: status %d %s, sent %q", args, status, errs, s.bodies)
		}
	}
	for text, want := range map[string]string{
		"name: x\ncommand: [x]\nmemory: 5\n":                  `line 3: there is no field "memory"`,
		"name: x\ncommand: [x]\nresources:\n  memory_mb: 5\n": `line 4: resources: there is no field "memory_mb"; do you mean "memory_mib"?`,
		"name: x\ncommand: [x]\nnetwork: perhaps\n":           `line 3: network: must be true or false, got "perhaps"`,
		"name: [":                   "line 1",
		"name: x\n":                 "line 1: command",
		"name: x y\ncommand: [x]\n": "line 1: name",
		"name: x\ncommand: [x]\n---\nname: y\nkind: external\ncommand: [y]\n": "line 6: command",
		"": "the manifest is empty",
	} {
		s := newStub(t, full())
		status, _, errs := s.perigee(t, text, "app", "put", "--file", "-")
		if status != exitFailed || !strings.Contains(errs, want) || strings.Count(errs, "\n") != 1 || len(s.asked) != 0 {
			t.Errorf("%q: status %d, %s", text, status, errs)
		}
	}
	s := newStub(t, full())
	if status, _, errs := s.perigee(t, "", "app", "put", "--file", "/no/such/file"); status != exitFailed || !strings.Contains(errs, "/no/such/file") {
		t.Errorf("a missing file: %d %s", status, errs)
	}
}

// TestEveryCommandHasAnExample, and help for each works.
func TestEveryCommandHasAnExample(t *testing.T) {
	commands := 0
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		commands++
		if c.Example == "" || c.Short == "" || !strings.Contains(c.Example, "perigee") {
			t.Errorf("%s has no example or no description", c.CommandPath())
		}
		args := append(strings.Fields(c.CommandPath())[1:], "--help")
		var out, errs bytes.Buffer
		if status := run(context.Background(), args, nil, &out, &errs); status != 0 || !strings.Contains(out.String(), "Examples:") {
			t.Errorf("%v: status %d %s", args, status, errs.String())
		}
		for _, sub := range c.Commands() {
			if sub.Name() != "help" && sub.Name() != "completion" {
				walk(sub)
			}
		}
	}
	walk(newRoot(newScheduler, newDev))
	if commands < 24 {
		t.Errorf("found %d commands only", commands)
	}
}

func TestVersionAndDefaults(t *testing.T) {
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"version"}, nil, &out, &errs); status != 0 || !strings.HasPrefix(out.String(), "perigee ") {
		t.Errorf("version: %d %s %s", status, out.String(), errs.String())
	}
	if got := defaultSocket(""); got != "/var/lib/perigee/admin.sock" {
		t.Errorf("default socket %s", got)
	}
	t.Setenv("PERIGEE_DATA", "/data")
	if got := newRoot().PersistentFlags().Lookup("socket").DefValue; got != "/data/admin.sock" {
		t.Errorf("socket with PERIGEE_DATA %s", got)
	}
	out.Reset()
	if status := run(t.Context(), nil, nil, &out, &errs); status != 0 || !strings.Contains(out.String(), "account") {
		t.Errorf("without a command: %d %s", status, out.String())
	}
}
