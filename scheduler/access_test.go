package scheduler

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestTokens(t *testing.T) { synctest.Test(t, testTokens) }

func testTokens(t *testing.T) {
	w := newWorld(t)
	w.app()
	w.edge("one", 9)
	page, g, err := w.s.CreateToken(w.ctx(), api.TokenSpec{Account: "alice", Rights: []api.Right{api.RightCreate, api.RightJoin}, App: "xterm", Uses: 2, TTL: time.Hour})
	if err != nil || g.Uses != 2 {
		t.Fatal(g, err)
	}
	grant, err := w.s.Authenticate(w.ctx(), page)
	if err != nil || grant.App != "xterm" || grant.Can(api.RightSessions) || !grant.Can(api.RightCreate) {
		t.Fatalf("the page's token gives %+v: %v", grant, err)
	}
	with := func(r *api.CreateRequest) { r.Grant = grant }
	a := w.mustCreate(with)
	w.mustCreate(with)
	if _, err := w.create(with); api.CodeOf(err) != api.CodeForbidden {
		t.Errorf("the third of two uses answers %v", err)
	}
	w.until(a.Session.ID, api.StatusActive)
	if _, err := w.s.JoinSession(w.ctx(), a.Session.ID, api.JoinRequest{Grant: grant}); err != nil {
		t.Errorf("a spent token cannot join its own session: %v", err)
	}
	others := w.mustCreate()
	w.until(others.Session.ID, api.StatusActive)
	if _, err := w.s.JoinSession(w.ctx(), others.Session.ID, api.JoinRequest{Grant: grant}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a page's token joins another's session of the account: %v", err)
	}
	bob := api.Grant{Account: "bob", Rights: []api.Right{api.RightSessions}}
	if err := w.s.EndSession(w.ctx(), a.Session.ID, api.EndRequest{Grant: bob}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("another account ends the session: %v", err)
	}
	if err := w.s.RevokeToken(w.ctx(), "alice", grant.TokenID); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{page, "", "pgt_unknown", strings.Repeat("x", 10_000)} {
		if _, err := w.s.Authenticate(w.ctx(), bad); api.CodeOf(err) != api.CodeUnauthorized {
			t.Errorf("token %.12q answers %v", bad, err)
		}
	}
	accounts, err := w.s.ListAccounts(w.ctx())
	if err != nil || len(accounts) != 2 || accounts[0].Name != "alice" || len(accounts[0].Tokens) != 0 {
		t.Errorf("accounts are %+v: %v", accounts, err)
	}
	for name, spec := range map[string]api.TokenSpec{
		"no account":     {},
		"a strange name": {Account: "a b"},
		"a right":        {Account: "a", Rights: []api.Right{"fly"}},
		"negative uses":  {Account: "a", Uses: -1},
		"negative life":  {Account: "a", TTL: -time.Second},
	} {
		if _, _, err := w.s.CreateToken(w.ctx(), spec); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s answers %v", name, err)
		}
	}
	if _, _, err := w.s.CreateToken(w.ctx(), api.TokenSpec{Account: "a", App: "none"}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a token of an unknown application: %v", err)
	}
}

func TestExpiredToken(t *testing.T) { synctest.Test(t, testExpiredToken) }

func testExpiredToken(t *testing.T) {
	now := time.Now()
	var mu sync.Mutex
	w := newWorld(t, func(c *Config) {
		c.Clock = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	token, _, err := w.s.CreateToken(w.ctx(), api.TokenSpec{Account: "alice", TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	now = now.Add(2 * time.Minute)
	mu.Unlock()
	if _, err := w.s.Authenticate(w.ctx(), token); api.CodeOf(err) != api.CodeUnauthorized || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired token answers %v", err)
	}
}

func TestListSessions(t *testing.T) { synctest.Test(t, testListSessions) }

func testListSessions(t *testing.T) {
	w := newWorld(t)
	w.app()
	w.edge("one", 9)
	var ids []api.SessionID
	for i := range 5 {
		a := w.mustCreate(func(r *api.CreateRequest) { r.Grant.Account = []string{"alice", "bob"}[i%2] })
		w.until(a.Session.ID, api.StatusActive)
		ids = append(ids, a.Session.ID)
		time.Sleep(time.Millisecond) // of the bubble: each is younger than the one before
	}
	if err := w.s.EndSession(w.ctx(), ids[0], api.EndRequest{Wait: true}); err != nil {
		t.Fatal(err)
	}
	list := func(q api.SessionQuery) ([]api.SessionID, int) {
		t.Helper()
		page, total, err := w.s.ListSessions(w.ctx(), q)
		if err != nil {
			t.Fatal(err)
		}
		var out []api.SessionID
		for _, v := range page {
			out = append(out, v.ID)
		}
		return out, total
	}
	if got, total := list(api.SessionQuery{}); total != 5 || !slices.Equal(got, ids) {
		t.Errorf("all are %v of %d, want %v", got, total, ids)
	}
	if got, total := list(api.SessionQuery{SortOrder: "desc", Limit: 2, Offset: 1}); total != 5 || !slices.Equal(got, []api.SessionID{ids[3], ids[2]}) {
		t.Errorf("the page is %v of %d", got, total)
	}
	if got, total := list(api.SessionQuery{Account: "bob"}); total != 2 || len(got) != 2 {
		t.Errorf("bob's are %v of %d", got, total)
	}
	if got, _ := list(api.SessionQuery{Status: api.StatusTerminated}); !slices.Equal(got, ids[:1]) {
		t.Errorf("the ended are %v", got)
	}
	if got, total := list(api.SessionQuery{Offset: 99, Limit: 1, SortBy: "status"}); total != 5 || len(got) != 0 {
		t.Errorf("beyond the end are %v of %d", got, total)
	}
	for _, q := range []api.SessionQuery{{SortBy: "colour"}, {SortOrder: "up"}, {Limit: -1}, {Offset: -1}} {
		if _, _, err := w.s.ListSessions(w.ctx(), q); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%+v answers %v", q, err)
		}
	}
}

func TestCheckTicketRefuses(t *testing.T) { synctest.Test(t, testCheckTicketRefuses) }

func testCheckTicketRefuses(t *testing.T) {
	w := newWorld(t)
	w.app()
	w.edge("one", 4)
	a := w.mustCreate()
	for name, ticket := range map[string]string{
		"none": "", "no form": "abc", "a changed one": "A" + a.Ticket[1:], "without signature": strings.SplitN(a.Ticket, ".", 2)[0] + ".",
	} {
		if _, _, err := w.s.CheckTicket(w.ctx(), ticket); api.CodeOf(err) != api.CodeUnauthorized {
			t.Errorf("%s answers %v", name, err)
		}
	}
}
