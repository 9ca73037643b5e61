package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestEnvelopes holds the bytes of answers, but for tickets and ports.
func TestEnvelopes(t *testing.T) {
	r := newRig(t)
	r.create("xterm")
	r.set("sess0000000000000001", func(s *api.Session) { s.Observed = api.ObservedRunning })
	ids := `{"ids":["sess0000000000000001","gone"]}`
	for _, c := range []struct{ name, method, path, body, header string }{
		{"create", "POST", "/1.0/sessions/", `{"app":"xterm","region":"","joinable":false,"screen":{"width":641,"height":359,"fps":30,"density":240},"extra_data":null}`, ""},
		{"create_bad_field", "POST", "/1.0/sessions", `{"app":"xterm","screen":{"width":"wide"}}`, ""},
		{"create_unknown_app", "POST", "/1.0/sessions", `{"app":"nethack"}`, ""},
		{"session", "GET", "/1.0/sessions/sess0000000000000001", "", ""},
		{"session_admin", "GET", "/1.0/sessions/sess0000000000000001", "", "Macaroon root=root"},
		{"session_unknown", "GET", "/1.0/sessions/nope", "", ""},
		{"list", "GET", "/1.0/sessions?sort_by=id", "", ""},
		{"list_empty", "GET", "/1.0/sessions?status=terminated&recursion=true", "", ""},
		{"join", "POST", "/1.0/sessions/sess0000000000000001/join", "", ""},
		{"join_inactive", "POST", "/1.0/sessions/sess0000000000000002/join", "{}", ""},
		{"applications", "GET", "/1.0/applications", "", ""},
		{"applications_admin", "GET", "/1.0/applications", "", "Macaroon root=root"},
		{"regions", "GET", "/1.0/regions", "", ""},
		{"status", "GET", "/1.0/status", "", "-"},
		{"status_token", "GET", "/1.0/status", "", ""},
		{"no_token", "GET", "/1.0/sessions", "", "-"},
		{"no_route", "GET", "/1.0/nonsense", "", ""},
		{"no_method", "PATCH", "/1.0/sessions", "", ""},
		{"delete_batch", "DELETE", "/1.0/sessions", ids, ""},
		{"delete", "DELETE", "/1.0/sessions/sess0000000000000002?sync=true", "", ""},
	} {
		auth := []string{}
		switch c.header {
		case "":
		case "-":
			auth = []string{"Authorization", ""}
		default:
			auth = []string{"Authorization", c.header}
		}
		a := r.call(c.method, c.path, c.body, auth...)
		text := regexp.MustCompile(`token=[^"]+`).ReplaceAllString(a.body, "token=TICKET")
		text = strings.ReplaceAll(text, strings.TrimPrefix(r.url, "http://"), "HOST")
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, []byte(text), "", "  "); err != nil {
			t.Fatalf("%s: %v\n%s", c.name, err, a.body)
		}
		file := filepath.Join("testdata", c.name+".json")
		if *update {
			if err := os.WriteFile(file, pretty.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, pretty.Bytes()) {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, pretty.Bytes(), want)
		}
	}
}

func TestTokenForms(t *testing.T) {
	r := newRig(t)
	for _, h := range []string{"Macaroon root=tok", "macaroon root=tok", "MACAROON ROOT=tok", `Macaroon root="tok"`, "Bearer tok", "bearer  tok"} {
		if a := r.call("GET", "/1.0/sessions", "", "Authorization", h); a.status != 200 {
			t.Errorf("%q: %d", h, a.status)
		}
	}
	if a := r.call("GET", "/1.0/sessions?api_token=tok", "", "Authorization", ""); a.status != 200 {
		t.Errorf("api_token: %d", a.status)
	}
}

