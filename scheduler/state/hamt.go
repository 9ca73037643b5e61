package state

import (
	"iter"
	"math/bits"
	"slices"
	"sort"
)

// Map is a persistent map from strings: Set and Delete give a new map and share
// all but the path to the key (a hash array mapped trie, 32 ways). The zero Map
// is empty. The hash is FNV-1a without a seed: every replica holds the same shape.
type Map[V any] struct {
	root *branch[V]
	n    int
}

const (
	hashBits  = 64
	levelBits = 5
	levelMask = 1<<levelBits - 1
)

type branch[V any] struct {
	bitmap uint32 // unused below the last level, where slots is a plain list
	edit   uint64 // the change that made it, which may write it in place; 0 = none
	slots  []slot[V]
}

// slot is a leaf, or a branch when child is set. It is small because branches
// are copied at every change.
type slot[V any] struct {
	child *branch[V]
	leaf  *leaf[V]
}

type leaf[V any] struct {
	hash uint64
	key  string
	val  V
}

func hashOf(s string) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * prime
	}
	return h
}

// Len is how many keys the map holds.
func (m Map[V]) Len() int { return m.n }

// Get finds a key.
func (m Map[V]) Get(key string) (V, bool) {
	h, b := hashOf(key), m.root
	for shift := 0; b != nil; shift += levelBits {
		i, ok := b.find(h, shift, key)
		if !ok {
			break
		}
		s := &b.slots[i]
		if s.child == nil {
			if s.leaf.hash == h && s.leaf.key == key {
				return s.leaf.val, true
			}
			break
		}
		b = s.child
	}
	var zero V
	return zero, false
}

// find gives the slot where key is or would be, and whether there is one.
func (b *branch[V]) find(h uint64, shift int, key string) (int, bool) {
	if shift >= hashBits {
		for i := range b.slots {
			if b.slots[i].leaf.key == key {
				return i, true
			}
		}
		return len(b.slots), false
	}
	bit := uint32(1) << (h >> shift & levelMask)
	return bits.OnesCount32(b.bitmap & (bit - 1)), b.bitmap&bit != 0
}

// Set gives a map in which key has the value.
func (m Map[V]) Set(key string, v V) Map[V] { return m.SetIn(0, key, v) }

// SetIn is Set within one change of many keys: what the change itself has copied
// it writes in place. Nobody may hold a map of the same change but the last; the
// numbers of changes grow from a map to those made of it. 0 writes nothing in
// place.
func (m Map[V]) SetIn(edit uint64, key string, v V) Map[V] {
	root := m.root
	if root == nil {
		root = &branch[V]{edit: edit}
	}
	root, added := root.set(edit, &leaf[V]{hash: hashOf(key), key: key, val: v}, 0)
	if added {
		m.n++
	}
	m.root = root
	return m
}

// own gives the branch itself where the change made it, else a copy with room
// for so many slots more.
func (b *branch[V]) own(edit uint64, more int) *branch[V] {
	if edit != 0 && b.edit == edit {
		return b
	}
	return &branch[V]{bitmap: b.bitmap, edit: edit, slots: append(make([]slot[V], 0, len(b.slots)+more), b.slots...)}
}

func (b *branch[V]) set(edit uint64, l *leaf[V], shift int) (*branch[V], bool) {
	i, ok := b.find(l.hash, shift, l.key)
	if !ok {
		c := b.own(edit, 1)
		if shift < hashBits {
			c.bitmap |= 1 << (l.hash >> shift & levelMask)
		}
		c.slots = slices.Insert(c.slots, i, slot[V]{leaf: l})
		return c, true
	}
	c := b.own(edit, 0)
	at := &c.slots[i]
	switch {
	case at.child != nil:
		child, added := at.child.set(edit, l, shift+levelBits)
		*at = slot[V]{child: child}
		return c, added
	case at.leaf.key == l.key:
		at.leaf = l
		return c, false
	default: // two keys in one slot: both go one level down
		child, _ := (&branch[V]{edit: edit}).set(edit, at.leaf, shift+levelBits)
		child, _ = child.set(edit, l, shift+levelBits)
		*at = slot[V]{child: child}
		return c, true
	}
}

// Delete gives a map without key.
func (m Map[V]) Delete(key string) Map[V] { return m.DeleteIn(0, key) }

// DeleteIn is Delete within one change of many keys, as SetIn is.
func (m Map[V]) DeleteIn(edit uint64, key string) Map[V] {
	if m.root == nil {
		return m
	}
	root, removed := m.root.remove(edit, hashOf(key), 0, key)
	if !removed {
		return m
	}
	m.root = root
	m.n--
	return m
}

func (b *branch[V]) remove(edit, h uint64, shift int, key string) (*branch[V], bool) {
	i, ok := b.find(h, shift, key)
	if !ok {
		return b, false
	}
	at := b.slots[i]
	if at.child == nil {
		if at.leaf.key != key {
			return b, false
		}
		return b.without(edit, i, h, shift), true
	}
	child, removed := at.child.remove(edit, h, shift+levelBits, key)
	if !removed {
		return b, false
	}
	if child == nil {
		return b.without(edit, i, h, shift), true
	}
	c := b.own(edit, 0)
	if len(child.slots) == 1 && child.slots[0].child == nil {
		c.slots[i] = child.slots[0] // a lone leaf needs no branch of its own
	} else {
		c.slots[i] = slot[V]{child: child}
	}
	return c, true
}

func (b *branch[V]) without(edit uint64, i int, h uint64, shift int) *branch[V] {
	if len(b.slots) == 1 {
		return nil
	}
	c := b.own(edit, 0)
	if shift < hashBits {
		c.bitmap &^= 1 << (h >> shift & levelMask)
	}
	c.slots = slices.Delete(c.slots, i, i+1)
	return c
}

// All walks the map in no useful order.
func (m Map[V]) All() iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		if m.root != nil {
			m.root.walk(yield)
		}
	}
}

func (b *branch[V]) walk(yield func(string, V) bool) bool {
	for i := range b.slots {
		s := &b.slots[i]
		if s.child != nil {
			if !s.child.walk(yield) {
				return false
			}
		} else if !yield(s.leaf.key, s.leaf.val) {
			return false
		}
	}
	return true
}

// Sorted walks the map in the order of its keys.
func (m Map[V]) Sorted() iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		keys := make([]string, 0, m.n)
		for k := range m.All() {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			v, _ := m.Get(k)
			if !yield(k, v) {
				return
			}
		}
	}
}
