package gpu

import "slices"

// Steady gives a sample's readings the names that the inventory gave: a driver
// numbers its devices anew when one is gone, and certificates and promises are
// by number. A device that the driver lists no more is lost; one that another
// daemon holds is claimed.
func (inv Inventory) Steady(s Sample) Sample {
	var out []Reading
	if s.State == StateOK || s.State == StateNoGPU { // else nobody could look, which is said elsewhere
		for _, d := range inv.Devices {
			out = append(out, d.among(s.Readings))
		}
	}
	for _, r := range s.Readings { // render nodes have the inventory's names
		if r.Engine == "" {
			continue
		}
		if r.Index < len(inv.VAAPI) && inv.VAAPI[r.Index].State != "" {
			r.State, r.Detail = inv.VAAPI[r.Index].State, inv.VAAPI[r.Index].Detail
		}
		out = append(out, r)
	}
	s.Readings = out
	return s
}

// among finds the device's reading.
func (d Device) among(all []Reading) Reading {
	r := Silent(StateLost, "the driver lists it no more")
	at := slices.IndexFunc(all, func(r Reading) bool {
		if d.UUID == "" || r.UUID == "" { // one that is lost says not who it is
			return r.Engine == "" && r.Index == d.Index
		}
		return r.Engine == "" && r.UUID == d.UUID
	})
	if at >= 0 {
		r = all[at]
	}
	r.Index, r.UUID = d.Index, d.UUID
	if d.State == StateClaimed {
		r.State, r.Detail = d.State, d.Detail
	}
	return r
}
