package place

import (
	"math"

	"github.com/perigee-cloud/perigee/api"
)

const earthKM = 6371

func distance(a, b api.Location) float64 {
	rad := func(d float64) float64 { return d * math.Pi / 180 }
	dLat, dLon := rad(b.Latitude-a.Latitude), rad(b.Longitude-a.Longitude)
	h := math.Pow(math.Sin(dLat/2), 2) + math.Cos(rad(a.Latitude))*math.Cos(rad(b.Latitude))*math.Pow(math.Sin(dLon/2), 2)
	return 2 * earthKM * math.Asin(math.Min(1, math.Sqrt(h)))
}

func estimate(km, radius float64) (ms, errMS float64) {
	return 2 + km*0.015, 1 + radius*0.02
}
