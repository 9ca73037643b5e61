package geo

import (
	"math"
	"slices"
)

const (
	// leafSize balances visits of cells against points looked at in vain.
	leafSize = 8
	// onStack is how many items a query's queue holds without allocating: enough
	// for some tens of neighbours among 100,000 places.
	onStack = 256
)

// Index finds the nearest of fixed places: a k-d tree over unit vectors. It is
// for many goroutines; a query allocates nothing.
type Index struct {
	cells  []cell // a complete binary tree: children of i are 2i+1 and 2i+2
	points []Vector
	ids    []int32 // ids[k] is the caller's number of points[k]
}

// cell holds the points [from, to) and their bounding box.
type cell struct {
	low, high Vector
	from, to  int32
	leaf      bool
}

// NewIndex builds an index; visits name a place by its position in places.
// Unknown places are left out. It takes O(n log² n).
func NewIndex(places []Vector) *Index {
	x := &Index{}
	for i, p := range places {
		if n := chord2(p, Vector{}); n > 0.5 && n < 2 { // neither zero nor NaN
			x.ids = append(x.ids, int32(i))
		}
	}
	depth := 0
	for n := len(x.ids); n > leafSize; n = (n + 1) / 2 {
		depth++
	}
	x.cells = make([]cell, 2<<depth-1)
	x.build(places, 0, 0, len(x.ids))
	x.points = make([]Vector, len(x.ids))
	for k, id := range x.ids {
		x.points[k] = places[id]
	}
	return x
}

func (x *Index) build(places []Vector, at, from, to int) {
	c := cell{from: int32(from), to: int32(to), leaf: 2*at+2 >= len(x.cells)}
	c.low = Vector{math.Inf(1), math.Inf(1), math.Inf(1)}
	c.high = Vector{math.Inf(-1), math.Inf(-1), math.Inf(-1)}
	for _, id := range x.ids[from:to] {
		for d, v := range places[id] {
			c.low[d], c.high[d] = min(c.low[d], v), max(c.high[d], v)
		}
	}
	x.cells[at] = c
	if c.leaf {
		return
	}
	wide := 0
	for d := range 3 {
		if c.high[d]-c.low[d] > c.high[wide]-c.low[wide] {
			wide = d
		}
	}
	slices.SortFunc(x.ids[from:to], func(a, b int32) int {
		switch va, vb := places[a][wide], places[b][wide]; {
		case va < vb:
			return -1
		case va > vb:
			return 1
		default:
			return int(a - b)
		}
	})
	middle := (from + to) / 2
	x.build(places, 2*at+1, from, middle)
	x.build(places, 2*at+2, middle, to)
}

// Len is how many places are in the index.
func (x *Index) Len() int { return len(x.points) }

// Nearest visits the places from the nearest to v outwards until visit answers
// false: their position in NewIndex's places, and the distance in km. Equally
// near ones come in the order of their positions. Nothing is near an unknown v.
func (x *Index) Nearest(v Vector, visit func(i int, km float64) bool) {
	if !v.Known() || len(x.points) == 0 {
		return
	}
	var room [onStack]item
	queue := append(room[:0], item{key: cellKey(0)})
	for len(queue) > 0 {
		var next item
		next, queue = pop(queue)
		if next.key >= 0 {
			if !visit(int(next.key), arc(next.chord2)) {
				return
			}
			continue
		}
		at := cellAt(next.key)
		c := &x.cells[at]
		if !c.leaf {
			queue = push(queue, item{x.cells[2*at+1].chord2(v), cellKey(2*at + 1)})
			queue = push(queue, item{x.cells[2*at+2].chord2(v), cellKey(2*at + 2)})
			continue
		}
		for k := c.from; k < c.to; k++ {
			queue = push(queue, item{chord2(v, x.points[k]), x.ids[k]})
		}
	}
}

// chord2 is the squared distance of v from the cell's box, 0 inside.
func (c *cell) chord2(v Vector) float64 {
	var sum float64
	for d := range 3 {
		off := max(c.low[d]-v[d], v[d]-c.high[d], 0)
		sum += off * off
	}
	return sum
}

// item is a place (key = its number) or a cell (negative key) at a distance. A
// cell comes before a place as near: it may hold one with a lower number.
type item struct {
	chord2 float64
	key    int32
}

func cellKey(at int) int32 { return int32(-1 - at) }
func cellAt(key int32) int { return -1 - int(key) }

func (a item) before(b item) bool {
	return a.chord2 < b.chord2 || a.chord2 == b.chord2 && a.key < b.key
}

// push and pop keep a binary heap in a slice that the caller owns, so that it
// can stand on the stack; container/heap would allocate at each push.
func push(h []item, it item) []item {
	h = append(h, it)
	for i := len(h) - 1; i > 0; {
		parent := (i - 1) / 2
		if !h[i].before(h[parent]) {
			break
		}
		h[i], h[parent] = h[parent], h[i]
		i = parent
	}
	return h
}

func pop(h []item) (item, []item) {
	top, last := h[0], len(h)-1
	h[0] = h[last]
	h = h[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			return top, h
		}
		if child+1 < last && h[child+1].before(h[child]) {
			child++
		}
		if !h[child].before(h[i]) {
			return top, h
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
}
