package edge

import "github.com/perigee-cloud/perigee/api"

// SetPools replaces what the node's pools may carry, when it was measured anew.
func (a *Agent) SetPools(p []api.Capacity) { a.carries.Store(&p) }

func (a *Agent) pools() []api.Capacity { return *a.carries.Load() }

// capacity gives a pool with its costs; one that is not offered has the usual.
func (a *Agent) capacity(pool api.Pool) api.Capacity {
	for _, p := range a.pools() {
		if p.Pool == pool {
			return p
		}
	}
	return api.Capacity{Pool: pool}
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
