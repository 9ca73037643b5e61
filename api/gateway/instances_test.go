package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// fakeInstances shows the fake's sessions as instances.
type fakeInstances struct {
	f *fake

	mu       sync.Mutex // guards the fields below
	launches []api.LaunchRequest
	changes  []api.InstanceChange
	bare     map[api.SessionID]bool
	log      string
	ended    bool
}

func (x *fakeInstances) shown(s api.Session) api.Instance {
	x.mu.Lock()
	defer x.mu.Unlock()
	return api.Instance{Session: s, Name: api.InstanceName(s.ID), Streaming: !x.bare[s.ID], Tags: []string{"lab"}}
}

func (x *fakeInstances) LaunchInstance(ctx context.Context, r api.LaunchRequest) (api.Instance, error) {
	a, err := x.f.CreateSession(ctx, api.CreateRequest{App: r.App, Grant: r.Grant, Screen: r.Screen})
	x.mu.Lock()
	x.launches = append(x.launches, r)
	if !r.Streaming {
		x.bare[a.Session.ID] = true
	}
	x.mu.Unlock()
	return x.shown(a.Session), err
}

func (x *fakeInstances) Instance(ctx context.Context, account, name string) (api.Instance, error) {
	s, err := x.f.Session(ctx, api.SessionID(strings.TrimPrefix(name, "ams-")))
	if err != nil || account != "" && account != s.Account {
		return api.Instance{}, api.Errorf(api.CodeNotFound, "no instance %q", name)
	}
	return x.shown(s), nil
}

func (x *fakeInstances) ListInstances(_ context.Context, q api.InstanceQuery) ([]api.Instance, int, error) {
	x.f.mu.Lock()
	var all []api.Session
	for _, s := range x.f.sessions {
		all = append(all, *s)
	}
	x.f.mu.Unlock()
	slices.SortFunc(all, func(a, b api.Session) int { return a.CreatedAt.Compare(b.CreatedAt) })
	var out []api.Instance
	for _, s := range all {
		if i := x.shown(s); q.Fits(&i) {
			out = append(out, i)
		}
	}
	return out, len(out), nil
}

func (x *fakeInstances) InstanceLog(_ context.Context, _ api.Session, q api.LogQuery) (api.LogPart, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.log == "" {
		return api.LogPart{}, api.Errorf(api.CodeNotFound, "the node has no log of it")
	}
	from := q.Offset
	if q.Tail > 0 {
		from = int64(max(len(x.log)-q.Tail, 0))
	}
	from = min(from, int64(len(x.log)))
	return api.LogPart{Text: x.log[from:], From: from, Next: int64(len(x.log)), Ended: x.ended}, nil
}

func (x *fakeInstances) ChangeInstance(_ context.Context, id api.SessionID, c api.InstanceChange) (api.Instance, error) {
	x.mu.Lock()
	x.changes = append(x.changes, c)
	x.mu.Unlock()
	s, err := x.f.Session(context.Background(), id)
	return x.shown(s), err
}

func (x *fakeInstances) EnterInstance(_ context.Context, s api.Session) error {
	if s.Observed != api.ObservedRunning {
		return api.Errorf(api.CodeConflict, "the instance does not run: it is %s", s.Status())
	}
	return nil
}

func (x *fakeInstances) say(text string, ended bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.log, x.ended = x.log+text, ended
}

func instanceRig(t *testing.T) (*rig, *fakeInstances) {
	x := &fakeInstances{bare: map[api.SessionID]bool{}}
	r := newRig(t, func(c *Config) { c.Instances = x })
	x.f = r.fake
	return r, x
}

func meta[T any](t *testing.T, a answer) (v T) {
	t.Helper()
	if err := json.Unmarshal(a.env.Metadata, &v); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
	return v
}

