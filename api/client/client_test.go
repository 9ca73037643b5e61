package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/perigee-cloud/perigee/api"
)

// stub answers every request alike and keeps the last one.
func stub(t *testing.T, status int, body string) (*Client, *http.Request) {
	t.Helper()
	seen := new(http.Request)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		*seen = *r
		seen.Body = io.NopCloser(strings.NewReader(string(b)))
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(srv.Close)
	c, err := New(Config{URL: srv.URL + "/base/", Token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, seen
}

func TestRequests(t *testing.T) {
	c, seen := stub(t, 200, `{"type":"sync","status":"success","status_code":200,"metadata":[],"total_size":41}`)
	ctx := t.Context()
	_, total, err := c.Sessions(ctx, api.SessionQuery{Status: api.StatusActive, Limit: 5, Offset: 10, SortBy: "app", SortOrder: "desc"})
	if err != nil || total != 41 {
		t.Fatalf("total %d, %v", total, err)
	}
	if seen.URL.Path != "/base/1.0/sessions" || seen.Header.Get("Authorization") != "Macaroon root=secret" {
		t.Errorf("asked %s as %q", seen.URL, seen.Header.Get("Authorization"))
	}
	if want := "limit=5&offset=10&recursion=true&sort_by=app&sort_order=desc&status=active"; seen.URL.RawQuery != want {
		t.Errorf("query %s", seen.URL.RawQuery)
	}
	if err := c.DeleteSession(ctx, "a/b", End{Sync: true}); err != nil {
		t.Fatal(err)
	}
	if seen.Method != http.MethodDelete || seen.URL.EscapedPath() != "/base/1.0/sessions/a%2Fb" || seen.URL.RawQuery != "sync=true" {
		t.Errorf("asked %s %s", seen.Method, seen.URL)
	}
	if list, err := c.Probes(ctx, "203.0.113.7"); err != nil || len(list) != 0 || seen.URL.RequestURI() != "/base/1.0/probes?client_address=203.0.113.7" {
		t.Errorf("probes %v, %v from %s", list, err, seen.URL)
	}
	c2, seen := stub(t, 202, `{"type":"async","status":"success","status_code":202,"metadata":{"deleted_sessions":["a"],"errors":[]}}`)
	if a, err := c2.DeleteSessions(ctx, []api.SessionID{"a"}, End{}); err != nil || len(a.Deleted) != 1 {
		t.Errorf("batch: %+v, %v", a, err)
	}
	if b, _ := io.ReadAll(seen.Body); string(b) != `{"ids":["a"]}` || seen.Header.Get("Content-Type") != "application/json" {
		t.Errorf("sent %s", b)
	}
}

func TestErrors(t *testing.T) {
	ctx := t.Context()
	for _, c := range []struct {
		status int
		body   string
		code   api.Code
		text   string
	}{
		{404, `{"type":"error","status":"failed","status_code":404,"error":"no node","perigee":{"code":"no_capacity","refusals":[{"node":"n1","code":"encoder","detail":"full"}]}}`, api.CodeNoCapacity, "no node"},
		{400, `{"type":"error","status":"failed","status_code":400,"error":"app: is missing","perigee":{"code":"invalid","field":"app"}}`, api.CodeInvalid, "app: is missing"},
		{429, `{"type":"error","status":"failed","status_code":429}`, api.CodeRateLimited, "HTTP status 429"},
		{413, `{"type":"error","status":"failed"}`, api.CodeTooLarge, "413"},
		{401, `{"type":"error","status":"failed","error":"who?"}`, api.CodeUnauthorized, "who?"},
		{403, `{"type":"error"}`, api.CodeForbidden, ""},
		{409, `{"type":"error"}`, api.CodeConflict, ""},
		{502, `{"type":"error"}`, api.CodeUnavailable, ""},
		{504, `{"type":"error"}`, api.CodeTimeout, ""},
		{500, `{"type":"error"}`, api.CodeInternal, ""},
	} {
		cl, _ := stub(t, c.status, c.body)
		_, err := cl.Session(ctx, "x")
		var e *api.Error
		if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(e.Error(), c.text) {
			t.Errorf("%d %s: %v", c.status, c.body, err)
		}
		if c.code == api.CodeNoCapacity && (len(e.Refusals) != 1 || e.Refusals[0].Node != "n1") {
			t.Errorf("refusals %+v", e.Refusals)
		}
	}
	cl, _ := stub(t, 502, "<html>proxy says no</html>")
	if _, err := cl.Session(ctx, "x"); err == nil || !strings.Contains(err.Error(), "502") || !strings.Contains(err.Error(), "not an answer of Perigee") {
		t.Errorf("a proxy's page: %v", err)
	}
}

func TestCallsHaveADeadline(t *testing.T) {
	stop := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stop }))
	defer srv.Close()
	defer close(stop)
	c, err := New(Config{URL: srv.URL, Timeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Session(context.Background(), "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestConfiguration(t *testing.T) {
	for _, c := range []Config{{}, {URL: "http://x", Socket: "/y"}, {URL: "x"}, {URL: "ws://x"}, {URL: "http://\x00"}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

func TestSignal(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = c.CloseNow() }()
		_, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		_ = c.Write(r.Context(), websocket.MessageText, b) // the message back
		_ = c.Write(r.Context(), websocket.MessageText, []byte(`no json`))
		_, _, _ = c.Read(r.Context()) // the close
	}))
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := DialSignal(ctx, "ws"+strings.TrimPrefix(srv.URL, "http"))
	if err != nil {
		t.Fatal(err)
	}
	mid := "0"
	if err := s.Send(ctx, Message{Type: "candidate", Candidate: "eA==", SDPMid: &mid}); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Receive(ctx); err != nil || m.Candidate != "eA==" || *m.SDPMid != "0" || m.SDPMLineIndex != nil {
		t.Errorf("got %+v, %v", m, err)
	}
	if _, err := s.Receive(ctx); err == nil || !strings.Contains(err.Error(), "read message") {
		t.Errorf("a message that is not JSON: %v", err)
	}
	if err := s.Send(ctx, make(chan int)); err == nil {
		t.Error("a value that JSON cannot hold was sent")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := DialSignal(ctx, "ws://127.0.0.1:1/"); err == nil {
		t.Error("nobody listens there")
	}
}
