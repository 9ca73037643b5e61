package scheduler

import (
	"testing"
	"testing/synctest"

	"github.com/perigee-cloud/perigee/api"
)

func TestAccountPolicies(t *testing.T) { synctest.Test(t, testAccountPolicies) }

func testAccountPolicies(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Trunk = 0.5 })
	w.app()
	w.edge("one", 2, func(n *api.Node) { n.Region = "eu" })
	for _, name := range []string{"gold", "held"} {
		if _, _, err := w.s.CreateToken(w.ctx(), api.TokenSpec{Account: name}); err != nil {
			t.Fatal(err)
		}
	}
	set := func(name string, p *api.AccountPolicy) {
		t.Helper()
		if err := w.s.SetAccountPolicy(w.ctx(), name, p); err != nil {
			t.Fatal(err)
		}
	}
	set("gold", &api.AccountPolicy{Trunk: true})
	set("held", &api.AccountPolicy{Placement: &api.PlacementPolicy{Regions: api.Choice{Forbidden: []string{"eu"}}}})
	if err := w.s.SetAccountPolicy(w.ctx(), "nobody", &api.AccountPolicy{}); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("an account that is not there: %v", err)
	}
	if err := w.s.SetAccountPolicy(w.ctx(), "gold", &api.AccountPolicy{Placement: &api.PlacementPolicy{Order: "random"}}); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a policy that is none: %v", err)
	}
	if _, err := w.create(of("held")); refusal(err) != api.RefusedRegion {
		t.Errorf("in a region that the account's policy forbids: %v", err)
	}
	w.mustCreate()
	if _, err := w.create(); refusal(err) != api.RefusedEncoder {
		t.Errorf("beyond what new sessions may use: %v", err)
	}
	w.mustCreate(of("gold")) // the share that is kept
	if p, err := w.s.AccountPolicy(w.ctx(), "held"); err != nil || p.Placement == nil || p.Trunk {
		t.Errorf("the policy is %+v, %v", p, err)
	}
	if list, err := w.s.ListAccounts(w.ctx()); err != nil || list[0].Policy == nil || !list[0].Policy.Trunk {
		t.Errorf("the accounts are %+v, %v", list, err)
	}
	set("held", nil)
	if _, err := w.create(of("held")); refusal(err) != api.RefusedEncoder {
		t.Errorf("without its policy: %v", err)
	}
}
