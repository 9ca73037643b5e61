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

func TestMapTellsEqualHashesApart(t *testing.T) {
	b := &branch[int]{}
	for i, k := range []string{"a", "b", "c"} {
		b, _ = b.set(slot[int]{hash: 42, key: k, val: i}, 0)
	}
	depth := 0
	for n := b; len(n.slots) == 1; n = n.slots[0].child {
		depth++
	}
	if depth != (hashBits+levelBits-1)/levelBits {
		t.Fatalf("equal hashes parted at level %d", depth)
	}
	b, removed := b.remove(42, 0, "b")
	if !removed {
		t.Fatal("b was not found")
	}
	got := map[string]int{}
	b.walk(func(k string, v int) bool { got[k] = v; return true })
	if !maps.Equal(got, map[string]int{"a": 0, "c": 2}) {
		t.Errorf("left are %v", got)
	}
	b, _ = b.remove(42, 0, "a")
	if len(b.slots) != 1 || b.slots[0].child != nil || b.slots[0].key != "c" {
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
