package geo

import (
	"math"

	"github.com/perigee-cloud/perigee/api"
)

// EarthRadiusKM is the mean radius of the Earth (IUGG, R1).
const EarthRadiusKM = 6371.0088

// Vector is a place as a unit vector from the Earth's centre: no special case
// at the poles or the date line. The zero Vector is an unknown place.
type Vector [3]float64

// Point gives the unit vector of a latitude and longitude in degrees.
func Point(latitude, longitude float64) Vector {
	sinLat, cosLat := math.Sincos(latitude * math.Pi / 180)
	sinLon, cosLon := math.Sincos(longitude * math.Pi / 180)
	return Vector{cosLat * cosLon, cosLat * sinLon, sinLat}
}

// VectorOf gives the unit vector of a location, the zero Vector when unknown.
func VectorOf(l api.Location) Vector {
	if !l.Known {
		return Vector{}
	}
	return Point(l.Latitude, l.Longitude)
}

// Known says whether v is a place.
func (v Vector) Known() bool { return v != Vector{} }

// KM gives the great-circle distance to w; negative when either is unknown.
func (v Vector) KM(w Vector) float64 {
	if !v.Known() || !w.Known() {
		return -1
	}
	return arc(chord2(v, w))
}

// chord2 is the squared straight distance through the Earth, in radii: it
// orders places as the great circle does and is exact for near ones.
func chord2(v, w Vector) float64 {
	x, y, z := v[0]-w[0], v[1]-w[1], v[2]-w[2]
	return x*x + y*y + z*z
}

func arc(chord2 float64) float64 {
	return 2 * EarthRadiusKM * math.Asin(min(math.Sqrt(chord2)/2, 1))
}

// Distance gives the great-circle distance of two locations in km; negative
// when either is unknown.
func Distance(a, b api.Location) float64 { return VectorOf(a).KM(VectorOf(b)) }

const (
	// fibreKMPerMS is light in glass: 2/3 of 299.792 km/ms (index about 1.5).
	fibreKMPerMS = 299.792458 * 2 / 3
	// stretch is how much longer the Internet's ways are than the great circle:
	// "multiply line-of-sight distance by 2.1, then divide by the speed of light
	// in fiber" (Bozkurt et al. 2018, arXiv 1811.10737).
	stretch = 2.1
	// bestStretch is what the shortest conduits would give (same paper).
	bestStretch = 1.3
)

// Estimate gives the round trip over a great-circle distance, and its error, in
// ms. radiusKM is how far off the distance may be: the sum of both places'
// radii. The access line, the same towards every node, is not in it. Negative
// when the distance is.
func Estimate(distanceKM, radiusKM float64) (ms, errMS float64) {
	if !(distanceKM >= 0) {
		return -1, -1
	}
	perKM := 2 / fibreKMPerMS
	return stretch * perKM * distanceKM, perKM * (stretch*max(radiusKM, 0) + (stretch-bestStretch)*distanceKM)
}

// Reach gives the distance in km whose Estimate is ms; negative when ms is.
func Reach(ms float64) float64 { return ms * fibreKMPerMS / (2 * stretch) }
