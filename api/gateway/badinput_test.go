package gateway

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// badCall is a call that is answered with an error naming a field.
type badCall struct {
	call, body, header string // header: of authorization, "-" = none
	status             int
	field              string
}

// tooLong is longer than an id may be.
func tooLong() string { return strings.Repeat("x", 70) }

func badCreates() []badCall {
	create, long := "POST /1.0/sessions", tooLong()
	return []badCall{
		{create, ``, "", 400, "body"},
		{create, `  `, "", 400, "body"},
		{create, `{`, "", 400, "body"},
		{create, `null`, "", 400, "body"},
		{create, `[]`, "", 400, "body"},
		{create, `"x"`, "", 400, "body"},
		{create, `{"app":"xterm"} {}`, "", 400, "body"},
		{create, strings.Repeat(`[`, 20000), "", 400, "body"},
		{create, `{}`, "", 400, "app"},
		{create, `{"app":7}`, "", 400, "app"},
		{create, `{"app":"../etc"}`, "", 400, "app"},
		{create, `{"app":"xterm","app_version":"new"}`, "", 400, "app_version"},
		{create, `{"app":"xterm","app_version":-2}`, "", 400, "app_version"},
		{create, `{"app":"xterm","region":` + fmt.Sprintf("%q", long) + `}`, "", 400, "region"},
		{create, `{"app":"xterm","joinable":"yes"}`, "", 400, "joinable"},
		{create, `{"app":"xterm","ephemeral":1}`, "", 400, "ephemeral"},
		{create, `{"app":"xterm","idle_time_min":-1}`, "", 400, "idle_time_min"},
		{create, `{"app":"xterm","idle_time_min":1.5}`, "", 400, "idle_time_min"},
		{create, `{"app":"xterm","idle_time_min":99999999}`, "", 400, "idle_time_min"},
		{create, `{"app":"xterm","screen":[]}`, "", 400, "screen"},
		{create, `{"app":"xterm","screen":{"width":0}}`, "", 400, "screen.width"},
		{create, `{"app":"xterm","screen":{"width":3842,"height":2160}}`, "", 400, "screen.width"},
		{create, `{"app":"xterm","screen":{"width":1e30}}`, "", 400, "screen.width"},
		{create, `{"app":"xterm","screen":{"height":2162}}`, "", 400, "screen.height"},
		{create, `{"app":"xterm","screen":{"height":-4}}`, "", 400, "screen.height"},
		{create, `{"app":"xterm","screen":{"fps":0}}`, "", 400, "screen.fps"},
		{create, `{"app":"xterm","screen":{"fps":1000}}`, "", 400, "screen.fps"},
		{create, `{"app":"xterm","screen":{"density":71}}`, "", 400, "screen.density"},
		{create, `{"app":"xterm","extra_data":"` + strings.Repeat("y", api.MaxExtraData) + `"}`, "", 400, "extra_data"},
		{create, `{"app":"xterm","perigee":7}`, "", 400, "perigee"},
		{create, `{"app":"xterm","perigee":{"codecs":"H264"}}`, "", 400, "perigee.codecs"},
		{create, `{"app":"xterm","perigee":{"codecs":["H264","H266"]}}`, "", 400, "perigee.codecs[1]"},
		{create, `{"app":"xterm","perigee":{"codecs":["VP8","VP8","VP8","VP8","VP8","VP8"]}}`, "", 400, "perigee.codecs"},
		{create, `{"app":"xterm","perigee":{"client_address":"here"}}`, "", 400, "perigee.client_address"},
		{create, `{"app":"xterm","perigee":{"location":{"latitude":1}}}`, "", 400, "perigee.location"},
		{create, `{"app":"xterm","perigee":{"location":{"latitude":91,"longitude":0}}}`, "", 400, "perigee.location.latitude"},
		{create, `{"app":"xterm","perigee":{"location":{"latitude":9,"longitude":181}}}`, "", 400, "perigee.location.longitude"},
		{create, `{"app":"xterm","perigee":{"location":{"latitude":9,"longitude":1,"radius_km":-1}}}`, "", 400, "perigee.location.radius_km"},
		{create, `{"app":"xterm","perigee":{"idempotency_key":` + fmt.Sprintf("%q", long) + `}}`, "", 400, "perigee.idempotency_key"},
		{create, `{"app":"xterm","extra_data":"` + strings.Repeat("z", MaxBody) + `"}`, "", 413, ""},
		{create, `{"app":"xterm","perigee":{"client_address":"203.0.113.1"}}`, "Macaroon root=page", 403, ""},
		{create, `{"app":"xterm","perigee":{"location":{"latitude":1,"longitude":1}}}`, "Macaroon root=page", 403, ""},
		{create, `{"app":"cave"}`, "Macaroon root=page", 403, ""},
	}
}