func TestInstanceLife(t *testing.T) {
	r, x := instanceRig(t)
	a := r.call("POST", "/1.0/instances/", `{"app_id":"xterm","tags":["lab"],"user_data":{"a":1},"config":{"enable_streaming":true,"display":{"width":800,"height":600}},"perigee":{"idle_time_min":5}}`)
	if a.status != 202 || a.env.Type != "async" || !strings.HasPrefix(a.header.Get("Location"), "/1.0/operations/start-") || !strings.Contains(a.body, `"operation":"/1.0/operations/start-`) {
		t.Fatalf("launched with %d %v %s", a.status, a.header, a.body)
	}
	op := meta[api.OperationView](t, a)
	if op.StatusCode != api.OperationRunning || op.Status != "Running" || len(op.Resources["instances"]) != 1 {
		t.Errorf("the operation is %+v", op)
	}
	if l := x.launches[0]; !l.Streaming || l.IdleMinutes != 5 || l.Screen.Width != 800 || string(l.UserData) != `{"a":1}` || l.Grant.Account != "acme" {
		t.Errorf("launched as %+v", l)
	}
	path := op.Resources["instances"][0]
	id := api.SessionID(path[strings.LastIndexByte(path, '/')+1:])
	v := meta[api.InstanceView](t, r.call("GET", path, ""))
	if v.Status != "prepared" || v.StatusCode != 2 || v.Name != "ams-"+string(id) || v.AppName != "xterm" || !v.Config.EnableStreaming ||
		v.Config.Platform != "webrtc" || !slices.Contains(v.Tags, "session="+string(id)) || *v.Config.Display.Width != 800 {
		t.Errorf("shown as %+v", v)
	}
	if list := meta[[]api.OperationView](t, r.call("GET", "/1.0/operations", "")); len(list) != 1 || list[0].ID != op.ID {
		t.Errorf("what goes on is %+v", list)
	}
	go func() {
		time.Sleep(50 * time.Millisecond) // long enough to be waited for; shorter is right too
		r.set(id, func(s *api.Session) { s.Observed = api.ObservedRunning })
	}()
	if o := meta[api.OperationView](t, r.call("GET", "/1.0/operations/"+op.ID+"/wait?timeout=10", "")); o.StatusCode != api.OperationSuccess {
		t.Errorf("waited for %+v", o)
	}
	if v := meta[[]api.InstanceView](t, r.call("GET", "/1.0/instances?recursion=1&status=running&tags=lab", "")); len(v) != 1 || v[0].StatusCode != 4 {
		t.Errorf("running are %+v", v)
	}
	if list := meta[[]string](t, r.call("GET", "/1.0/instances?status=5", "")); len(list) != 0 {
		t.Errorf("stopped are %v", list)
	}
	if a := r.call("GET", "/1.0/operations/stop-"+string(id), ""); a.status != 404 {
		t.Errorf("an end that nobody asked for: %d %s", a.status, a.body)
	}
	a = r.call("DELETE", "/1.0/instances/ams-"+string(id)+"?force=true", "")
	if a.status != 202 || a.env.Type != "async" || len(r.ends) != 1 || !r.ends[0].Force {
		t.Errorf("deleted with %d %s", a.status, a.body)
	}
	if o := meta[api.OperationView](t, r.call("GET", a.header.Get("Location")+"/wait?timeout=0", "")); o.StatusCode != api.OperationRunning {
		t.Errorf("the end is %+v while it runs", o)
	}
	r.set(id, func(s *api.Session) { s.Observed, s.Reason = api.ObservedStopped, api.ReasonDeleted })
	if o := meta[api.OperationView](t, r.call("GET", a.header.Get("Location"), "")); o.StatusCode != api.OperationSuccess {
		t.Errorf("the end is %+v", o)
	}
}

func TestInstancesRefuse(t *testing.T) {
	r, _ := instanceRig(t)
	r.create("xterm")
	for _, c := range []struct {
		method, path, body, want string
		status                   int
	}{
		{"POST", "instances", `{}`, "app_id: is missing", 400},
		{"POST", "instances", `{"app_id":"xterm","no_start":true}`, "no_start: is not offered", 400},
		{"POST", "instances", `{"app_id":"xterm","name":"a b"}`, "name:", 400},
		{"POST", "instances", `{"app_id":"xterm","tags":["session=1"]}`, "given by us", 400},
		{"POST", "instances", `{"app_id":"xterm","config":{"display":{"width":0}}}`, "screen.width", 400},
		{"POST", "instances", `{"app_id":"none"}`, "does not exist", 404},
		{"GET", "instances?status=going", "", "is no state", 400},
		{"GET", "instances?limit=-1", "", "limit", 400},
		{"GET", "instances/none", "", "no instance", 404},
		{"GET", "instances/a%20b", "", "is not", 400},
		{"DELETE", "instances/none", "", "no instance", 404},
		{"GET", "instances/sess0000000000000001/logs/other.log", "", "no log", 404},
		{"GET", "instances/sess0000000000000001/logs/app.log", "", "no log of it", 404},
		{"GET", "instances/sess0000000000000001/logs/app.log?offset=-1", "", "offset", 400},
		{"GET", "operations/none", "", "no operation", 404},
		{"GET", "operations/start-none", "", "no instance", 404},
		{"GET", "operations/start-sess0000000000000001/wait?timeout=x", "", "must be seconds", 400},
		{"GET", "events?type=weather", "", "is no kind of event", 400},
	} {
		a := r.call(c.method, "/1.0/"+c.path, c.body)
		if a.status != c.status || !strings.Contains(a.body, c.want) {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, a.status, a.body)
		}
	}
	for _, path := range []string{"instances/sess0000000000000001", "instances/sess0000000000000001/logs/app.log"} {
		if a := r.call("GET", "/1.0/"+path, "", "Authorization", "Bearer other"); a.status != 404 {
			t.Errorf("%s is shown to another account: %d", path, a.status)
		}
		if a := r.call("GET", "/1.0/"+path, "", "Authorization", ""); a.status != 401 {
			t.Errorf("%s is shown to everybody: %d", path, a.status)
		}
	}
	if a := newRig(t).call("GET", "/1.0/instances", ""); a.status != 404 {
		t.Errorf("a gateway without instances: %d", a.status)
	}
}

