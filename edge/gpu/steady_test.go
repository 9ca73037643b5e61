package gpu

import (
	"fmt"
	"strings"
	"testing"
)

// Engines keep their names when one is taken out: the driver counts anew.
func TestNamesStayWithTheirDevices(t *testing.T) {
	inv := Inventory{Devices: []Device{{Index: 0, UUID: "a"}, {Index: 1, UUID: "b"}, {Index: 2, UUID: "c", State: StateClaimed, Detail: "x"}},
		VAAPI: []Render{{Path: "/dev/dri/renderD128"}, {Path: "/dev/dri/renderD129", State: StateClaimed}}}
	read := func(i int, uuid string, encoder int) Reading {
		return Reading{Index: i, UUID: uuid, State: StateOK, Encoder: encoder}
	}
	lost := read(0, "", -1)
	lost.State = StateLost
	for name, c := range map[string]struct {
		state State
		in    []Reading
		want  string
	}{
		"all there":          {StateOK, []Reading{read(0, "a", 10), read(1, "b", 20), read(2, "c", 30)}, "nvenc0 ok 10, nvenc1 ok 20, nvenc2 claimed 30, "},
		"the first went":     {StateOK, []Reading{read(0, "b", 20), read(1, "c", 30)}, "nvenc0 lost -1, nvenc1 ok 20, nvenc2 claimed 30, "},
		"the first is lost":  {StateOK, []Reading{lost, read(1, "b", 20), read(2, "c", 30)}, "nvenc0 lost -1, nvenc1 ok 20, nvenc2 claimed 30, "},
		"one came":           {StateOK, []Reading{read(0, "new", 1), read(1, "a", 10), read(2, "b", 20)}, "nvenc0 ok 10, nvenc1 ok 20, nvenc2 claimed -1, "},
		"all went":           {StateNoGPU, nil, "nvenc0 lost -1, nvenc1 lost -1, nvenc2 claimed -1, "},
		"the reader crashed": {StateFailed, nil, ""},
		"not read yet":       {"", nil, ""},
	} {
		in := append(c.in, Reading{Engine: "vaapi0", State: StateOK, Encoder: 7}, Reading{Engine: "vaapi1", Index: 1, State: StateOK, Encoder: 8})
		var got strings.Builder
		for _, r := range inv.Steady(Sample{State: c.state, Readings: in}).Readings {
			fmt.Fprintf(&got, "%s %s %d, ", r.Name(), r.State, r.Encoder)
		}
		if want := c.want + "vaapi0 ok 7, vaapi1 claimed 8, "; got.String() != want {
			t.Errorf("%s: %s\nwant %s", name, got.String(), want)
		}
		if in[len(in)-1].State != StateOK {
			t.Errorf("%s: the sample was changed", name)
		}
	}
}
