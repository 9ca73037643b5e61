package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
	"github.com/perigee-cloud/perigee/cmd/run/site"
)

// send makes one raw request and gives the status and the body.
func (w *world) send(t *testing.T, method, path, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.API+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Macaroon root="+w.token)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestBadRequests(t *testing.T) {
	w := newWorld(t)
	create := func(body string) (int, string) { return w.send(t, "POST", "/1.0/sessions", body) }
	for _, c := range []struct {
		name, body string
		status     int
		says       string
	}{
		{"unknown app", `{"app":"nope"}`, 404, "nope"},
		{"no app", `{}`, 400, "app"},
		{"malformed", `{"app":`, 400, "JSON"},
		{"wrong type", `{"app":"xterm","screen":{"width":"wide"}}`, 400, "screen.width"},
		{"too wide", `{"app":"xterm","screen":{"width":3841,"height":10}}`, 400, "screen.width"},
		{"negative idle time", `{"app":"xterm","idle_time_min":-5}`, 400, "idle_time_min"},
		{"unknown codec", `{"app":"xterm","perigee":{"codecs":["MPEG1"]}}`, 400, "codec"},
		{"oversized", `{"app":"xterm","extra_data":"` + strings.Repeat("x", 2<<20) + `"}`, 413, "1048576"},
	} {
		status, text := create(c.body)
		if status != c.status || !strings.Contains(text, c.says) || !strings.Contains(text, `"failed"`) {
			t.Errorf("%s: HTTP %d %.300s; want %d naming %q", c.name, status, text, c.status, c.says)
		}
	}
	if status, _ := w.send(t, "GET", "/1.0/sessions", "", "Authorization", ""); status != 401 {
		t.Errorf("no token: HTTP %d, want 401", status)
	}
	if status, _ := w.send(t, "GET", "/1.0/sessions", "", "Authorization", "Macaroon root=wrong"); status != 401 {
		t.Errorf("wrong token: HTTP %d, want 401", status)
	}
	list, n, err := w.client.Sessions(t.Context(), api.SessionQuery{})
	if err != nil || n != 0 {
		t.Errorf("refused requests left sessions %v, %v", list, err)
	}
}

