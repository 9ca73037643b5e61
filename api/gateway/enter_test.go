package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/perigee-cloud/perigee/api"
)

// enterRig has one instance that runs.
func enterRig(t *testing.T) (*rig, api.SessionID) {
	r, _ := instanceRig(t)
	a := r.call("POST", "/1.0/instances", `{"app_id":"xterm"}`)
	id := api.SessionID(strings.TrimPrefix(meta[api.OperationView](t, a).ID, "start-"))
	r.set(id, func(s *api.Session) { s.Observed = api.ObservedRunning })
	return r, id
}

func dialExec(t *testing.T, r *rig, id api.SessionID, token string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, res, err := websocket.Dial(ctx, r.url+"/1.0/instances/"+string(id)+"/exec", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	if err == nil {
		t.Cleanup(func() { _ = c.CloseNow() })
	}
	return c, res, err
}

func TestExecCarriesBothWays(t *testing.T) {
	r, id := enterRig(t)
	c, _, err := dialExec(t, r, id, "tok")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte(`{"command":["cat"],"interactive":true}`)); err != nil {
		t.Fatal(err)
	}
	l := <-r.links
	if l.ticket.Role != api.RoleEnter || l.session.ID != id {
		t.Errorf("opened for %+v of %s", l.ticket, l.session.ID)
	}
	var asked api.EnterRequest
	if err := json.Unmarshal(<-l.sent, &asked); err != nil || asked.Op != api.EnterExec || asked.Command[0] != "cat" || asked.Width != 80 {
		t.Errorf("asked %+v, %v", asked, err)
	}
	if err := c.Write(ctx, websocket.MessageBinary, []byte("\x00in")); err != nil {
		t.Fatal(err)
	}
	if got := string(<-l.sent); got != "\x00in" {
		t.Errorf("the instance gets %q", got)
	}
	l.back <- []byte("\x01out")
	if kind, b, err := c.Read(ctx); err != nil || kind != websocket.MessageBinary || string(b) != "\x01out" {
		t.Errorf("the client gets %v %q, %v", kind, b, err)
	}
	l.back <- api.EnterControl{Type: api.EnterEnded, Exit: 7}.Frame()
	kind, b, err := c.Read(ctx)
	if m, ok := api.ParseEnterControl(b); err != nil || kind != websocket.MessageText || !ok || m.Exit != 7 || m.Code != "" {
		t.Errorf("the client gets %v %q, %v", kind, b, err)
	}
	if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("closed with %v", err)
	}
	select {
	case <-l.closed:
	case <-time.After(patience):
		t.Error("the link is left open")
	}
}

// TestExecGoesOnWithoutItsInputRead: while a command takes no input nobody
// reads the client's answers to pings, and it has not gone for all that.
func TestExecGoesOnWithoutItsInputRead(t *testing.T) {
	r, id := enterRig(t)
	r.srv.timing.ping, r.srv.timing.write = 5*time.Millisecond, 20*time.Millisecond
	c, _, err := dialExec(t, r, id, "tok")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte(`{"command":["cat"]}`)); err != nil {
		t.Fatal(err)
	}
	l := <-r.links
	<-l.sent
	l.stuck.Store(true)
	if err := c.Write(ctx, websocket.MessageBinary, []byte("\x00in")); err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte, 1)
	go func() { // answers pings, too
		_, b, _ := c.Read(ctx)
		got <- b
	}()
	select {
	case b := <-got:
		t.Fatalf("it ends with %q", b)
	case <-time.After(300 * time.Millisecond): // fifteen pings without an answer
	}
	l.stuck.Store(false)
	for b := range l.sent {
		if string(b) == "\x00in" {
			break
		}
		if m, ok := api.ParseEnterControl(b); !ok || m.Type != api.EnterPing {
			t.Fatalf("the instance gets %q", b)
		}
	}
	l.back <- api.EnterControl{Type: api.EnterEnded, Exit: 7}.Frame()
	if m, ok := api.ParseEnterControl(<-got); !ok || m.Exit != 7 || m.Code != "" {
		t.Errorf("ended %+v", m)
	}
}

