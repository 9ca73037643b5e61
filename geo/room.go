package geo

import "math"

// Room keeps beside an Index how much is free at each place and what marks it
// bears, and for each cell the most that is free and all marks of its places,
// so that a search leaves out cells where nothing is to be found. It is for one
// goroutine at a time.
type Room struct {
	index *Index
	slots []slot  // in the order of the index's points
	at    []int32 // by place: its slot, or -1
	cells []slot
	leaf  []int32 // by slot: its cell
}

type slot struct{ free, marks uint64 }

// NewRoom keeps room for the n places that the index was built from; all are
// without any.
func NewRoom(x *Index, n int) *Room {
	r := &Room{index: x, slots: make([]slot, len(x.ids)), at: make([]int32, n), cells: make([]slot, len(x.cells)), leaf: make([]int32, len(x.ids))}
	for i := range r.at {
		r.at[i] = -1
	}
	for k, id := range x.ids {
		r.at[id] = int32(k)
	}
	for c := range x.cells {
		if x.cells[c].leaf {
			for k := x.cells[c].from; k < x.cells[c].to; k++ {
				r.leaf[k] = int32(c)
			}
		}
	}
	return r
}

// Set says what is free at place i and what marks it bears. Places that the
// index left out are ignored.
func (r *Room) Set(i int, free, marks uint64) {
	if i < 0 || i >= len(r.at) || r.at[i] < 0 {
		return
	}
	k := r.at[i]
	if r.slots[k] == (slot{free, marks}) {
		return
	}
	r.slots[k] = slot{free, marks}
	at := r.leaf[k]
	c := &r.index.cells[at]
	var sum slot
	for _, s := range r.slots[c.from:c.to] {
		sum = slot{max(sum.free, s.free), sum.marks | s.marks}
	}
	for r.cells[at] != sum {
		r.cells[at] = sum
		if at == 0 {
			return
		}
		at = (at - 1) / 2
		a, b := r.cells[2*at+1], r.cells[2*at+2]
		sum = slot{max(a.free, b.free), a.marks | b.marks}
	}
}

func (s slot) has(least, marks uint64) bool { return s.free >= least && s.marks&marks == marks }

// Nearest visits, as Index.Nearest does, the places where at least so much is
// free and that bear all the marks. Visit answers how far in km the search still
// goes; negative ends it.
func (r *Room) Nearest(v Vector, least, marks uint64, visit func(i int, km float64) (farthest float64)) {
	x := r.index
	if !v.Known() || len(x.points) == 0 || !r.cells[0].has(least, marks) {
		return
	}
	var room [onStack]item
	queue := append(room[:0], item{key: cellKey(0)})
	farthest, limit := math.Inf(1), math.Inf(1)
	for len(queue) > 0 {
		var next item
		next, queue = pop(queue)
		if next.chord2 > limit {
			return
		}
		if next.key >= 0 {
			if km := visit(int(next.key), arc(next.chord2)); km != farthest {
				if km < 0 {
					return
				}
				farthest, limit = km, chord2Of(km)
			}
			continue
		}
		at := cellAt(next.key)
		c := &x.cells[at]
		if !c.leaf {
			for child := 2*at + 1; child <= 2*at+2; child++ {
				if r.cells[child].has(least, marks) {
					if d := x.cells[child].chord2(v); d <= limit {
						queue = push(queue, item{d, cellKey(child)})
					}
				}
			}
			continue
		}
		for k := c.from; k < c.to; k++ {
			if r.slots[k].has(least, marks) {
				if d := chord2(v, x.points[k]); d <= limit {
					queue = push(queue, item{d, x.ids[k]})
				}
			}
		}
	}
}

// Roomiest visits the places that bear all the marks and where at least so much
// is free, those with the most first, until visit answers false.
func (r *Room) Roomiest(least, marks uint64, visit func(i int) bool) {
	x := r.index
	if len(x.points) == 0 || !r.cells[0].has(least, marks) {
		return
	}
	var room [onStack]item
	queue := append(room[:0], item{-float64(r.cells[0].free), cellKey(0)})
	for len(queue) > 0 {
		var next item
		next, queue = pop(queue)
		if next.key >= 0 {
			if !visit(int(next.key)) {
				return
			}
			continue
		}
		at := cellAt(next.key)
		c := &x.cells[at]
		if !c.leaf {
			for child := 2*at + 1; child <= 2*at+2; child++ {
				if s := r.cells[child]; s.has(least, marks) {
					queue = push(queue, item{-float64(s.free), cellKey(child)})
				}
			}
			continue
		}
		for k := c.from; k < c.to; k++ {
			if s := r.slots[k]; s.has(least, marks) {
				queue = push(queue, item{-float64(s.free), x.ids[k]})
			}
		}
	}
}

// chord2Of is arc turned round.
func chord2Of(km float64) float64 {
	half := math.Sin(min(km/(2*EarthRadiusKM), math.Pi/2))
	return 4 * half * half * (1 + 1e-12) // a place at that very distance is within
}

// Count gives how many places, with room or not, lie within km of v.
func (x *Index) Count(v Vector, km float64) int {
	if !v.Known() || len(x.points) == 0 || !(km >= 0) {
		return 0
	}
	return x.count(v, chord2Of(km), 0)
}

func (x *Index) count(v Vector, limit float64, at int) int {
	c := &x.cells[at]
	switch {
	case c.to == c.from || c.chord2(v) > limit:
		return 0
	case c.farthest2(v) <= limit:
		return int(c.to - c.from)
	case !c.leaf:
		return x.count(v, limit, 2*at+1) + x.count(v, limit, 2*at+2)
	}
	n := 0
	for k := c.from; k < c.to; k++ {
		if chord2(v, x.points[k]) <= limit {
			n++
		}
	}
	return n
}

// farthest2 is the squared distance of v from the cell's farthest corner.
func (c *cell) farthest2(v Vector) float64 {
	var sum float64
	for d := range 3 {
		off := max(v[d]-c.low[d], c.high[d]-v[d])
		sum += off * off
	}
	return sum
}
