package fleet

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/geo"
)

// The round trips of the simulated world. What placement believes (great circle
// × 2.1 over light in fibre) is a median; the world is drawn around it, after
// Bozkurt et al. 2018 (arXiv 1811.10737): no way is shorter than 1.3 times the
// great circle, half are under 2.1, the tail is long; some ways make a detour
// over another country. Access lines after the FCC's Measuring Broadband America
// (fixed) and Opensignal's reports (mobile). GeoIP is off as in arXiv 2605.21937.
const (
	perKM         = 2 / (299.792458 * 2 / 3) // ms there and back over a km of fibre
	leastStretch  = 1.3
	usualStretch  = 0.8 // the median above the least
	stretchSpread = 0.6 // of the logarithm
	detourShare   = 0.06
	detourLeast   = 15.0
	detourMost    = 60.0
	mobileShare   = 0.3
	fixedLineMS   = 6.0
	mobileLineMS  = 28.0
	lineSpread    = 0.4
	fixedJitter   = 1.0 // mean, exponential
	mobileJitter  = 6.0
	geoipClose    = 0.72 // share of networks that GeoIP finds within some 25 km
	geoipNear     = 0.23 // within some 200 km; the rest is in another city
	farAwayKM     = 2000
)

// network is a prefix of clients with one way to each site.
type network struct {
	address  string
	city     int
	mobile   bool
	believed api.Location // by GeoIP
	trips    []float64    // by site, ms, without jitter
	nearest  []int        // sites by trips
}

// site is a place with nodes.
type site struct {
	city  int
	place geo.Vector
	nodes []api.NodeID
}

func makeNetworks(rnd *rand.Rand, towns []city, sites []site, n int) []network {
	var people []float64
	for _, c := range towns {
		people = append(people, c.people)
	}
	out := make([]network, n)
	for i := range out {
		w := &out[i]
		w.address = address(i)
		w.city = draw(rnd, people)
		w.mobile = rnd.Float64() < mobileShare
		home := towns[w.city]
		latitude, longitude := near(rnd, home.latitude, home.longitude, 15)
		here := geo.Point(latitude, longitude)
		w.believed = believe(rnd, towns, here, latitude, longitude, w.mobile)
		line := fixedLineMS
		if w.mobile {
			line = mobileLineMS
		}
		line *= math.Exp(rnd.NormFloat64() * lineSpread)
		w.trips = make([]float64, len(sites))
		w.nearest = make([]int, len(sites))
		for s := range sites {
			stretch := leastStretch + usualStretch*math.Exp(rnd.NormFloat64()*stretchSpread)
			w.trips[s] = line + here.KM(sites[s].place)*perKM*stretch
			if rnd.Float64() < detourShare {
				w.trips[s] += detourLeast + rnd.Float64()*(detourMost-detourLeast)
			}
			w.nearest[s] = s
		}
		slices.SortFunc(w.nearest, func(a, b int) int {
			if w.trips[a] < w.trips[b] {
				return -1
			}
			return 1
		})
	}
	return out
}

// believe is where GeoIP says that a network is, with the radius it gives.
func believe(rnd *rand.Rand, towns []city, here geo.Vector, latitude, longitude float64, mobile bool) api.Location {
	l := api.Location{Known: true, RadiusKM: 20, Source: "mmdb"}
	x := rnd.Float64()
	if mobile {
		x = (x + 1) / 2 // behind a gateway somewhere in the country
	}
	switch {
	case x < geoipClose:
		l.Latitude, l.Longitude = near(rnd, latitude, longitude, 25)
	case x < geoipClose+geoipNear:
		l.Latitude, l.Longitude = near(rnd, latitude, longitude, 200)
		l.RadiusKM = 200
	default:
		l.Latitude, l.Longitude, l.RadiusKM = latitude, longitude, 500
		for range 20 {
			c := towns[rnd.IntN(len(towns))]
			if here.KM(geo.Point(c.latitude, c.longitude)) < farAwayKM {
				l.Latitude, l.Longitude = c.latitude, c.longitude
				break
			}
		}
	}
	return l
}

// near draws a place some km away.
func near(rnd *rand.Rand, latitude, longitude, km float64) (lat, lon float64) {
	const kmPerDegree = 111.2
	lat = latitude + rnd.NormFloat64()*km/kmPerDegree/math.Sqrt2
	lon = longitude + rnd.NormFloat64()*km/kmPerDegree/math.Sqrt2/math.Cos(latitude*math.Pi/180)
	return min(max(lat, -90), 90), min(max(lon, -180), 180)
}

// measured is one round trip as somebody measures it.
func (w *network) measured(rnd *rand.Rand, s int) float64 {
	mean := fixedJitter
	if w.mobile {
		mean = mobileJitter
	}
	return w.trips[s] + rnd.ExpFloat64()*mean
}

// probed is what the SDK reports: the least of three.
func (w *network) probed(rnd *rand.Rand, s int) float64 {
	return min(w.measured(rnd, s), w.measured(rnd, s), w.measured(rnd, s))
}

// draw picks an index by weight.
func draw(rnd *rand.Rand, weights []float64) int {
	var sum float64
	for _, w := range weights {
		sum += w
	}
	x := rnd.Float64() * sum
	for i, w := range weights {
		if x -= w; x < 0 {
			return i
		}
	}
	return len(weights) - 1
}
