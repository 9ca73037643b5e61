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
	c, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPHeader: h}) //nolint:bodyclose // the library's
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