func TestCreateHandsOnWhatWasAsked(t *testing.T) {
	r := newRig(t)
	a := r.call("POST", "/1.0/sessions", `{"app":"xterm","app_version":-1,"region":"home","joinable":true,"ephemeral":false,"idle_time_min":0,
		"screen":{"width":1279,"height":719},"extra_data":{"a":[1,null]},"later":true,
		"perigee":{"client_address":"203.0.113.9","codecs":["vp8","AV1"],"idempotency_key":"k1"}}`)
	if a.status != 201 {
		t.Fatal(a.body)
	}
	got := r.creates[0]
	if got.AppVersion != -1 || got.Region != "home" || !got.Joinable || got.Ephemeral || got.IdleMinutes != 0 || got.IdempotencyKey != "k1" {
		t.Errorf("got %+v", got)
	}
	if got.Screen.Width != 1280 || got.Screen.Height != 720 || got.Screen.FPS != api.DefaultFPS {
		t.Errorf("screen %+v", got.Screen)
	}
	if string(got.ExtraData) != `{"a":[1,null]}` || len(got.Codecs) != 2 || got.Codecs[0] != api.VP8 {
		t.Errorf("extra data %s, codecs %v", got.ExtraData, got.Codecs)
	}
	if got.Client.Address != "203.0.113.9" || got.Client.Location.Source != "mmdb" || got.Grant.Account != "acme" {
		t.Errorf("client %+v, grant %+v", got.Client, got.Grant)
	}

	for extra, want := range map[string]string{`null`: ``, `"text"`: `"text"`, `[1]`: `[1]`, `7`: `7`, `true`: `true`} {
		if a := r.call("POST", "/1.0/sessions", `{"app":"xterm","extra_data":`+extra+`}`); a.status != 201 {
			t.Fatal(a.body)
		}
		got := r.creates[len(r.creates)-1]
		if string(got.ExtraData) != want || !got.Ephemeral || got.IdleMinutes != api.IdleUnset {
			t.Errorf("extra %s: %+v", extra, got)
		}
	}
	r.call("POST", "/1.0/sessions", `{"app":"xterm","perigee":{"location":{"latitude":-33.9,"longitude":18.4,"radius_km":5}}}`)
	if l := r.creates[len(r.creates)-1].Client.Location; !l.Known || l.Source != "client" || l.Latitude != -33.9 || l.RadiusKM != 5 {
		t.Errorf("location %+v", l)
	}
}

func TestJoinIsTolerant(t *testing.T) {
	r := newRig(t)
	id := r.create("xterm").ID
	r.set(id, func(s *api.Session) { s.Observed = api.ObservedRunning })
	for body, want := range map[string]api.Screen{
		"":                                      {},
		"{}":                                    {},
		`{"disconnect_clients":true}`:           {},
		`{"disconnect_clients":"any"}`:          {},
		`{"screen":null}`:                       {},
		`{"screen":{"width":801,"height":599}}`: {Width: 802, Height: 600},
		`{"screen":{"fps":30,"density":160}}`:   {FPS: 30, Density: 160},
	} {
		a := r.call("POST", "/1.0/sessions/"+string(id)+"/join/", body)
		if a.status != 200 {
			t.Errorf("%s: %d %s", body, a.status, a.body)
			continue
		}
		if got := r.joins[len(r.joins)-1].Screen; got != want {
			t.Errorf("%s: screen %+v, want %+v", body, got, want)
		}
	}
}

