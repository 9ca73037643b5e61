package state

import (
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestTokensAndAccounts(t *testing.T) {
	r := newRig(t)
	put := func(account, id string, ttl time.Duration) *PutToken {
		return &PutToken{Account: account, ID: id, Rights: []api.Right{api.RightSessions}, Expires: r.now.Add(ttl), Uses: -1}
	}
	r.do(put("alice", "a1", time.Hour), put("alice", "a2", 100*time.Hour), put("bob", "b1", 100*time.Hour))
	r.refused(api.CodeConflict, put("bob", "a1", time.Hour))
	r.refused(api.CodeInvalid, put("", "x", time.Hour))
	r.refused(api.CodeNotFound, &RevokeToken{Account: "bob", ID: "a1"})
	r.refused(api.CodeNotFound, &RevokeToken{Account: "none"})
	r.do(&RevokeToken{Account: "bob", ID: "b1"})
	if _, ok := r.s.Token("b1"); ok {
		t.Error("a revoked token is known")
	}
	r.now = r.now.Add(Keep + 2*time.Hour)
	r.do(&Tick{})
	accounts := r.s.Accounts()
	if len(accounts) != 2 || accounts[0].Name != "alice" || len(accounts[0].Tokens) != 1 || accounts[0].Tokens[0].TokenID != "a2" || len(accounts[1].Tokens) != 0 {
		t.Errorf("accounts are %+v", accounts)
	}
	r.do(&DeleteAccount{Name: "alice"})
	if _, ok := r.s.Token("a2"); ok || len(r.s.Accounts()) != 1 {
		t.Error("a deleted account's token is known")
	}
	r.refused(api.CodeNotFound, &DeleteAccount{Name: "alice"})
}

func TestTheFirstSecretsStay(t *testing.T) {
	r := newRig(t)
	r.do(&Secrets{TicketSeed: []byte("one"), RingKey: []byte("r1")})
	r.do(&Secrets{TicketSeed: []byte("two"), RingKey: []byte("r2")})
	if got := r.s.Secrets(); string(got.TicketSeed) != "one" || string(got.RingKey) != "r1" {
		t.Errorf("the keys are %q and %q", got.TicketSeed, got.RingKey)
	}
}

func TestAppVersionsAreImmutable(t *testing.T) {
	r := newRig(t)
	if res := r.do(app(t, "xterm", "xterm")); res.App.Version != 1 {
		t.Errorf("putting the same made version %d", res.App.Version)
	}
	if res := r.do(app(t, "xterm", "uxterm")); res.App.Version != 2 {
		t.Errorf("putting another made version %d", res.App.Version)
	}
	first, _ := r.s.App("xterm", 1)
	newest, _ := r.s.App("xterm", 0)
	if first.Command[0] != "xterm" || newest.Command[0] != "uxterm" || newest.Version != 2 {
		t.Errorf("versions are %v and %v", first, newest)
	}
	r.do(&DeleteApp{Name: "xterm"})
	if _, ok := r.s.App("xterm", 0); ok || len(r.s.Apps()) != 0 {
		t.Error("a deleted application is in the catalogue")
	}
	r.refused(api.CodeNotFound, &DeleteApp{Name: "xterm"})
	if res := r.do(app(t, "xterm", "xterm")); res.App.Version != 3 {
		t.Errorf("after a delete the version is %d: a number was given twice", res.App.Version)
	}
	for i := range keepVersions + 5 {
		r.do(app(t, "xterm", strings.Repeat("x", i+1)))
	}
	a, _ := r.s.apps.Get("xterm")
	if len(a.Versions) != keepVersions {
		t.Errorf("%d versions are kept, want %d", len(a.Versions), keepVersions)
	}
	r.refused(api.CodeInvalid, &PutApp{Doc: []byte(`{"name":"no spaces"}`)})
}
