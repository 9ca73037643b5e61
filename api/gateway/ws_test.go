package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/perigee-cloud/perigee/api"
)

const patience = 10 * time.Second

// dial opens a websocket and closes it with the test.
func dial(t *testing.T, url string, header ...string) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	c, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPHeader: h})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(-1)
	t.Cleanup(func() { _ = c.CloseNow() })
	return c
}

// refused opens a websocket that must be refused, and gives the status.
func refused(t *testing.T, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, res, err := websocket.Dial(ctx, url, nil)
	if err == nil {
		_ = c.CloseNow()
		t.Fatalf("%s was let in", url)
	}
	if res == nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, _ := res.Body.Read(b)
	return res.StatusCode, string(b[:n])
}

func put(t *testing.T, c *websocket.Conn, frame string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte(frame)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, c *websocket.Conn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, b, err := c.Read(ctx)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(b)
}

// wantFault reads the error frame and the close after it.
func wantFault(t *testing.T, c *websocket.Conn, part string) {
	t.Helper()
	frame := read(t, c)
	var e struct{ Type, Message string }
	if err := json.Unmarshal([]byte(frame), &e); err != nil || e.Type != "error" || !strings.Contains(e.Message, part) {
		t.Fatalf("got frame %s, want an error with %q", frame, part)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, _, err := c.Read(ctx)
	var ce websocket.CloseError
	if !errors.As(err, &ce) {
		t.Fatalf("after the error frame came %v, want a close", err)
	}
}

func wait[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s in %v", what, patience)
		panic("unreachable")
	}
}

func TestSlaveForwardsBothWays(t *testing.T) {
	r := newRig(t)
	a := r.create("xterm")
	if !strings.HasPrefix(a.URL, "ws://") {
		t.Fatalf("url is %s", a.URL)
	}
	for _, url := range []string{a.URL, strings.Replace(a.URL, "/sessions/", "/session/", 1), strings.Replace(a.URL, "slave?", "slave/?", 1)} {
		c := dial(t, url)
		put(t, c, `{"type":"discover"}`)
		if got, want := read(t, c), `{"type":"resp:discover","max_api_version":2,"fps":60,"capabilities":[]}`; got != want {
			t.Fatalf("discover was answered %s", got)
		}
		l := wait(t, "link", r.links)
		if l.session.ID != a.ID || l.ticket.Role != api.RoleControl || l.ticket.Viewer != 1 {
			t.Fatalf("link for %s as %+v", l.session.ID, l.ticket)
		}
		for _, f := range []string{`{"type":"settings","api_version":2}`, `{"type":"made-up", "x" : [1] }`, `not json at all`} {
			put(t, c, f)
			if got := string(wait(t, "frame", l.sent)); got != f {
				t.Fatalf("forwarded %q, want it untouched: %q", got, f)
			}
		}
		l.back <- []byte(`{"type":"offer","sdp":"eA=="}`)
		if got := read(t, c); got != `{"type":"offer","sdp":"eA=="}` {
			t.Fatalf("got %s", got)
		}
		put(t, c, `{"type":"candidate","n":"last"}`)
		if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Fatal(err)
		}
		if got := string(wait(t, "last frame", l.sent)); !strings.Contains(got, "last") {
			t.Fatalf("got %s", got)
		}
		wait(t, "close of the link", l.closed)
	}
	if len(r.ends) != 0 {
		t.Errorf("a client that closed its websocket ended the session")
	}
}

func TestWebsocketsAreRefusedBeforeTheUpgrade(t *testing.T) {
	r := newRig(t)
	one, two := r.create("xterm"), r.create("xterm")
	base := "ws" + strings.TrimPrefix(r.url, "http") + "/1.0/sessions/" + string(one.ID) + "/sockets/"
	expired := api.Ticket{Session: one.ID, Generation: 1, Role: api.RoleControl, Viewer: 1, Expires: time.Now().Add(-time.Hour).Unix()}.Sign(r.key)
	_, token, _ := strings.Cut(one.URL, "?token=")
	_, other, _ := strings.Cut(two.URL, "?token=")
	for what, c := range map[string]struct {
		url    string
		status int
	}{
		"no ticket":                {base + "slave", 401},
		"nonsense":                 {base + "slave?token=abc", 401},
		"a forged ticket":          {base + "slave?token=" + token[:len(token)-4] + "AAAA", 401},
		"an expired ticket":        {base + "slave?token=" + expired, 401},
		"another session's ticket": {base + "slave?token=" + other, 401},
		"an account's token":       {base + "slave?api_token=tok", 401},
		"a master's ticket":        {base + "slave?token=" + r.ticket(one.ID, api.RoleMaster, 0), 401},
		"an ill-formed id":         {strings.Replace(base, string(one.ID), "a%20b", 1) + "slave?token=" + token, 400},
		"master without ticket":    {base + "master", 401},
		"master with one's ticket": {base + "master?token=" + token, 409},
		"master with a token":      {base + "master?api_token=tok", 409},
		"master of another's":      {base + "master?api_token=other", 404},
		"adb":                      {base + "adb?token=" + token, 404},
	} {
		status, body := refused(t, c.url)
		if status != c.status || !strings.Contains(body, `"status":"failed"`) {
			t.Errorf("%s: %d %s, want %d", what, status, body, c.status)
		}
	}
	if len(r.links) != 0 {
		t.Errorf("%d links were opened", len(r.links))
	}
	if a := r.call("GET", "/1.0/sessions/"+string(one.ID)+"/sockets/slave?token="+token, ""); a.status != http.StatusUpgradeRequired {
		t.Errorf("no upgrade asked: %d", a.status)
	}
}

