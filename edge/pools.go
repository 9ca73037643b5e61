package edge

import "github.com/perigee-cloud/perigee/api"

// SetPools replaces what the node's pools may carry, when it was measured anew.
func (a *Agent) SetPools(p []api.Capacity) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.carries = p
}

func (a *Agent) pools() []api.Capacity {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.carries
}

// Busy says whether a session runs or ends here.
func (a *Agent) Busy() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, u := range a.units {
		if !api.Final(u.report().Observed) {
			return true
		}
	}
	return false
}
