package geo

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func randomPlaces(rnd *rand.Rand, n int) []Vector {
	out := make([]Vector, n)
	for i := range out {
		out[i] = Point(rnd.Float64()*180-90, rnd.Float64()*360-180)
	}
	return out
}

// brute orders all places the slow way.
func brute(places []Vector, v Vector) []int {
	var ids []int
	for i, p := range places {
		if p.Known() {
			ids = append(ids, i)
		}
	}
	slices.SortStableFunc(ids, func(a, b int) int {
		switch da, db := chord2(v, places[a]), chord2(v, places[b]); {
		case da < db:
			return -1
		case da > db:
			return 1
		default:
			return a - b
		}
	})
	return ids
}

func nearest(x *Index, v Vector, n int) (ids []int, kms []float64) {
	x.Nearest(v, func(i int, km float64) bool {
		if len(ids) == n {
			return false
		}
		ids, kms = append(ids, i), append(kms, km)
		return true
	})
	return ids, kms
}

func TestIndexAgainstBruteForce(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	hard := []Vector{
		Point(90, 0), Point(-90, 0), Point(89.999, 180), Point(0, 180), Point(0, -180),
		Point(0, 179.999), Point(0, -179.999), Point(0, 0), Point(45, 180), Point(-45, -180),
	}
	for _, n := range []int{0, 1, 2, 7, 8, 9, 17, 100, 1000, 3000} {
		places := randomPlaces(rnd, n)
		for i := range places {
			switch rnd.IntN(20) {
			case 0:
				places[i] = Vector{} // unknown
			case 1, 2:
				places[i] = hard[rnd.IntN(len(hard))] // shared by several, at poles and date line
			}
		}
		x := NewIndex(places)
		for _, v := range append(randomPlaces(rnd, 20), hard...) {
			want := brute(places, v)
			got, kms := nearest(x, v, n)
			if !slices.Equal(got, want) {
				t.Fatalf("%d places, near %v: got %v, want %v", n, v, got, want)
			}
			if !slices.IsSorted(kms) || len(got) != x.Len() {
				t.Fatalf("%d places: distances %v", n, kms)
			}
			for k, i := range got {
				if math.Abs(kms[k]-v.KM(places[i])) > 1e-9 {
					t.Fatalf("place %d is %v km away, not %v", i, v.KM(places[i]), kms[k])
				}
			}
		}
	}
}

func TestIndexOfOneSpot(t *testing.T) {
	places := slices.Repeat([]Vector{Point(10, 20)}, 100)
	if got, kms := nearest(NewIndex(places), Point(10, 20), 100); !slices.Equal(got, brute(places, Point(10, 20))) || kms[99] != 0 {
		t.Errorf("got %v at %v", got, kms)
	}
}

func TestIndexLeavesOutWhatIsNoPlace(t *testing.T) {
	x := NewIndex([]Vector{{}, {math.NaN(), 0, 1}, VectorOf(api.Location{Latitude: 3}), Point(1, 2), {5, 5, 5}})
	if got, _ := nearest(x, Point(50, 50), 9); !slices.Equal(got, []int{3}) {
		t.Errorf("got %v", got)
	}
	if got, _ := nearest(x, Vector{}, 9); got != nil {
		t.Errorf("near an unknown place: %v", got)
	}
}

func TestIndexIsForManyGoroutines(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	places := randomPlaces(rnd, 500)
	x := NewIndex(places)
	var wg sync.WaitGroup
	for _, v := range randomPlaces(rnd, 8) {
		want := brute(places, v)[:10]
		wg.Go(func() {
			for range 200 {
				if got, _ := nearest(x, v, 10); !slices.Equal(got, want) {
					t.Errorf("got %v, want %v", got, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestNearestAllocatesNothing(t *testing.T) {
	x := NewIndex(randomPlaces(rand.New(rand.NewPCG(5, 6)), 10_000))
	v, count := Point(50, 8), 0
	visit := func(int, float64) bool { count++; return count%32 != 0 }
	if n := testing.AllocsPerRun(200, func() { x.Nearest(v, visit) }); n != 0 {
		t.Errorf("%v allocations a query", n)
	}
}

func BenchmarkNearest8(b *testing.B) {
	for name, n := range map[string]int{"1e4": 10_000, "1e5": 100_000} {
		b.Run(name, func(b *testing.B) {
			rnd := rand.New(rand.NewPCG(7, 8))
			x := NewIndex(randomPlaces(rnd, n))
			from := randomPlaces(rnd, 1024)
			b.ReportAllocs()
			count := 0
			visit := func(int, float64) bool { count++; return count%8 != 0 }
			for i := 0; b.Loop(); i++ {
				x.Nearest(from[i%len(from)], visit)
			}
		})
	}
}

func BenchmarkBuild1e4(b *testing.B) {
	places := randomPlaces(rand.New(rand.NewPCG(7, 8)), 10_000)
	for b.Loop() {
		NewIndex(places)
	}
}
