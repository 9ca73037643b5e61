package fleet

import "time"

// ErlangB is the share of calls that a group of servers turns away when the
// offered load is in erlangs, calls do not wait and their source is Poisson.
func ErlangB(load float64, servers int) float64 {
	b := 1.0
	for n := 1; n <= servers; n++ {
		b = load * b / (float64(n) + load*b)
	}
	return b
}

// Blocking simulates one site and one class without waves or crowds at an
// offered load, and gives the share that was turned away.
func Blocking(seed uint64, servers, sessions int, load float64) (float64, Result, error) {
	// Arrivals per span and the mean stay make the load.
	span := time.Duration(float64(sessions) * float64(meanStay) / load)
	r, err := Run(Config{Seed: seed, Sites: 1, PerSite: 4, Streams: servers / 4, Networks: 4, Sessions: sessions, Span: span, steady: true})
	if err != nil {
		return 0, r, err
	}
	return float64(r.Refused) / float64(r.Placed+r.Refused), r, nil
}