func TestListPages(t *testing.T) {
	r := newRig(t)
	for range 5 {
		r.create("xterm")
	}
	r.call("POST", "/1.0/sessions", `{"app":"xterm"}`, "Authorization", "Bearer other")
	for path, want := range map[string]struct {
		ids   string
		total int
	}{
		"/1.0/sessions?limit=2":                            {`["sess0000000000000001","sess0000000000000002"]`, 5},
		"/1.0/sessions/?limit=2&offset=4":                  {`["sess0000000000000005"]`, 5},
		"/1.0/sessions?offset=9":                           {`[]`, 5},
		"/1.0/sessions?limit=1&sort_by=id&sort_order=desc": {`["sess0000000000000005"]`, 5},
		"/1.0/sessions?status=active":                      {`[]`, 0},
	} {
		a := r.call("GET", path, "")
		if string(a.env.Metadata) != want.ids || a.env.TotalSize == nil || *a.env.TotalSize != want.total {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	if a := r.call("GET", "/1.0/sessions", "", "Authorization", "Bearer root"); *a.env.TotalSize != 6 {
		t.Errorf("an administrator sees %d sessions", *a.env.TotalSize)
	}
	var views []api.SessionView
	a := r.call("GET", "/1.0/sessions?recursive=1&limit=1", "")
	if err := json.Unmarshal(a.env.Metadata, &views); err != nil || len(views) != 1 || views[0].App != "xterm" || views[0].Perigee.Account != "" {
		t.Errorf("recursive: %v %s", err, a.body)
	}
}

func TestDeleteSessions(t *testing.T) {
	r := newRig(t)
	one, two := r.create("xterm").ID, r.create("xterm").ID
	a := r.call("DELETE", "/1.0/sessions?force=true", fmt.Sprintf(`{"ids":[%q,%q,%q]}`, one, two, one))
	if a.status != http.StatusAccepted || a.env.Type != "async" || a.env.Status != "success" {
		t.Errorf("not waiting: %s", a.body)
	}
	if len(r.ends) != 2 || !r.ends[0].Force || r.ends[0].Wait || r.ends[0].Reason != api.ReasonDeleted {
		t.Errorf("ends %+v", r.ends)
	}
	if a := r.call("DELETE", "/1.0/sessions?sync=true", fmt.Sprintf(`{"ids":[%q]}`, two)); a.status != 200 || !r.ends[2].Wait {
		t.Errorf("waiting: %s", a.body)
	}
	r.fail = errors.New("disk on fire at /secret/path")
	a = r.call("DELETE", "/1.0/sessions?sync=true", fmt.Sprintf(`{"ids":[%q,"gone"]}`, two))
	if a.status != http.StatusMultiStatus || strings.Contains(a.body, "secret") || !strings.Contains(a.body, `"status_code":404`) || !strings.Contains(a.body, `"status_code":500`) {
		t.Errorf("failing: %d %s", a.status, a.body)
	}
}

func TestRefusalsAreShown(t *testing.T) {
	r := newRig(t)
	r.fail = fmt.Errorf("create: %w", &api.Error{Code: api.CodeNoCapacity, Message: "no node can host the session now",
		Refusals: []api.Refusal{{Node: "node1", Code: api.RefusedEncoder, Detail: "needs 216000 macroblocks/s, 1000 free"}}})
	a := r.call("POST", "/1.0/sessions", `{"app":"xterm"}`)
	if a.status != 404 || len(a.env.Perigee.Refusals) != 1 || a.env.Perigee.Refusals[0].Node != "node1" {
		t.Errorf("got %s", a.body)
	}
}

func TestInternalFaultsStayInside(t *testing.T) {
	r := newRig(t)
	for _, err := range []error{errors.New("open /secret/raft.db: input/output error"), api.Errorf(api.CodeInternal, "/secret/raft.db")} {
		r.fail = err
		a := r.call("POST", "/1.0/sessions", `{"app":"xterm"}`)
		if a.status != 500 || strings.Contains(a.body, "secret") || len(a.env.Perigee.Request) != 12 {
			t.Errorf("got %d %s", a.status, a.body)
		}
	}
	r.fail = api.Errorf(api.CodeUnavailable, "no leader")
	if a := r.call("GET", "/1.0/status", ""); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("got %d %s", a.status, a.body)
	}
}

func TestPanicIsOneRequestsFault(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Web = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("broken page") })
	})
	if a := r.call("GET", "/", ""); a.status != 500 || a.env.Status != "failed" {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if a := r.call("GET", "/1.0/regions", ""); a.status != 200 {
		t.Errorf("then %d", a.status)
	}
}