// TestExecWithoutItsInputReadEndsWithItsClient: a ping then finds the socket gone.
func TestExecWithoutItsInputReadEndsWithItsClient(t *testing.T) {
	r, id := enterRig(t)
	r.srv.timing.ping, r.srv.timing.write = 5*time.Millisecond, 20*time.Millisecond
	c, _, err := dialExec(t, r, id, "tok")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Write(t.Context(), websocket.MessageText, []byte(`{"command":["cat"]}`)); err != nil {
		t.Fatal(err)
	}
	l := <-r.links
	<-l.sent
	l.stuck.Store(true)
	if err := c.Write(t.Context(), websocket.MessageBinary, []byte("\x00in")); err != nil {
		t.Fatal(err)
	}
	_ = c.CloseNow()
	select {
	case <-l.closed:
	case <-time.After(patience):
		t.Error("the link is left open")
	}
}

func TestExecEndsWithItsClient(t *testing.T) {
	r, id := enterRig(t)
	c, _, err := dialExec(t, r, id, "tok")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Write(t.Context(), websocket.MessageText, []byte(`{"command":["cat"]}`)); err != nil {
		t.Fatal(err)
	}
	l := <-r.links
	_ = c.CloseNow()
	select {
	case <-l.closed:
	case <-time.After(patience):
		t.Error("the link is left open")
	}
}

