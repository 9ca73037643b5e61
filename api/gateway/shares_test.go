package gateway

import (
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// active makes a session that runs.
func (r *rig) active() api.SessionID {
	r.t.Helper()
	id := r.create("xterm").ID
	r.mu.Lock()
	r.sessions[id].Observed = api.ObservedRunning
	r.mu.Unlock()
	return id
}

func TestShares(t *testing.T) {
	r := newRig(t)
	id := r.active()
	path := "/1.0/sessions/" + string(id) + "/share"
	var x api.ShareView
	read := func(a answer) {
		t.Helper()
		x = api.ShareView{}
		if a.status != 200 || json.Unmarshal(a.env.Metadata, &x) != nil {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	read(r.call("POST", path, ""))
	if x.ID != string(id)+"-1" || x.Type != "stream" || x.Perigee.Role != api.RoleViewer || len(x.Perigee.Rights) > 0 {
		t.Errorf("a share of an empty body is %+v", x)
	}
	u, err := url.Parse(x.URL)
	link, err2 := url.Parse(x.Perigee.Link)
	if err != nil || err2 != nil || u.Path != "/1.0/sessions/"+string(id)+"/connect" || link.Query().Get("session") != string(id) ||
		link.Fragment != "share="+u.Query().Get("token") || strings.Contains(link.RawQuery, "token") {
		t.Errorf("url %q, link %q", x.URL, x.Perigee.Link)
	}
	// The link needs no token of an account.
	var join api.JoinAnswer
	a := r.call("GET", u.RequestURI(), "", "Authorization", "")
	if a.status != 200 || json.Unmarshal(a.env.Metadata, &join) != nil || !strings.Contains(join.URL, "/sockets/slave?token=") || join.STUNServers == nil {
		t.Errorf("connect: %d %s", a.status, a.body)
	}
	if a := r.call("GET", "/1.0/sessions/"+string(id)+"/connect?token=x", "", "Authorization", ""); a.status != 401 {
		t.Errorf("a made-up token: %d", a.status)
	}
	if a := r.call("GET", "/1.0/sessions/"+string(id)+"/connect", "", "Authorization", ""); a.status != 401 {
		t.Errorf("no token: %d", a.status)
	}

	at := time.Now().Add(time.Hour).Unix()
	read(r.call("POST", path, `{"type":"stream","description":"Ann","expiry_min":9,"expiry_at":`+strconv.FormatInt(at, 10)+`,"perigee":{"role":"control","rights":["input","input"]}}`))
	if x.ExpiryAt != at || x.Description != "Ann" || x.Perigee.Role != api.RoleControl || len(x.Perigee.Rights) != 1 || x.ExpiryMin != 60 {
		t.Errorf("got %+v", x)
	}
	read(r.call("POST", path, `{"perigee":{"rights":[]}}`))
	if x.Perigee.Role != api.RoleViewer {
		t.Errorf("control without any right is %+v", x.Perigee)
	}
	for body, field := range map[string]string{
		`{"type":"adb"}`: "type", `{"expiry_at":-1}`: "expiry_at", `{"expiry_min":-1}`: "expiry_min", `{"perigee":{"role":"master"}}`: "perigee.role",
		`{"perigee":{"role":"viewer","rights":["input"]}}`: "perigee.rights", `{"perigee":{"rights":["fly"]}}`: "perigee.rights",
		`{"perigee":{"rights":["gamepad"]}}`: "perigee.rights", // nothing serves it
	} {
		if a := r.call("POST", path, body); a.status != 400 || a.env.Perigee.Field != field {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}

	one := "/1.0/shares/" + string(id) + "-2"
	read(r.call("PATCH", one, `{"description":"Bob"}`))
	if x.Description != "Bob" || x.ExpiryAt != at {
		t.Errorf("changed to %+v", x)
	}
	read(r.call("GET", one, ""))
	if x.URL == "" {
		t.Error("a share is shown without its url")
	}
	a = r.call("GET", "/1.0/shares?recursion=true&limit=2&session_id="+string(id), "")
	if a.status != 200 || *a.env.TotalSize != 3 || strings.Contains(a.body, "token") {
		t.Errorf("list: %s", a.body)
	}
	if a := r.call("GET", one, "", "Authorization", "Macaroon root=other"); a.status != 404 {
		t.Errorf("another account sees the share: %d", a.status)
	}
	if a := r.call("DELETE", one, "", "Authorization", "Macaroon root=other"); a.status != 404 {
		t.Errorf("another account revokes the share: %d", a.status)
	}
	if a := r.call("DELETE", one, ""); a.status != 202 {
		t.Errorf("delete: %d %s", a.status, a.body)
	}
	if a := r.call("DELETE", one+"?sync=true", ""); a.status != 404 {
		t.Errorf("delete again: %d %s", a.status, a.body)
	}
	if a := r.call("DELETE", "/1.0/shares/nonsense", ""); a.status != 404 {
		t.Errorf("delete nonsense: %d", a.status)
	}
}

func TestJoinSaysWhatTheClientMayDo(t *testing.T) {
	r := newRig(t)
	id := r.active()
	if a := r.call("POST", "/1.0/sessions/"+string(id)+"/join", `{"perigee":{"role":"viewer"}}`); a.status != 200 || r.joins[0].Seat.Role != api.RoleViewer {
		t.Errorf("%d: %+v", a.status, r.joins)
	}
	if a := r.call("POST", "/1.0/sessions/"+string(id)+"/join", `{"perigee":{"role":"king"}}`); a.status != 400 || a.env.Perigee.Field != "perigee.role" {
		t.Errorf("%d: %s", a.status, a.body)
	}
}
