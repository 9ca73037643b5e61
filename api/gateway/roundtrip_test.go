package gateway

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/api/client"
)

// TestGoClient drives the whole session API through the Go client.
func TestGoClient(t *testing.T) {
	r := newRig(t)
	c, err := client.New(client.Config{URL: r.url + "/", Token: "tok"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	idle := 7
	width, height := 801, 600
	a, err := c.CreateSession(ctx, api.CreateBody{App: "xterm", Joinable: true, IdleMinutes: &idle,
		Screen:  &api.ScreenBody{Width: &width, Height: &height},
		Perigee: &api.RequestExtras{ClientAddress: "203.0.113.1", Codecs: []string{"VP9"}}})
	if err != nil || a.ID == "" || a.STUNServers == nil || a.Perigee.DistanceKM == nil || *a.Perigee.DistanceKM != 12.5 {
		t.Fatalf("create: %+v, %v", a, err)
	}
	if got := r.creates[0]; got.Screen.Width != 802 || got.IdleMinutes != 7 || !got.Ephemeral || got.Codecs[0] != api.VP9 {
		t.Errorf("asked for %+v", got)
	}
	if _, err := c.JoinSession(ctx, a.ID, api.JoinBody{}); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("join of a session that is not active: %v", err)
	}
	r.set(a.ID, func(s *api.Session) { s.Observed, s.Connected = api.ObservedRunning, true })
	if j, err := c.JoinSession(ctx, a.ID, api.JoinBody{Screen: &api.ScreenBody{Width: &width, Height: &height}}); err != nil || len(j.STUNServers) != 1 {
		t.Errorf("join: %+v, %v", j, err)
	}
	if s, err := c.Session(ctx, a.ID); err != nil || s.Status != api.StatusActive || !s.Perigee.Connected {
		t.Errorf("session: %+v, %v", s, err)
	}
	var e *api.Error
	if _, err := c.Session(ctx, "nope"); !errors.As(err, &e) || e.Code != api.CodeNotFound {
		t.Errorf("unknown session: %v", err)
	}
	if _, err := c.CreateSession(ctx, api.CreateBody{App: "a b"}); !errors.As(err, &e) || e.Field != "app" || strings.Count(e.Error(), "app:") != 1 {
		t.Errorf("bad app: %v", err)
	}

	discovers(ctx, t, a.URL)

	b, err := c.CreateSession(ctx, api.CreateBody{App: "xterm"})
	if err != nil {
		t.Fatal(err)
	}
	if list, total, err := c.Sessions(ctx, api.SessionQuery{Limit: 1, Offset: 1, SortBy: "id", SortOrder: "asc"}); err != nil || total != 2 || len(list) != 1 || list[0].ID != b.ID {
		t.Errorf("list: %+v of %d, %v", list, total, err)
	}
	if ids, total, err := c.SessionIDs(ctx, api.SessionQuery{Status: api.StatusActive}); err != nil || total != 1 || ids[0] != a.ID {
		t.Errorf("ids: %v of %d, %v", ids, total, err)
	}
	if err := c.DeleteSession(ctx, b.ID, client.End{Force: true, Sync: true}); err != nil || !r.ends[0].Force || !r.ends[0].Wait {
		t.Errorf("delete: %v", err)
	}
	if d, err := c.DeleteSessions(ctx, []api.SessionID{a.ID, "gone"}, client.End{}); err != nil || len(d.Deleted) != 1 || len(d.Errors) != 1 {
		t.Errorf("batch: %+v, %v", d, err)
	}
	if apps, err := c.Applications(ctx); err != nil || len(apps) != 2 || apps[1].Perigee.App != nil {
		t.Errorf("applications: %+v, %v", apps, err)
	}
	if regions, err := c.Regions(ctx); err != nil || len(regions) != 2 || regions[0] != "home" {
		t.Errorf("regions: %v, %v", regions, err)
	}
	if st, err := c.Status(ctx); err != nil || st.Status != "healthy" || *st.Agents != 2 {
		t.Errorf("status: %+v, %v", st, err)
	}
	if _, err := c.Accounts(ctx); api.CodeOf(err) != api.CodeForbidden {
		t.Errorf("accounts with an account's token: %v", err)
	}
}

// TestGoClientOnTheAdminSocket drives the administration over a unix socket.
// discovers opens a session's websocket and asks what it can.
func discovers(ctx context.Context, t *testing.T, url string) {
	t.Helper()
	sig, err := client.DialSignal(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	if err := sig.Send(ctx, client.Message{Type: "discover"}); err != nil {
		t.Fatal(err)
	}
	if m, err := sig.Receive(ctx); err != nil || m.Type != "resp:discover" || m.MaxAPIVersion != 2 || m.FPS != 60 {
		t.Errorf("discover: %+v, %v", m, err)
	}
	if err := sig.Close(); err != nil {
		t.Error(err)
	}
	if _, err := client.DialSignal(ctx, url+"x"); api.CodeOf(err) != api.CodeUnauthorized {
		t.Errorf("a wrong ticket: %v", err)
	}
}

func TestGoClientOnTheAdminSocket(t *testing.T) {
	r := newRig(t, func(c *Config) { c.LocalURL = "http://127.0.0.1:8080" })
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := ListenAdmin(path)
	if err != nil {
		t.Fatal(err)
	}
	server := r.srv.HTTPServer(r.srv.AdminHandler())
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	c, err := client.New(client.Config{Socket: path, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()

	tok, err := c.CreateAccount(ctx, api.TokenSpec{Account: "new", TTL: time.Hour})
	if err != nil || !tok.Grant.Expires.Equal(epoch.Add(time.Hour)) {
		t.Errorf("account: %+v, %v", tok, err)
	}
	if _, err := c.CreateAccount(ctx, api.TokenSpec{Account: "new"}); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("the same account again: %v", err)
	}
	page, err := c.CreateToken(ctx, api.TokenSpec{Account: "new", Rights: []api.Right{api.RightCreate}, App: "xterm", Uses: 2})
	if err != nil || page.Grant.Uses != 2 || page.Grant.App != "xterm" {
		t.Errorf("token: %+v, %v", page, err)
	}
	if err := c.RevokeToken(ctx, "new", page.Grant.TokenID); err != nil {
		t.Error(err)
	}
	if err := c.DeleteAccount(ctx, "new"); err != nil {
		t.Error(err)
	}
	if list, err := c.Accounts(ctx); err != nil || len(list) != 1 {
		t.Errorf("accounts: %+v, %v", list, err)
	}
	if v, err := c.PutApplication(ctx, api.App{Name: "top", Command: []string{"top"}}); err != nil || v.Perigee.Version != 1 || v.Perigee.App.Resources.CPUMillis != api.DefaultCPUMillis {
		t.Errorf("application: %+v, %v", v, err)
	}
	if err := c.DeleteApplication(ctx, "top"); err != nil {
		t.Error(err)
	}
	a, err := c.CreateSession(ctx, api.CreateBody{App: "xterm"})
	if err != nil || !strings.HasPrefix(a.URL, "ws://127.0.0.1:8080/") {
		t.Errorf("create: %+v, %v", a, err)
	}
	if err := c.SetDrain(ctx, "node1", true); err != nil || !r.nodes[0].Node.Drain {
		t.Errorf("drain: %v", err)
	}
	if err := c.RemoveNode(ctx, "node2"); err != nil {
		t.Error(err)
	}
	if nodes, err := c.Nodes(ctx); err != nil || len(nodes) != 1 {
		t.Errorf("nodes: %+v, %v", nodes, err)
	}
	if cells, err := c.Demand(ctx); err != nil || len(cells) != 1 || cells[0].Count != 2 {
		t.Errorf("demand: %+v, %v", cells, err)
	}
	joined, err := c.JoinNode(ctx, api.NodeJoin{Node: api.Node{ID: "n9"}, Token: "t"})
	if err != nil || joined.Node.ID != "n9" || joined.PublicAddress != "" {
		t.Errorf("join: %+v, %v", joined, err)
	}

	c.Close()
	if err := server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := wait(t, "end of the server", served); !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	if _, err := c.Status(ctx); err == nil {
		t.Error("a closed socket answers")
	}
}