func TestTokensExpireAndAreRevoked(t *testing.T) {
	w := newWorld(t)
	admin, err := client.New(client.Config{Socket: filepath.Join(w.SchedulerData(), "admin.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	try := func(token string) error {
		c, err := client.New(client.Config{URL: w.API, Token: token})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = c.Applications(t.Context())
		return err
	}
	a, err := admin.CreateToken(t.Context(), api.TokenSpec{Account: "short", TTL: time.Second, Rights: []api.Right{api.RightSessions}})
	if err != nil {
		t.Fatal(err)
	}
	if err := try(a.Token); err != nil {
		t.Errorf("a good token is refused: %v", err)
	}
	eventually(t, 5*time.Second, func() error {
		if api.CodeOf(try(a.Token)) != api.CodeUnauthorized {
			return errors.New("the token is still good after its time")
		}
		return nil
	})
	b, err := admin.CreateToken(t.Context(), api.TokenSpec{Account: "long", Rights: []api.Right{api.RightSessions}})
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.RevokeToken(t.Context(), "long", b.Grant.TokenID); err != nil {
		t.Fatal(err)
	}
	if c := api.CodeOf(try(b.Token)); c != api.CodeUnauthorized {
		t.Errorf("a revoked token answers %q", c)
	}
}

func TestPageToken(t *testing.T) {
	w := newWorld(t)
	out, err := w.CLI(t.Context(), "account", "page-token", "shop", "--app", "latency", "--uses", "1", "--ttl", "1h", "--json")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(out, `"token": "`)
	token, _, _ := strings.Cut(rest, `"`)
	page, err := client.New(client.Config{URL: w.API, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	code := func(_ any, err error) api.Code { return api.CodeOf(err) }
	if c := code(page.CreateSession(t.Context(), api.CreateBody{App: "xterm"})); c != api.CodeForbidden {
		t.Errorf("another application: %q", c)
	}
	extras := &api.RequestExtras{ClientAddress: "198.51.100.1"}
	if c := code(page.CreateSession(t.Context(), api.CreateBody{App: "latency", Perigee: extras})); c != api.CodeForbidden {
		t.Errorf("speaking for another address: %q", c)
	}
	if _, n, err := page.Sessions(t.Context(), api.SessionQuery{}); api.CodeOf(err) != api.CodeForbidden {
		t.Errorf("listing gave %d sessions, %v", n, err)
	}
	s, err := page.CreateSession(t.Context(), api.CreateBody{App: "latency"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := page.CreateSession(t.Context(), api.CreateBody{App: "latency"}); err == nil {
		t.Error("a token of one use made two sessions")
	}
	if err := w.end(s.ID); err != nil {
		t.Error(err)
	}
}

// end deletes a session as the operator and waits until it has ended.
func (w *world) end(id api.SessionID) error {
	_, err := w.CLI(context.Background(), "session", "delete", string(id), "--sync")
	return err
}

func (w *world) create(t *testing.T, app string) api.CreateAnswer {
	t.Helper()
	s, err := w.client.CreateSession(t.Context(), api.CreateBody{App: app, Joinable: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// becomes waits until a session shows a status and gives it.
func (w *world) becomes(t *testing.T, id api.SessionID, want api.Status, within time.Duration) api.SessionView {
	t.Helper()
	var s api.SessionView
	eventually(t, within, func() error {
		var err error
		if s, err = w.client.Session(t.Context(), id); err == nil && s.Status != want {
			err = fmt.Errorf("session is %s (%s: %s), want %s", s.Status, s.Perigee.Reason, s.StatusMessage, want)
		}
		return err
	})
	return s
}

func TestTicketsOpenTheirOwnSessionOnly(t *testing.T) {
	w := newWorld(t)
	a, b := w.create(t, "xterm"), w.create(t, "xterm")
	if a.ID == b.ID {
		t.Fatal("two creates gave one session")
	}
	crossed := strings.Replace(a.URL, string(a.ID), string(b.ID), 1)
	for name, address := range map[string]string{
		"another session's": crossed,
		"cut":               a.URL[:len(a.URL)-3],
		"no":                a.URL[:strings.Index(a.URL, "?")],
	} {
		if s, err := client.DialSignal(t.Context(), address); api.CodeOf(err) != api.CodeUnauthorized {
			t.Errorf("%s ticket: %v", name, err)
			if s != nil {
				_ = s.Close()
			}
		}
	}
	master := strings.Replace(a.URL, "/sockets/slave", "/sockets/master", 1)
	if s, err := client.DialSignal(t.Context(), master); err == nil {
		t.Error("a master may connect to a session whose provider is the edge")
		_ = s.Close()
	}
	for _, id := range []api.SessionID{a.ID, b.ID} {
		if err := w.end(id); err != nil {
			t.Error(err)
		}
	}
	if _, err := w.client.JoinSession(t.Context(), a.ID, api.JoinBody{}); api.CodeOf(err) != api.CodeInvalid && api.CodeOf(err) != api.CodeConflict {
		t.Errorf("join of a dead session: %v", err)
	}
}

func TestApplicationsThatFail(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		app    string
		status api.Status
		reason api.Reason
		says   string
	}{
		{"quits", api.StatusTerminated, api.ReasonAppExited, ""},
		{"fails", api.StatusError, api.ReasonAppCrashed, "out of luck"},
		{"missing", api.StatusError, api.ReasonStartFailed, "no-such-program"},
	} {
		t.Run(c.app, func(t *testing.T) {
			s := w.create(t, c.app)
			ws, err := client.DialSignal(t.Context(), s.URL)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			// A client that waits is told; the socket is not just closed.
			var last client.Message
			for err == nil && last.Type != "error" {
				last, err = ws.Receive(ctx)
			}
			if err != nil || last.Message == "" {
				t.Errorf("the waiting client got %+v, %v", last, err)
			}
			v := w.becomes(t, s.ID, c.status, 10*time.Second)
			if v.Perigee.Reason != c.reason || !strings.Contains(v.StatusMessage, c.says) {
				t.Errorf("reason %q, message %q; want %q naming %q", v.Perigee.Reason, v.StatusMessage, c.reason, c.says)
			}
			w.noSessionProcesses(t, string(s.ID))
		})
	}
}

func TestApplicationThatIgnoresTheEndIsKilled(t *testing.T) {
	w := newWorld(t)
	s := w.create(t, "stubborn")
	w.becomes(t, s.ID, api.StatusActive, 10*time.Second)
	began := time.Now()
	if err := w.end(s.ID); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d > 12*time.Second {
		t.Errorf("the end took %s", d)
	}
	w.noSessionProcesses(t, string(s.ID))
}

func TestApplicationThatDrawsNothing(t *testing.T) {
	w := newWorld(t)
	v := w.viewer(t)
	defer v.Close()
	o := connect(t, v, w.options("blank", nil)) // black pictures are pictures
	s := w.becomes(t, api.SessionID(o.ID), api.StatusError, 40*time.Second)
	if s.Perigee.Reason != api.ReasonAppHung {
		t.Errorf("reason %q (%s), want app_hung", s.Perigee.Reason, s.StatusMessage)
	}
	w.noSessionProcesses(t, o.ID)
}

func TestXServerThatDoesNotStart(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "Xvfb"), []byte("#!/bin/sh\necho no screens found >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	w := newWorld(t)
	s := w.create(t, "xterm")
	v := w.becomes(t, s.ID, api.StatusError, 20*time.Second)
	if v.Perigee.Reason != api.ReasonStartFailed || !strings.Contains(v.StatusMessage, "X server") && !strings.Contains(v.StatusMessage, "Xvfb") {
		t.Errorf("reason %q, message %q", v.Perigee.Reason, v.StatusMessage)
	}
	w.noSessionProcesses(t, string(s.ID))
}

func TestNoHeadroomSaysWhyAndCounts(t *testing.T) {
	w := newWorld(t)
	if _, err := w.AddEdge(t.Context(), "small", "--region", "tiny", "--cpu-capacity", "120000"); err != nil {
		t.Fatal(err)
	}
	body := api.CreateBody{App: "xterm", Region: "tiny", Joinable: true, Screen: screenOf(1280, 720, 30)}
	first, err := w.client.CreateSession(t.Context(), body)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.client.CreateSession(t.Context(), body)
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeNoCapacity && e.Code != api.CodeNotFound {
		t.Fatalf("a full node answered %v", err)
	}
	reasons := map[api.RefusalCode]bool{}
	for _, r := range e.Refusals {
		reasons[r.Code] = true
	}
	if !reasons[api.RefusedEncoder] || !reasons[api.RefusedRegion] {
		t.Errorf("refusals %+v, want the full node's encoder and the other node's region", e.Refusals)
	}
	admin, err := client.New(client.Config{Socket: filepath.Join(w.SchedulerData(), "admin.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	cells, err := admin.Demand(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(cells) == 0 || cells[0].App != "xterm" || cells[0].Size != "1280x720@30" || cells[0].Count < 1 {
		t.Errorf("turned away: %+v", cells)
	}
	if err := w.end(first.ID); err != nil {
		t.Fatal(err)
	}
	again, err := w.client.CreateSession(t.Context(), body)
	if err != nil {
		t.Fatalf("the freed room is not given again: %v", err)
	}
	if err := w.end(again.ID); err != nil {
		t.Error(err)
	}
}

func screenOf(w, h, fps int) *api.ScreenBody {
	return &api.ScreenBody{Width: &w, Height: &h, FPS: &fps}
}

// A lost node's sessions show it; when the node is back they are adopted.
func TestNodeLostAndBack(t *testing.T) {
	w := newWorld(t, "--heartbeat", "200ms", "--lease", "1s")
	s := w.create(t, "xterm")
	w.becomes(t, s.ID, api.StatusActive, 10*time.Second)
	if err := w.edge.Process.Stop(9); err != nil {
		t.Fatal(err)
	}
	v := w.becomes(t, s.ID, api.StatusError, 10*time.Second)
	if v.Perigee.Reason != api.ReasonNodeLost {
		t.Errorf("reason %q, want node_lost", v.Perigee.Reason)
	}
	if err := w.StartEdge(t.Context(), w.edge); err != nil {
		t.Fatal(err)
	}
	w.becomes(t, s.ID, api.StatusActive, 10*time.Second)
	if n := len(site.Children(w.edge.Dir, string(s.ID), "shim")); n != 1 {
		t.Errorf("%d shims after the node is back, want the one from before", n)
	}
	if err := w.end(s.ID); err != nil {
		t.Error(err)
	}
}
