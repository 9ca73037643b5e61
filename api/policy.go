package api

import (
	"maps"
	"slices"
	"strings"
)

// PlacementPolicy is what an application says about where its sessions may run.
// The zero policy takes the nearest node with room.
type PlacementPolicy struct {
	// MaxRoundTripMS refuses nodes whose estimate is above; 0 = no ceiling. Nodes
	// without an estimate are let through: nothing is known against them.
	MaxRoundTripMS float64 `json:"max_round_trip_ms,omitempty" yaml:"max_round_trip_ms,omitempty"`
	// RelaxMSPerS raises the ceiling for every second that a request has waited,
	// up to RelaxToMS.
	RelaxMSPerS float64 `json:"relax_ms_per_s,omitempty" yaml:"relax_ms_per_s,omitempty"`
	RelaxToMS   float64 `json:"relax_to_ms,omitempty" yaml:"relax_to_ms,omitempty"`
	// Order is OrderSpread or OrderPack: among equally near nodes the emptiest, or
	// the fullest. "" = spread.
	Order string `json:"order,omitempty" yaml:"order,omitempty"`
	// MinFPS allows a lower frame rate, halved step by step down to this, when no
	// node has room for the wanted one; 0 = never.
	MinFPS int `json:"min_fps,omitempty" yaml:"min_fps,omitempty"`
	// LowerPreset allows a cheaper preset of the encoder, after the frame rates.
	LowerPreset bool `json:"lower_preset,omitempty" yaml:"lower_preset,omitempty"`
	// Software says what software encoders are to the application: SoftwareAny ("")
	// takes them where hardware on the same node has no room, SoftwareLast when no
	// node's hardware has at any step, SoftwareNever not at all.
	Software string `json:"software,omitempty" yaml:"software,omitempty"`
	Regions  Choice `json:"regions,omitzero" yaml:"regions,omitempty"`
	// Labels of nodes, each as "key=value".
	Labels Choice `json:"labels,omitzero" yaml:"labels,omitempty"`
	// PreferredWithinMS is how much farther a preferred node may be than one that
	// is not; 0 = DefaultPreferredMS.
	PreferredWithinMS float64 `json:"preferred_within_ms,omitempty" yaml:"preferred_within_ms,omitempty"`
}

// Choice names what is required, preferred and forbidden. Of required regions a
// node is in one; required labels it bears all. One preferred is enough.
type Choice struct {
	Required  []string `json:"required,omitempty" yaml:"required,omitempty"`
	Preferred []string `json:"preferred,omitempty" yaml:"preferred,omitempty"`
	Forbidden []string `json:"forbidden,omitempty" yaml:"forbidden,omitempty"`
}

// Orders of equally near nodes.
const (
	OrderSpread = "spread"
	OrderPack   = "pack"
)

// What software encoders are to an application.
const (
	SoftwareAny   = ""
	SoftwareLast  = "last"
	SoftwareNever = "never"
)

// Bounds of a policy.
const (
	DefaultPreferredMS = 10
	MaxPolicyMS        = 10_000
	maxChoices         = 16
	maxLabel           = 64
	// MaxLabels bounds a node's labels.
	MaxLabels = 32
)

// Check checks a policy as an operator gives it; errors name the field under
// "placement".
func (p *PlacementPolicy) Check() error {
	for _, f := range []struct {
		name string
		v    float64
	}{
		{"max_round_trip_ms", p.MaxRoundTripMS}, {"relax_ms_per_s", p.RelaxMSPerS},
		{"relax_to_ms", p.RelaxToMS}, {"preferred_within_ms", p.PreferredWithinMS},
	} {
		if !(f.v >= 0 && f.v <= MaxPolicyMS) { // a NaN is neither
			return Invalidf("placement."+f.name, "must be 0 to %d, got %v", MaxPolicyMS, f.v)
		}
	}
	switch {
	case p.RelaxMSPerS > 0 && p.MaxRoundTripMS == 0:
		return Invalidf("placement.relax_ms_per_s", "raises a ceiling: give max_round_trip_ms too")
	case p.RelaxToMS != 0 && p.RelaxToMS < p.MaxRoundTripMS:
		return Invalidf("placement.relax_to_ms", "is below max_round_trip_ms, %v: it must be above", p.MaxRoundTripMS)
	case p.RelaxToMS != 0 && p.RelaxMSPerS == 0:
		return Invalidf("placement.relax_to_ms", "needs relax_ms_per_s: how fast the ceiling rises")
	case p.Order != "" && p.Order != OrderSpread && p.Order != OrderPack:
		return Invalidf("placement.order", "%q is not an order; use %s or %s", p.Order, OrderSpread, OrderPack)
	case p.Software != SoftwareAny && p.Software != SoftwareLast && p.Software != SoftwareNever:
		return Invalidf("placement.software", "%q is not known; use %s or %s, or leave it out", p.Software, SoftwareLast, SoftwareNever)
	case p.MinFPS < 0 || p.MinFPS > MaxFPS:
		return Invalidf("placement.min_fps", "must be 0 (never lower) to %d, got %d", MaxFPS, p.MinFPS)
	}
	region := func(s string) string {
		if !ValidID(s) {
			return "must be a region's name: 1 to 64 characters of [a-zA-Z0-9-_:]"
		}
		return ""
	}
	label := func(s string) string {
		k, v, ok := strings.Cut(s, "=")
		if why := labelFault(k, v); !ok || why != "" {
			return "must be key=value, each 1 to 64 characters of [a-zA-Z0-9._/-]"
		}
		return ""
	}
	if err := p.Regions.check("placement.regions", region); err != nil {
		return err
	}
	return p.Labels.check("placement.labels", label)
}

func (c Choice) check(field string, fault func(string) string) error {
	for _, l := range []struct {
		name string
		list []string
	}{{".required", c.Required}, {".preferred", c.Preferred}, {".forbidden", c.Forbidden}} {
		if len(l.list) > maxChoices {
			return Invalidf(field+l.name, "at most %d, got %d", maxChoices, len(l.list))
		}
		for _, s := range l.list {
			if why := fault(s); why != "" {
				return Invalidf(field+l.name, "%q %s", s, why)
			}
		}
	}
	for _, s := range c.Forbidden {
		if slices.Contains(c.Required, s) || slices.Contains(c.Preferred, s) {
			return Invalidf(field+".forbidden", "%q is wanted as well: take it out of one list", s)
		}
	}
	return nil
}

// CheckLabels checks a node's labels.
func CheckLabels(labels map[string]string) error {
	if len(labels) > MaxLabels {
		return Invalidf("node.labels", "at most %d, got %d", MaxLabels, len(labels))
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if why := labelFault(k, labels[k]); why != "" {
			return Invalidf("node.labels", "%q=%q: %s", k, labels[k], why)
		}
	}
	return nil
}

// ParseLabel reads "key=value".
func ParseLabel(s string) (key, value string, err error) {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return "", "", Invalidf("label", "%q must be key=value", s)
	}
	if why := labelFault(key, value); why != "" {
		return "", "", Invalidf("label", "%q: %s", s, why)
	}
	return key, value, nil
}

func labelFault(key, value string) string {
	for _, s := range []string{key, value} {
		if s == "" || len(s) > maxLabel {
			return "key and value must have 1 to 64 characters"
		}
		for _, c := range s {
			switch {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-', c == '/':
			default:
				return "only letters, digits, dot, dash, slash and underscore"
			}
		}
	}
	return ""
}
