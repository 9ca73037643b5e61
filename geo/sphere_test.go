package geo

import (
	"math"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func at(latitude, longitude float64) api.Location {
	return api.Location{Latitude: latitude, Longitude: longitude, Known: true}
}

func TestDistance(t *testing.T) {
	const quarter = math.Pi / 2 * EarthRadiusKM
	for name, c := range map[string]struct {
		a, b      api.Location
		want, off float64
	}{
		"same":                {at(52.52, 13.405), at(52.52, 13.405), 0, 0},
		"Berlin to New York":  {at(52.52, 13.405), at(40.7128, -74.006), 6385, 10},
		"a metre or so":       {at(0, 0), at(0, 0.00001), 0.0011119, 1e-6},
		"over the date line":  {at(0, 179.5), at(0, -179.5), 111.195, 0.01},
		"over the pole":       {at(89.5, 0), at(89.5, 180), 111.195, 0.01},
		"pole at any length":  {at(90, 17), at(90, -120), 0, 1e-9},
		"pole to equator":     {at(-90, 0), at(0, 33), quarter, 1e-6},
		"antipodes":           {at(12, 34), at(-12, -146), 2 * quarter, 1e-3},
		"unknown client":      {api.Location{}, at(1, 2), -1, 0},
		"unknown node":        {at(1, 2), api.Location{Latitude: 5}, -1, 0},
		"zero but known":      {at(0, 0), at(0, 0), 0, 0},
		"Sydney to Cape Town": {at(-33.8688, 151.2093), at(-33.9249, 18.4241), 11010, 20},
	} {
		if got := Distance(c.a, c.b); math.Abs(got-c.want) > c.off {
			t.Errorf("%s: %.6f km, want %.6f", name, got, c.want)
		}
		if got, back := Distance(c.a, c.b), Distance(c.b, c.a); got != back {
			t.Errorf("%s: %v km there, %v back", name, got, back)
		}
	}
}

func TestEstimate(t *testing.T) {
	if ms, off := Estimate(0, 0); ms != 0 || off != 0 {
		t.Errorf("no distance: %v ± %v ms", ms, off)
	}
	for _, unknown := range []float64{-1, math.NaN()} {
		if ms, off := Estimate(unknown, 10); ms != -1 || off != -1 {
			t.Errorf("%v km: %v ± %v ms", unknown, ms, off)
		}
	}
	ms, off := Estimate(6385, 0) // Berlin to New York: 85–100 ms in practice
	if ms > 150 || ms-off > 85 || ms+off < 100 {
		t.Errorf("over the Atlantic: %.1f ± %.1f ms", ms, off)
	}
	if least := 2 * 6385 / fibreKMPerMS; ms-off < least {
		t.Errorf("%.1f ms is faster than light in fibre, %.1f ms", ms-off, least)
	}
	if _, vague := Estimate(6385, 200); vague <= off {
		t.Errorf("a radius does not widen the error: %v, %v", vague, off)
	}
	if _, negative := Estimate(6385, -5); negative != off {
		t.Errorf("a negative radius counts: %v, %v", negative, off)
	}
}
