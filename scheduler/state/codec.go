package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// ErrEntry says that bytes are no entry or snapshot that this version reads.
var ErrEntry = errors.New("not an entry this version reads")

// Bounds of what is read, so that a broken length cannot ask for memory.
const (
	maxString = 1 << 20
	maxList   = 1 << 16
)

// coder writes or reads a record field by field. One list of fields serves both
// ways, so that they cannot drift apart. Writing leaves the fields untouched:
// a snapshot reads records that others read at the same time.
type coder struct {
	reading bool
	version int    // of the entry or snapshot; what later ones added is left out of 0 and 1
	b       []byte // what was written, or what is left to read
	err     error
	words   *words // strings that were read before; nil = keep none
}

// words are strings that are read again and again: accounts, regions, codecs.
// Each is made once.
type words [256]string

func (w *words) of(b []byte) string {
	if w == nil || len(b) == 0 || len(b) > 64 {
		return string(b)
	}
	h := uint32(len(b))
	for _, x := range b {
		h = (h ^ uint32(x)) * 16777619
	}
	at := &w[h>>24]
	if *at != string(b) {
		*at = string(b)
	}
	return *at
}

func (c *coder) fail(what string) {
	if c.err == nil {
		c.err = fmt.Errorf("read %s: %w", what, ErrEntry)
	}
	c.b = nil
}

func (c *coder) uint(v *uint64) {
	if !c.reading {
		c.b = binary.AppendUvarint(c.b, *v)
		return
	}
	n, size := binary.Uvarint(c.b)
	// The shortest form only: one value has one encoding.
	if size <= 0 || size > 1 && c.b[size-1] == 0 {
		c.fail("number")
		*v = 0
		return
	}
	c.b = c.b[size:]
	*v = n
}

func (c *coder) int(v *int64) {
	u := uint64(*v<<1) ^ uint64(*v>>63) // zigzag
	c.uint(&u)
	if c.reading {
		*v = int64(u>>1) ^ -int64(u&1)
	}
}

func (c *coder) bool(v *bool) {
	var u uint64
	if *v {
		u = 1
	}
	c.uint(&u)
	if !c.reading {
		return
	}
	if u > 1 {
		c.fail("flag")
	}
	*v = u == 1
}

func (c *coder) bytes(v *[]byte) {
	n := uint64(len(*v))
	c.uint(&n)
	if !c.reading {
		c.b = append(c.b, *v...)
		return
	}
	if n > maxString || n > uint64(len(c.b)) {
		c.fail("bytes")
		*v = nil
		return
	}
	*v = nil
	if n > 0 {
		*v = append([]byte(nil), c.b[:n]...)
	}
	c.b = c.b[n:]
}

// part gives the next bytes, led by their length, without copying them.
func (c *coder) part() (b []byte) {
	var n uint64
	c.uint(&n)
	if n > maxString || n > uint64(len(c.b)) {
		c.fail("bytes")
		return nil
	}
	b, c.b = c.b[:n], c.b[n:]
	return b
}

func (c *coder) time(v *time.Time) {
	var ns int64
	if !v.IsZero() {
		ns = v.UnixNano()
	}
	c.int(&ns)
	if c.reading {
		*v = fromNS(ns)
	}
}

func fromNS(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// float keeps 32 bits: distances and estimates need no more.
func (c *coder) float(v *float64) {
	if !c.reading {
		c.b = binary.LittleEndian.AppendUint32(c.b, math.Float32bits(float32(*v)))
		return
	}
	if len(c.b) < 4 {
		c.fail("float")
		return
	}
	f := math.Float32frombits(binary.LittleEndian.Uint32(c.b))
	if f != f { // NaN has many encodings and compares to nothing
		c.fail("float")
		return
	}
	*v = float64(f)
	c.b = c.b[4:]
}

func str[T ~string](c *coder, v *T) { text(c, v, c.words) }

// once is str for what hardly comes twice, like ids of sessions: among the words
// it would only push others out.
func once[T ~string](c *coder, v *T) { text(c, v, nil) }

func text[T ~string](c *coder, v *T, known *words) {
	n := uint64(len(*v))
	c.uint(&n)
	if !c.reading {
		c.b = append(c.b, *v...)
		return
	}
	if n > maxString || n > uint64(len(c.b)) {
		c.fail("string")
		*v = ""
		return
	}
	*v = T(known.of(c.b[:n]))
	c.b = c.b[n:]
}

func num[T ~int | ~uint32 | ~int64 | ~uint64](c *coder, v *T) {
	n := int64(*v)
	c.int(&n)
	if !c.reading {
		return
	}
	if *v = T(n); int64(*v) != n {
		c.fail("number")
	}
}

func list[T any](c *coder, v *[]T, field func(*coder, *T)) {
	n := uint64(len(*v))
	c.uint(&n)
	if c.reading {
		*v = nil
		if n > maxList || n > uint64(len(c.b)) {
			c.fail("list")
			return
		}
		if n > 0 {
			*v = make([]T, n)
		}
	}
	for i := range *v {
		field(c, &(*v)[i])
	}
}