func TestWebsocketOrigins(t *testing.T) {
	r := newRig(t, func(c *Config) { c.CORSOrigins = []string{"https://app.example"} })
	a := r.create("xterm")
	dial(t, a.URL, "Origin", "https://app.example")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, res, err := websocket.Dial(ctx, a.URL, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://evil.example"}}})
	if err == nil || res == nil || res.StatusCode != http.StatusForbidden {
		t.Errorf("an origin that is not allowed: %v", err)
	}
}

func TestDrain(t *testing.T) {
	r := newRig(t)
	a := r.create("xterm")
	one, two := dial(t, a.URL), dial(t, a.URL)
	l := wait(t, "link", r.links)
	wait(t, "link", r.links)
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		done <- r.srv.Drain(ctx)
	}()
	wantFault(t, one, "going away")
	wantFault(t, two, "going away")
	if err := wait(t, "end of draining", done); err != nil {
		t.Fatal(err)
	}
	wait(t, "close of the link", l.closed)
	if status, _ := refused(t, a.URL); status != 503 {
		t.Errorf("a draining gateway answers a new websocket with %d", status)
	}
	if a := r.call("GET", "/1.0/status", "", "Authorization", ""); !strings.Contains(a.body, "unhealthy") {
		t.Errorf("a draining gateway says %s", a.body)
	}
	if a := r.call("GET", "/1.0/sessions", ""); a.status != 200 {
		t.Errorf("a draining gateway does not serve requests: %d", a.status)
	}
}

func TestVanishedClientIsFound(t *testing.T) {
	r := newRig(t)
	r.srv.timing.ping, r.srv.timing.write = 5*time.Millisecond, 20*time.Millisecond
	a := r.create("xterm")
	dial(t, a.URL) // nobody reads, so no ping is answered
	wait(t, "close of the link", wait(t, "link", r.links).closed)
}

func TestSocketsAreBounded(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxSockets = 1 })
	a := r.create("xterm")
	dial(t, a.URL)
	wait(t, "link", r.links)
	if status, _ := refused(t, a.URL); status != 503 {
		t.Errorf("a websocket over the limit: %d", status)
	}
}

func TestExternalProvider(t *testing.T) {
	r := newRig(t)
	a := r.create("cave")
	master := strings.Replace(strings.Split(a.URL, "?")[0], "/slave", "/master", 1)
	if status, _ := refused(t, master+"?"+strings.Split(a.URL, "?")[1]); status != 401 {
		t.Errorf("a client's ticket as provider: %d", status)
	}

	client := dial(t, a.URL)
	put(t, client, `{"type":"discover"}`) // before the provider is there
	provider := dial(t, master+"?token="+r.ticket(a.ID, api.RoleMaster, 0))
	if got := read(t, provider); got != `{"type":"discover"}` {
		t.Fatalf("provider got %s", got)
	}
	put(t, provider, `{"type":"resp:discover","max_api_version":2}`)
	if got := read(t, client); got != `{"type":"resp:discover","max_api_version":2}` {
		t.Fatalf("client got %s", got)
	}
	if status, body := refused(t, master+"?api_token=tok"); status != 409 || !strings.Contains(body, "connected already") {
		t.Errorf("a second provider: %d %s", status, body)
	}

	// A new client takes over; the first is told.
	second := dial(t, a.URL)
	wantFault(t, client, "another client joined")
	put(t, second, `{"type":"settings"}`)
	if got := read(t, provider); got != `{"type":"settings"}` {
		t.Fatalf("provider got %s", got)
	}
	put(t, provider, `{"type":"offer"}`)
	if got := read(t, second); got != `{"type":"offer"}` {
		t.Fatalf("second client got %s", got)
	}
	// The client leaves; what it sent last still arrives.
	put(t, second, `{"type":"candidate"}`)
	if err := second.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatal(err)
	}
	if got := read(t, provider); got != `{"type":"candidate"}` {
		t.Fatalf("provider got %s", got)
	}
	if err := provider.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for {
		r.srv.hub.mu.Lock()
		n := len(r.srv.hub.rooms)
		r.srv.hub.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d rooms are left", n)
		}
		time.Sleep(time.Millisecond)
	}
	if len(r.links) != 0 {
		t.Errorf("a link to an edge was opened for an external application")
	}
}