func TestInstanceLogs(t *testing.T) {
	r, x := instanceRig(t)
	path := "/1.0/instances/" + string(r.create("xterm").ID) + "/logs/app.log"
	x.say("one\n", false)
	if a := r.call("GET", path, ""); a.body != "one\n" || a.header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("the log is %q %v", a.body, a.header)
	}
	if a := r.call("GET", path+"?tail=2", ""); a.body != "e\n" || a.header.Get("Perigee-Log-From") != "2" {
		t.Errorf("its tail is %q %v", a.body, a.header)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+path+"?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer tok")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	lines := bufio.NewReader(res.Body)
	for n, text := range []string{"one\n", "two\n", "last\n"} {
		if n > 0 {
			x.say(text, n == 2)
		}
		if got, err := lines.ReadString('\n'); err != nil || got != text {
			t.Fatalf("following gives %q (%v), want %q", got, err, text)
		}
	}
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("after the end came %q, %v", rest, err)
	}
}

// TestInstanceOfAnotherApplication holds that a token of one application reaches
// no instance of another one, of the same account either.
func TestInstanceOfAnotherApplication(t *testing.T) {
	r, x := instanceRig(t)
	x.say("secret\n", true)
	r.fake.mu.Lock()
	for token, app := range map[string]string{"caver": "cave", "termer": "xterm"} {
		r.fake.tokens[token] = api.Grant{Account: "acme", Rights: []api.Right{api.RightSessions}, App: app, Uses: -1}
	}
	r.fake.mu.Unlock()
	id := r.create("xterm").ID
	path := "/1.0/instances/" + string(id)
	for _, q := range []struct{ method, path, body string }{
		{"GET", path, ""}, {"GET", path + "/logs", ""}, {"GET", path + "/logs/app.log", ""}, {"GET", "/1.0/operations/start-" + string(id), ""},
		{"PATCH", path, `{"perigee":{"delete_protected":true}}`}, {"DELETE", path, ""},
	} {
		if a := r.call(q.method, q.path, q.body, "Authorization", "Bearer caver"); a.status != http.StatusForbidden || !strings.Contains(a.body, "cave") || strings.Contains(a.body, "secret") {
			t.Errorf("%s %s: %d %s", q.method, q.path, a.status, a.body)
		}
		if q.method == "DELETE" && len(r.fake.ends) > 0 || len(x.changes) > 0 {
			t.Fatalf("%s came through", q.method)
		}
	}
	for _, q := range []struct{ method, path, body string }{
		{"GET", path, ""}, {"GET", path + "/logs/app.log", ""}, {"PATCH", path, `{"perigee":{"delete_protected":true}}`}, {"DELETE", path, ""},
	} {
		if a := r.call(q.method, q.path, q.body, "Authorization", "Bearer termer"); a.status >= 300 {
			t.Errorf("with its own application's token, %s %s: %d %s", q.method, q.path, a.status, a.body)
		}
	}
}

func TestEvents(t *testing.T) {
	r, _ := instanceRig(t)
	c := dial(t, "ws"+strings.TrimPrefix(r.url, "http")+"/1.0/events?type=lifecycle", "Authorization", "Bearer tok")
	id := r.create("xterm").ID
	for _, step := range []struct {
		change func(*api.Session)
		action string
	}{
		{func(*api.Session) {}, "instance-scheduled"},
		{func(s *api.Session) { s.Observed = api.ObservedRunning }, "instance-running"},
		{func(s *api.Session) { s.Observed, s.Reason = api.ObservedFailed, api.ReasonAppCrashed }, "instance-failed"},
	} {
		r.set(id, step.change)
		var e struct {
			Type     string             `json:"type"`
			Metadata api.LifecycleEvent `json:"metadata"`
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, b, err := c.Read(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &e); err != nil || e.Type != "lifecycle" || e.Metadata.Action != step.action || e.Metadata.Source != "/1.0/instances/"+string(id) {
			t.Errorf("told %s (%v), want %s", b, err, step.action)
		}
	}
}
