package state

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
)

func contents(m Map[int]) map[string]int { return maps.Collect(m.All()) }

func TestMapIsAMapAndOldRootsStay(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var m Map[int]
	want := map[string]int{}
	type kept struct {
		m    Map[int]
		want map[string]int
	}
	var old []kept
	for i := range 6000 {
		k := fmt.Sprintf("key-%d", r.IntN(800))
		if r.IntN(5) < 3 {
			m, want[k] = m.Set(k, i), i
		} else {
			m = m.Delete(k)
			delete(want, k)
		}
		if i%1000 == 0 {
			old = append(old, kept{m, maps.Clone(want)})
		}
		if v, ok := m.Get(k); ok != (want[k] == v && v != 0 || ok && want[k] == v) {
			t.Fatalf("step %d: %s is %d, %v; want %d", i, k, v, ok, want[k])
		}
	}
	old = append(old, kept{m, want})
	for i, k := range old {
		if got := contents(k.m); !maps.Equal(got, k.want) || k.m.Len() != len(k.want) {
			t.Errorf("root %d holds %d keys (Len %d), want %d", i, len(got), k.m.Len(), len(k.want))
		}
	}
	for k := range want {
		m = m.Delete(k)
	}
	if m.Len() != 0 || m.root != nil {
		t.Errorf("an emptied map holds %d keys, root %v", m.Len(), m.root)
	}
}

// TestChangesInPlaceLeaveOldRootsAlone makes changes of many keys, of which two
// are sometimes made of the same map.
func TestChangesInPlaceLeaveOldRootsAlone(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	type root struct {
		m    Map[int]
		want map[string]int
		edit uint64
	}
	roots := []root{{want: map[string]int{}}}
	for i := range 600 {
		from := roots[len(roots)-1]
		if r.IntN(4) == 0 {
			from = roots[r.IntN(len(roots))] // a fork
		}
		m, want := from.m, maps.Clone(from.want)
		for range r.IntN(60) {
			k := fmt.Sprintf("key-%d", r.IntN(500))
			if r.IntN(3) > 0 {
				m, want[k] = m.SetIn(from.edit+1, k, i), i
			} else {
				m = m.DeleteIn(from.edit+1, k)
				delete(want, k)
			}
		}
		roots = append(roots, root{m, want, from.edit + 1})
	}
	for i, k := range roots {
		if got := contents(k.m); !maps.Equal(got, k.want) || k.m.Len() != len(k.want) {
			t.Fatalf("root %d holds %d keys (Len %d), want %d", i, len(got), k.m.Len(), len(k.want))
		}
	}
}

func TestMapTellsEqualHashesApart(t *testing.T) {
	b := &branch[int]{}
	for i, k := range []string{"a", "b", "c"} {
		b, _ = b.set(0, &leaf[int]{hash: 42, key: k, val: i}, 0)
	}
	depth := 0
	for n := b; len(n.slots) == 1; n = n.slots[0].child {
		depth++
	}
	if depth != (hashBits+levelBits-1)/levelBits {
		t.Fatalf("equal hashes parted at level %d", depth)
	}
	b, removed := b.remove(0, 42, 0, "b")
	if !removed {
		t.Fatal("b was not found")
	}
	got := map[string]int{}
	b.walk(func(k string, v int) bool { got[k] = v; return true })
	if !maps.Equal(got, map[string]int{"a": 0, "c": 2}) {
		t.Errorf("left are %v", got)
	}
	b, _ = b.remove(0, 42, 0, "a")
	if len(b.slots) != 1 || b.slots[0].child != nil || b.slots[0].leaf.key != "c" {
		t.Errorf("a lone leaf did not come up: %+v", b.slots)
	}
}

func TestMapSorted(t *testing.T) {
	var m Map[int]
	for i := range 100 {
		m = m.Set(fmt.Sprintf("%03d", (i*37)%100), i)
	}
	last, n := "", 0
	for k := range m.Sorted() {
		if k <= last {
			t.Fatalf("%q follows %q", k, last)
		}
		last = k
		n++
	}
	if n != 100 {
		t.Errorf("walked %d of 100", n)
	}
}

// BenchmarkMapSetIn sets 256 keys in one change, as an entry does.
func BenchmarkMapSetIn(b *testing.B) {
	var m Map[int]
	keys := make([]string, 100_000)
	for i := range keys {
		keys[i] = fmt.Sprintf("session-%d", i)
		m = m.SetIn(1, keys[i], i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m = m.SetIn(uint64(2+i/256), keys[i*7919%len(keys)], i)
	}
}

func BenchmarkMapSet(b *testing.B) {
	var m Map[int]
	keys := make([]string, 10000)
	for i := range keys {
		keys[i] = fmt.Sprintf("session-%d", i)
		m = m.Set(keys[i], i)
	}
	for i := 0; b.Loop(); i++ {
		m = m.Set(keys[i%len(keys)], i)
	}
}