func TestCORS(t *testing.T) {
	r := newRig(t, func(c *Config) { c.CORSOrigins = []string{"https://app.example"} })
	for origin, want := range map[string]string{"https://app.example": "https://app.example", "https://APP.example": "https://APP.example", "https://evil.example": "", "": ""} {
		for _, path := range []string{"/1.0/sessions/", "/1.0/nothing"} {
			a := r.call("OPTIONS", path, "", "Origin", origin, "Authorization", "",
				"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type")
			if a.status != 204 || a.header.Get("Access-Control-Allow-Origin") != want || a.header.Get("Vary") != "Origin" {
				t.Errorf("OPTIONS %s from %q: %d %v", path, origin, a.status, a.header)
			}
			if !strings.Contains(a.header.Get("Access-Control-Allow-Headers"), "Authorization") {
				t.Errorf("OPTIONS allows the headers %q", a.header.Get("Access-Control-Allow-Headers"))
			}
			methods := strings.Split(a.header.Get("Access-Control-Allow-Methods"), ", ")
			for _, of := range r.srv.routes {
				if !slices.Contains(methods, of.method) {
					t.Errorf("%s %s is not among the methods that pages may use, %v", of.method, of.path, methods)
				}
			}
		}
		if a := r.call("GET", "/1.0/sessions", "", "Origin", origin); a.header.Get("Access-Control-Allow-Origin") != want {
			t.Errorf("GET from %q: %v", origin, a.header)
		} else if exposed := a.header.Get("Access-Control-Expose-Headers"); !strings.Contains(exposed, "Perigee-File-Mode") || !strings.Contains(exposed, "Perigee-Log-From") {
			t.Errorf("pages may read %q", exposed)
		}
	}
}

func TestRateLimit(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxRequestsPerSecond = 5 })
	start := time.Now()
	r.srv.now = func() time.Time { return start }
	for i := range 8 {
		a := r.call("GET", "/1.0/regions", "")
		if i < 5 && a.status != 200 || i >= 5 && (a.status != 429 || a.header.Get("Retry-After") != "1" || a.env.Perigee.Code != api.CodeRateLimited) {
			t.Errorf("request %d: %d %s", i, a.status, a.body)
		}
	}
	r.srv.now = func() time.Time { return start.Add(time.Second) }
	if a := r.call("GET", "/1.0/regions", ""); a.status != 200 {
		t.Errorf("a second later: %d", a.status)
	}
}

func TestStatus(t *testing.T) {
	r := newRig(t)
	r.status.Healthy = false
	if a := r.call("GET", "/1.0/status", "", "Authorization", ""); string(a.env.Metadata) != `{"status":"unhealthy"}` {
		t.Errorf("got %s", a.body)
	}
	if a := r.call("GET", "/1.0/status", "", "Authorization", "Bearer page"); strings.Contains(a.body, "agents") {
		t.Errorf("a page token is told %s", a.body)
	}
}

