package geo

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestRoomAgainstBruteForce changes rooms at random and compares what a search
// finds with a look at every place.
func TestRoomAgainstBruteForce(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for _, n := range []int{1, 8, 9, 100, 1000} {
		places := randomPlaces(rnd, n)
		places[rnd.IntN(n)] = Vector{}
		x := NewIndex(places)
		r := NewRoom(x, n)
		have := make([]slot, n)
		for range 200 {
			i := rnd.IntN(n)
			have[i] = slot{uint64(rnd.IntN(4)), uint64(rnd.IntN(8))}
			r.Set(i, have[i].free, have[i].marks)
			v, least, marks := randomPlaces(rnd, 1)[0], uint64(rnd.IntN(4)), uint64(1)<<rnd.IntN(3)
			want := slices.DeleteFunc(brute(places, v), func(i int) bool { return !have[i].has(least, marks) })
			var got []int
			r.Nearest(v, least, marks, func(i int, _ float64) float64 { got = append(got, i); return math.Inf(1) })
			if len(want) > 2 { // up to a distance: no farther, and all that are within
				km := v.KM(places[want[len(want)/2]])
				within := 0
				r.Nearest(v, least, marks, func(_ int, at float64) float64 {
					if within++; at > km*(1+1e-9) {
						t.Errorf("visited %v km away, %v was the limit", at, km)
					}
					return km
				})
				if within < len(want)/2+1 {
					t.Errorf("%d found within %v km of %d", within, km, len(want)/2+1)
				}
				all := 0
				for _, p := range places {
					if d := v.KM(p); d >= 0 && d <= km {
						all++
					}
				}
				if n := x.Count(v, km); n != all {
					t.Errorf("%d places within %v km, want %d", n, km, all)
				}
			}
			last, visited := uint64(math.MaxUint64), 0
			r.Roomiest(least, marks, func(i int) bool {
				if have[i].free > last || !have[i].has(least, marks) {
					t.Errorf("place %d with %+v comes after one with %d free", i, have[i], last)
				}
				last, visited = have[i].free, visited+1
				return true
			})
			if visited != len(want) {
				t.Errorf("%d of %d places visited by their room", visited, len(want))
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%d places, at least %d with marks %b: got %v, want %v", n, least, marks, got, want)
			}
		}
		r.Set(-1, 1, 1)
		r.Set(n, 1, 1) // no place of the index: ignored
	}
}

func TestRoomSearchAllocatesNothing(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	places := randomPlaces(rnd, 10_000)
	r := NewRoom(NewIndex(places), len(places))
	for i := range places {
		if i%100 == 0 {
			r.Set(i, 5, 1)
		}
	}
	from := randomPlaces(rnd, 64)
	at, found := 0, 0
	allocs := testing.AllocsPerRun(100, func() {
		n := 0
		r.Nearest(from[at%len(from)], 5, 1, func(int, float64) float64 {
			if n++; n == 8 {
				return -1
			}
			return math.Inf(1)
		})
		at, found = at+1, found+n
		r.Set(at%100*100, uint64(at%7), 1)
	})
	if allocs != 0 || found < 7*100 {
		t.Errorf("%v allocations a search, %d found", allocs, found)
	}
}