func badSessionCalls(id string) []badCall {
	join, long := "POST /1.0/sessions/"+id+"/join", tooLong()
	return []badCall{
		{join, `{"screen":{"width":100}}`, "", 400, "screen"},
		{join, `{"screen":{"width":5000,"height":100}}`, "", 400, "screen.width"},
		{join, `{"screen":{"width":"a"}}`, "", 400, "screen.width"},
		{join, `nonsense`, "", 400, "body"},
		{join, `{"screen":null}`, "", 400, ""}, // not active
		{"POST /1.0/sessions/nobody/join", ``, "", 404, ""},
		{"POST /1.0/sessions/a%20b/join", ``, "", 400, "id"},
		{"GET /1.0/sessions/" + long, ``, "", 400, "id"},
		{"GET /1.0/sessions/" + id, ``, "Macaroon root=other", 404, ""}, // another account's
		{"DELETE /1.0/sessions/" + id, ``, "Macaroon root=other", 404, ""},
		{"DELETE /1.0/sessions/" + id + "?force=maybe", ``, "", 400, "force"},
		{"DELETE /1.0/sessions/" + id + "?sync=2", ``, "", 400, "sync"},
		{"DELETE /1.0/sessions", `{}`, "", 400, "ids"},
		{"DELETE /1.0/sessions", `{"ids":"x"}`, "", 400, "ids"},
		{"DELETE /1.0/sessions", `{"ids":["a b"]}`, "", 400, "ids"},
		{"DELETE /1.0/sessions", `{"ids":[` + strings.Repeat(`"a",`, maxBatch) + `"b"]}`, "", 400, "ids"},
		{"GET /1.0/sessions?status=happy", ``, "", 400, "status"},
		{"GET /1.0/sessions?limit=-1", ``, "", 400, "limit"},
		{"GET /1.0/sessions?limit=99999999999", ``, "", 400, "limit"},
		{"GET /1.0/sessions?offset=x", ``, "", 400, "offset"},
		{"GET /1.0/sessions?recursion=ja", ``, "", 400, "recursion"},
		{"GET /1.0/sessions?sort_by=account", ``, "", 400, "sort_by"},
		{"GET /1.0/sessions?sort_order=up", ``, "", 400, "sort_order"},
		{"GET /1.0/status", ``, "Macaroon root=wrong", 401, ""},
	}
}

func badAdminCalls() []badCall {
	const admin = "Macaroon root=root"
	return []badCall{
		{"POST /1.0/applications", `{"name":"x"}`, admin, 400, "command"},
		{"POST /1.0/applications", `{"name":"x","command":["x"],"resources":{"memory_mib":-5}}`, admin, 400, "resources.memory_mib"},
		{"POST /1.0/applications", `{"name":"x","command":"x"}`, admin, 400, "command"},
		{"DELETE /1.0/applications/a%20b", ``, admin, 400, "app"},
		{"DELETE /1.0/applications/nope", ``, admin, 404, ""},
		{"POST /1.0/perigee/accounts", `{}`, admin, 400, "name"},
		{"POST /1.0/perigee/accounts", `{"name":"a b"}`, admin, 400, "name"},
		{"POST /1.0/perigee/accounts", `{"name":"acme"}`, admin, 409, ""},
		{"POST /1.0/perigee/accounts", `{"name":"n","rights":["fly"]}`, admin, 400, "rights"},
		{"POST /1.0/perigee/accounts", `{"name":"n","uses":-1}`, admin, 400, "uses"},
		{"POST /1.0/perigee/accounts", `{"name":"n","app":"a b"}`, admin, 400, "app"},
		{"POST /1.0/perigee/accounts", `{"name":"n","ttl":"soon"}`, admin, 400, "ttl"},
		{"POST /1.0/perigee/accounts", `{"name":"n","ttl":-1}`, admin, 400, "ttl"},
		{"POST /1.0/perigee/accounts", `{"name":"n","ttl":"200000h"}`, admin, 400, "ttl"},
		{"DELETE /1.0/perigee/accounts/nope", ``, admin, 404, ""},
		{"DELETE /1.0/perigee/accounts/acme/tokens/nope", ``, admin, 404, ""},
		{"POST /1.0/perigee/nodes/node1/drain", `{}`, admin, 400, "drain"},
		{"POST /1.0/perigee/nodes/node1/drain", `{"drain":"x"}`, admin, 400, "drain"},
		{"POST /1.0/perigee/nodes/a%20b/drain", `{"drain":true}`, admin, 400, "id"},
		{"POST /1.0/perigee/nodes/nope/drain", `{"drain":true}`, admin, 404, ""},
		{"DELETE /1.0/perigee/nodes/nope", ``, admin, 404, ""},
		{"POST /1.0/perigee/nodes/join", `{"node":{"id":"n"}}`, "-", 401, ""},
		{"POST /1.0/perigee/nodes/join", `{"node":7}`, "-", 400, "node"},
	}
}

// TestBadInput: each gets its status and names the field.
func TestBadInput(t *testing.T) {
	r := newRig(t)
	calls := slices.Concat(badCreates(), badSessionCalls(string(r.create("xterm").ID)), badAdminCalls())
	for _, c := range calls {
		method, path, _ := strings.Cut(c.call, " ")
		header := []string{}
		switch c.header {
		case "":
		case "-":
			header = []string{"Authorization", ""}
		default:
			header = []string{"Authorization", c.header}
		}
		a := r.call(method, path, c.body, header...)
		what := fmt.Sprintf("%s %.80s", c.call, c.body)
		if a.status != c.status {
			t.Errorf("%s: %d, want %d: %.200s", what, a.status, c.status, a.body)
			continue
		}
		if a.env.Type != "error" || a.env.Status != "failed" || a.env.Error == "" || a.env.Perigee == nil || a.env.Metadata != nil {
			t.Errorf("%s: envelope %.200s", what, a.body)
			continue
		}
		if a.env.Perigee.Field != c.field || !strings.Contains(a.env.Error, c.field) {
			t.Errorf("%s: names the field %q, want %q: %s", what, a.env.Perigee.Field, c.field, a.env.Error)
		}
		if got := a.header.Get("Access-Control-Allow-Origin"); got != "*" {
			t.Errorf("%s: error without CORS header", what)
		}
	}
	if len(r.creates) != 1 || len(r.ends) != 0 {
		t.Errorf("bad input reached the scheduler: %d creates, %d ends", len(r.creates), len(r.ends))
	}
}