func TestAdministration(t *testing.T) {
	r := newRig(t)
	root := []string{"Authorization", "Macaroon root=root"}
	var tok api.TokenAnswer
	a := r.call("POST", "/1.0/perigee/accounts", `{"name":"new"}`, root...)
	if err := json.Unmarshal(a.env.Metadata, &tok); err != nil || a.status != 201 || tok.Token == "" || !tok.Grant.Can(api.RightOnBehalf) {
		t.Fatalf("account: %v %s", err, a.body)
	}
	a = r.call("POST", "/1.0/perigee/accounts/new/tokens", `{"rights":["create","join"],"app":"xterm","uses":3,"ttl":"1h"}`, root...)
	if err := json.Unmarshal(a.env.Metadata, &tok); err != nil || tok.Grant.Uses != 3 || !tok.Grant.Expires.Equal(epoch.Add(time.Hour)) {
		t.Fatalf("token: %v %s", err, a.body)
	}
	if a := r.call("POST", "/1.0/sessions", `{"app":"xterm"}`, "Authorization", "Bearer "+tok.Token); a.status != 201 {
		t.Errorf("page token cannot create: %s", a.body)
	}
	if a := r.call("DELETE", "/1.0/perigee/accounts/new/tokens/"+tok.Grant.TokenID, "", root...); a.status != 200 {
		t.Errorf("revoke: %s", a.body)
	}
	if a := r.call("POST", "/1.0/sessions", `{"app":"xterm"}`, "Authorization", "Bearer "+tok.Token); a.status != 401 {
		t.Errorf("a revoked token gets %d", a.status)
	}
	if a := r.call("DELETE", "/1.0/perigee/accounts/new", "", root...); a.status != 200 || len(r.accounts) != 1 {
		t.Errorf("delete account: %s", a.body)
	}
	if a := r.call("POST", "/1.0/perigee/nodes/node1/drain", `{"drain":true}`, root...); a.status != 200 || !r.nodes[0].Node.Drain {
		t.Errorf("drain: %s", a.body)
	}
	if a := r.call("DELETE", "/1.0/perigee/nodes/node2", "", root...); a.status != 200 || len(r.nodes) != 1 {
		t.Errorf("remove: %s", a.body)
	}
	if a := r.call("GET", "/1.0/perigee/nodes", "", root...); *a.env.TotalSize != 1 {
		t.Errorf("nodes: %s", a.body)
	}
	if a := r.call("GET", "/1.0/perigee/refusals?limit=1", "", root...); a.env.TotalSize == nil || *a.env.TotalSize != 1 {
		t.Errorf("refused requests: %s", a.body)
	}
	if a := r.call("GET", "/1.0/perigee/refusals?limit=1001", "", root...); a.status != 400 {
		t.Errorf("too many refused requests: %s", a.body)
	}
	if a := r.call("GET", "/1.0/perigee/demand", "", root...); !strings.Contains(string(a.env.Metadata), `"reason":"encoder"`) {
		t.Errorf("demand: %s", a.body)
	}
	a = r.call("POST", "/1.0/perigee/nodes/join", `{"node":{"id":"n9"}}`, "Authorization", "Bearer edge-token")
	if a.status != 200 || len(r.nodeJoin) != 1 || r.nodeJoin[0] != "127.0.0.1" {
		t.Errorf("join: %s, from %v", a.body, r.nodeJoin)
	}
}

func TestPlayerAndMetrics(t *testing.T) {
	r := newRig(t)
	r.create("xterm")
	if a := r.call("GET", "/", "", "Authorization", ""); a.body != "player /" {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if a := r.call("GET", "/static/sdk.js", "", "Authorization", ""); a.body != "player /static/sdk.js" {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if a := r.call("GET", "/1.0/perigee/openapi.yaml", "", "Authorization", ""); a.body != api.OpenAPI() {
		t.Errorf("openapi: %d", a.status)
	}
	body := r.call("GET", "/metrics", "", "Authorization", "").body
	for _, want := range []string{
		`anbox_stream_gateway_sessions_total{status="created"} 1`, `anbox_stream_gateway_accounts_total 1`,
		`anbox_stream_gateway_agents_total 2`, `anbox_stream_gateway_agents_unresponsive 1`,
		`anbox_stream_gateway_http_in_flight_requests{host=`, `anbox_stream_gateway_http_request_duration_seconds_bucket{code="201",handler="create_new_session",host=`,
		`anbox_stream_gateway_http_requests_total{code="201",handler="create_new_session"`, `anbox_stream_gateway_http_request_size_bytes_bucket`,
		`anbox_stream_gateway_http_response_size_bytes_bucket`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if none := newRig(t, func(c *Config) { c.Web = nil }).call("GET", "/", ""); none.status != 404 {
		t.Errorf("without a player: %d", none.status)
	}
}