func TestExecIsRefused(t *testing.T) {
	r, id := enterRig(t)
	for token, want := range map[string]int{"other": 404, "page": 403, "nobody": 401} {
		if _, res, err := dialExec(t, r, id, token); err == nil || res == nil || res.StatusCode != want {
			t.Errorf("%s: %v, want HTTP %d", token, err, want)
		}
	}
	if a := r.call("GET", "/1.0/instances/"+string(id)+"/exec", ""); a.status != http.StatusUpgradeRequired {
		t.Errorf("without an upgrade: %d %s", a.status, a.body)
	}
	for first, says := range map[string]string{`{}`: "command", `{"command":7}`: "command", `{"command":["x"],"cwd":"here"}`: "cwd"} {
		c, _, err := dialExec(t, r, id, "tok")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Write(t.Context(), websocket.MessageText, []byte(first)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, b, err := c.Read(ctx)
		cancel()
		if m, ok := api.ParseEnterControl(b); err != nil || !ok || m.Code != api.CodeInvalid || m.Field != says {
			t.Errorf("%s: %q, %v", first, b, err)
		}
	}
	r.set(id, func(s *api.Session) { s.Observed = api.ObservedStopped })
	if _, res, err := dialExec(t, r, id, "tok"); err == nil || res == nil || res.StatusCode != http.StatusConflict {
		t.Errorf("an ended instance: %v", err)
	}
}

func TestPushAFile(t *testing.T) {
	r, id := enterRig(t)
	answers := make(chan answer, 1)
	push := func(query, body string) { answers <- r.call("PUT", "/1.0/instances/"+string(id)+"/files?"+query, body) }
	go push("path=a/b&mode=600", "content")
	l := <-r.links
	var asked api.EnterRequest
	if err := json.Unmarshal(<-l.sent, &asked); err != nil || asked.Op != api.EnterPush || asked.Path != "a/b" || asked.Mode != 0o600 || asked.Size != 7 {
		t.Errorf("asked %+v, %v", asked, err)
	}
	l.back <- api.EnterControl{Type: api.EnterStarted}.Frame()
	if got := string(<-l.sent); got != "\x00content" {
		t.Errorf("the instance gets %q", got)
	}
	if m, ok := api.ParseEnterControl(<-l.sent); !ok || m.Type != api.EnterEnd {
		t.Errorf("then %+v", m)
	}
	l.back <- api.EnterControl{Type: api.EnterEnded, Size: 7}.Frame()
	a := <-answers
	if v := meta[api.FileView](t, a); a.status != 200 || v.Size != 7 || v.Path != "a/b" || v.Mode != "600" {
		t.Errorf("answered %d %s", a.status, a.body)
	}
	go push("path=x", "content")
	l = <-r.links
	l.back <- api.EnterFailed(api.Invalidf("path", "no")).Frame()
	if a := <-answers; a.status != 400 || a.env.Perigee.Field != "path" {
		t.Errorf("answered %d %s", a.status, a.body)
	}
	go push("path=x", "content")
	l = <-r.links
	l.back <- api.EnterControl{Type: api.EnterStarted}.Frame()
	l.back <- api.EnterFailed(api.Errorf(api.CodeTooLarge, "the disk is full")).Frame()
	if a := <-answers; a.status != 413 {
		t.Errorf("answered %d %s", a.status, a.body)
	}
	for query, field := range map[string]string{"": "path", "path=d/": "path", "path=x&mode=999": "mode", "path=x&mode=4755": "mode"} {
		if push(query, "x"); true {
			if a := <-answers; a.status != 400 || a.env.Perigee.Field != field {
				t.Errorf("%q: answered %d %s", query, a.status, a.body)
			}
		}
	}
}

func TestPullAFile(t *testing.T) {
	r, id := enterRig(t)
	answers := make(chan answer, 1)
	pull := func(headers ...string) {
		answers <- r.call("GET", "/1.0/instances/"+string(id)+"/files?path=x", "", headers...)
	}
	go pull()
	l := <-r.links
	l.back <- api.EnterControl{Type: api.EnterStarted, Size: 5, Mode: 0o750}.Frame()
	l.back <- []byte("\x01abc")
	l.back <- []byte("\x01de")
	l.back <- api.EnterControl{Type: api.EnterEnded, Size: 5}.Frame()
	if a := <-answers; a.status != 200 || a.body != "abcde" || a.header.Get("Perigee-File-Mode") != "0750" || a.header.Get("Content-Length") != "5" {
		t.Errorf("answered %d %v %q", a.status, a.header, a.body)
	}
	go pull()
	l = <-r.links
	l.back <- api.EnterFailed(api.Errorf(api.CodeNotFound, "no x")).Frame()
	if a := <-answers; a.status != 404 {
		t.Errorf("answered %d %s", a.status, a.body)
	}
	pull("Authorization", "Bearer other")
	if a := <-answers; a.status != 404 {
		t.Errorf("another account's: %d %s", a.status, a.body)
	}
}

func TestChangeAnInstance(t *testing.T) {
	r, x := instanceRig(t)
	a := r.call("POST", "/1.0/instances", `{"app_id":"xterm"}`)
	path := "/1.0/instances/" + strings.TrimPrefix(meta[api.OperationView](t, a).ID, "start-")
	if a := r.call("PATCH", path, `{"tags":["a","k=v"],"perigee":{"joinable":false,"delete_protected":true,"idle_time_min":5}}`); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	c := x.changes[0]
	if len(*c.Tags) != 2 || *c.Joinable || !*c.Protected || *c.IdleMinutes != 5 || c.Grant.Account != "acme" {
		t.Errorf("changed %+v", c)
	}
	for body, field := range map[string]string{
		`{}`: "body", `{"tags":["session=x"]}`: "tags", `{"tags":7}`: "tags", `{"perigee":{"idle_time_min":-1}}`: "idle_time_min", `{"perigee":{"delete_protected":"yes"}}`: "perigee.delete_protected",
	} {
		if a := r.call("PATCH", path, body); a.status != 400 || a.env.Perigee.Field != field {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	if a := r.call("PATCH", path, `{"tags":[]}`, "Authorization", "Bearer other"); a.status != 404 {
		t.Errorf("another account's: %d %s", a.status, a.body)
	}
	if len(x.changes) != 1 {
		t.Errorf("%d changes", len(x.changes))
	}
}
