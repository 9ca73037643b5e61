package edge

import "testing"

func TestRoundTripsSettle(t *testing.T) {
	last := 0.0
	for i, c := range []struct{ now, want float64 }{
		{0, 0}, {0.1, 0.5}, {0.8, 0.5}, {3.3, 3.5}, {3.8, 3.5}, {24.2, 24}, {26.9, 24}, {27.2, 27}, {23.7, 27}, {23.5, 23.5}, {0, 0},
	} {
		if last = settled(last, c.now); last != c.want {
			t.Errorf("step %d: %v ms is reported as %v, want %v", i, c.now, last, c.want)
		}
	}
}
