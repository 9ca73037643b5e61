package api

import (
	"cmp"
	"slices"
)

// AccountPolicy is what the operator says about where an account's sessions may
// run, beside what each application says.
type AccountPolicy struct {
	// Placement limits and prefers as an application's policy does; nil = nothing.
	Placement *PlacementPolicy `json:"placement,omitempty" yaml:"placement,omitempty"`
	// Trunk lets the account's new sessions use the share of each node that is
	// kept for joins and reconnects.
	Trunk bool `json:"trunk,omitempty" yaml:"trunk,omitempty"`
}

// Check checks a policy as an operator gives it.
func (a *AccountPolicy) Check() error {
	if a.Placement == nil {
		return nil
	}
	return a.Placement.Check()
}

// MergePolicies gives what holds for an application's session of an account.
// What either forbids or requires holds: of two ceilings the lower one, of two
// lists of required regions what is in both. What only prefers or permits
// (order, preferred, the ladder) is the account's where it says so, else the
// application's. Nil when neither says anything.
func MergePolicies(app, account *PlacementPolicy) *PlacementPolicy {
	switch {
	case account == nil:
		return app
	case app == nil:
		return account
	}
	m := *app
	if a := account; a.MaxRoundTripMS > 0 && (m.MaxRoundTripMS == 0 || lower(a, &m)) {
		m.MaxRoundTripMS, m.RelaxMSPerS, m.RelaxToMS = a.MaxRoundTripMS, a.RelaxMSPerS, a.RelaxToMS
	}
	m.Order = cmp.Or(account.Order, m.Order)
	m.MinFPS = cmp.Or(account.MinFPS, m.MinFPS)
	m.LowerPreset = m.LowerPreset || account.LowerPreset
	m.Software = strictest(account.Software, m.Software)
	m.PreferredWithinMS = cmp.Or(account.PreferredWithinMS, m.PreferredWithinMS)
	m.Regions = mergeChoices(app.Regions, account.Regions, true)
	m.Labels = mergeChoices(app.Labels, account.Labels, false)
	return &m
}

// lower says whether one ceiling is below another: of equal ones the one that
// rises to less.
func lower(a, b *PlacementPolicy) bool {
	rises := func(p *PlacementPolicy) float64 {
		if p.RelaxMSPerS > 0 {
			return cmp.Or(p.RelaxToMS, MaxPolicyMS)
		}
		return p.MaxRoundTripMS
	}
	return cmp.Or(cmp.Compare(a.MaxRoundTripMS, b.MaxRoundTripMS), cmp.Compare(rises(a), rises(b))) < 0
}

// strictest gives never before last before any.
func strictest(a, b string) string {
	for _, s := range []string{SoftwareNever, SoftwareLast} {
		if a == s || b == s {
			return s
		}
	}
	return SoftwareAny
}

// NoRegion stands for a list of required regions that no node can be in: those
// of the application and of its account have none in common.
const NoRegion = "none:in:common"

func mergeChoices(app, account Choice, one bool) Choice {
	m := Choice{Forbidden: union(app.Forbidden, account.Forbidden), Preferred: app.Preferred}
	if len(account.Preferred) > 0 {
		m.Preferred = account.Preferred
	}
	switch {
	case !one: // a node bears all labels that are required
		m.Required = union(app.Required, account.Required)
	case len(app.Required) == 0:
		m.Required = account.Required
	case len(account.Required) == 0:
		m.Required = app.Required
	default: // it is in one region
		m.Required = slices.DeleteFunc(slices.Clone(app.Required), func(s string) bool { return !slices.Contains(account.Required, s) })
		if len(m.Required) == 0 {
			m.Required = []string{NoRegion}
		}
	}
	return m
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
