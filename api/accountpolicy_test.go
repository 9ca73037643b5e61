package api

import (
	"reflect"
	"testing"
)

func TestMergePolicies(t *testing.T) {
	for name, c := range map[string]struct{ app, account, want *PlacementPolicy }{
		"neither":       {nil, nil, nil},
		"the app's":     {&PlacementPolicy{MinFPS: 30}, nil, &PlacementPolicy{MinFPS: 30}},
		"the account's": {nil, &PlacementPolicy{Order: OrderPack}, &PlacementPolicy{Order: OrderPack}},
		"the lower ceiling, with how it rises": {
			&PlacementPolicy{MaxRoundTripMS: 60, RelaxMSPerS: 1, RelaxToMS: 90},
			&PlacementPolicy{MaxRoundTripMS: 40, RelaxMSPerS: 2, RelaxToMS: 50},
			&PlacementPolicy{MaxRoundTripMS: 40, RelaxMSPerS: 2, RelaxToMS: 50},
		},
		"a higher ceiling does not help": {
			&PlacementPolicy{MaxRoundTripMS: 40}, &PlacementPolicy{MaxRoundTripMS: 60, RelaxMSPerS: 5},
			&PlacementPolicy{MaxRoundTripMS: 40},
		},
		"of equal ceilings the one that rises less": {
			&PlacementPolicy{MaxRoundTripMS: 40, RelaxMSPerS: 5}, &PlacementPolicy{MaxRoundTripMS: 40},
			&PlacementPolicy{MaxRoundTripMS: 40},
		},
		"what is preferred and allowed": {
			&PlacementPolicy{Order: OrderPack, MinFPS: 30, PreferredWithinMS: 5, Regions: Choice{Preferred: []string{"eu"}}},
			&PlacementPolicy{Order: OrderSpread, MinFPS: 15, LowerPreset: true, Regions: Choice{Preferred: []string{"us"}}},
			&PlacementPolicy{Order: OrderSpread, MinFPS: 15, LowerPreset: true, PreferredWithinMS: 5, Regions: Choice{Preferred: []string{"us"}}},
		},
		"software, the stricter": {
			&PlacementPolicy{Software: SoftwareLast}, &PlacementPolicy{Software: SoftwareNever}, &PlacementPolicy{Software: SoftwareNever},
		},
		"regions in both, labels of both": {
			&PlacementPolicy{Regions: Choice{Required: []string{"eu", "us"}, Forbidden: []string{"cn"}}, Labels: Choice{Required: []string{"a=1"}}},
			&PlacementPolicy{Regions: Choice{Required: []string{"us", "jp"}, Forbidden: []string{"ru", "cn"}}, Labels: Choice{Required: []string{"b=2"}}},
			&PlacementPolicy{Regions: Choice{Required: []string{"us"}, Forbidden: []string{"cn", "ru"}}, Labels: Choice{Required: []string{"a=1", "b=2"}}},
		},
		"no region in common": {
			&PlacementPolicy{Regions: Choice{Required: []string{"eu"}}}, &PlacementPolicy{Regions: Choice{Required: []string{"us"}}},
			&PlacementPolicy{Regions: Choice{Required: []string{NoRegion}}},
		},
	} {
		if got := MergePolicies(c.app, c.account); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
