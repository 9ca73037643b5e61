package state

import (
	"iter"
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

const (
	chunkSize = 256 // finished sessions that are forgotten together
	maxEnd    = 48  // bytes of a finished session's message
	// Beyond so many the oldest chunk goes before its time. Entries of version 1
	// keep fewer: replicas that read no later ones must come to the same.
	maxFinished   = 1 << 20
	maxFinishedV1 = 200_000
)

// finished keeps ended sessions as packed records, findable by id and forgotten
// a chunk at a time, oldest first.
type finished struct {
	records Map[string]
	chunks  []*chunk // full ones
	open    *chunk   // the newest; nil when it would be empty
}

type chunk struct {
	ids  []api.SessionID
	last int64  // ns
	edit uint64 // the change that made it and may add to it; 0 = none
}

// record lists the fields of a finished session that are kept; extra_data and
// the placement's details are not.
func record(c *coder, s *api.Session, key *string) {
	str(c, &s.ID)
	num(c, &s.Generation)
	str(c, &s.Account)
	what(c, &s.App, &s.AppVersion, &s.Region)
	where(c, &s.Node, &s.Pool, &s.Codec)
	screen(c, &s.Screen)
	life(c, &s.Joinable, &s.Ephemeral, &s.IdleMinutes)
	str(c, &s.Desired)
	str(c, &s.Observed)
	str(c, &s.Reason)
	str(c, &s.Message)
	c.time(&s.CreatedAt)
	c.time(&s.EndedAt)
	c.time(&s.ViewerAt)
	num(c, &s.Placement.Rank)
	c.float(&s.Placement.DistanceKM)
	c.float(&s.Placement.EstimateMS)
	str(c, key)
}

func unpack(packed string) (s api.Session, key string, err error) {
	c := coder{reading: true, b: []byte(packed)}
	record(&c, &s, &key)
	if c.err == nil && len(c.b) > 0 {
		c.fail("finished session")
	}
	return s, key, c.err
}

func (f *finished) get(id api.SessionID) (api.Session, bool) {
	packed, ok := f.records.Get(string(id))
	if !ok {
		return api.Session{}, false
	}
	s, _, err := unpack(packed)
	return s, err == nil
}

func (f *finished) all() iter.Seq[api.Session] {
	return func(yield func(api.Session) bool) {
		for id := range f.ids() {
			if s, ok := f.get(id); ok && !yield(s) {
				return
			}
		}
	}
}

// ids walks the sessions, those that ended first in front.
func (f *finished) ids() iter.Seq[api.SessionID] {
	return func(yield func(api.SessionID) bool) {
		for _, c := range f.chunks {
			for _, id := range c.ids {
				if !yield(id) {
					return
				}
			}
		}
		if f.open == nil {
			return
		}
		for _, id := range f.open.ids {
			if !yield(id) {
				return
			}
		}
	}
}

// newest walks the sessions, those that ended last in front.
func (f *finished) newest() iter.Seq[api.SessionID] {
	return func(yield func(api.SessionID) bool) {
		if f.open != nil {
			for _, id := range slices.Backward(f.open.ids) {
				if !yield(id) {
					return
				}
			}
		}
		for _, c := range slices.Backward(f.chunks) {
			for _, id := range slices.Backward(c.ids) {
				if !yield(id) {
					return
				}
			}
		}
	}
}

// add packs a session. It gives the idempotency keys of those it forgot to keep
// the bound.
func (f *finished) add(edit uint64, s *Session, bound int) (keys []string) {
	keep := s.Session
	keep.Message = keep.Message[:min(len(keep.Message), maxEnd)]
	key := s.Key
	var c coder
	record(&c, &keep, &key)
	f.append(edit, s.ID, string(c.b), s.EndedAt.UnixNano())
	for f.records.Len() > bound {
		keys = append(keys, f.dropFirst(edit)...)
	}
	return keys
}

func (f *finished) append(edit uint64, id api.SessionID, packed string, ended int64) {
	if len(id) < 128 && len(packed) > len(id) && packed[1:1+len(id)] == string(id) {
		id = api.SessionID(packed[1 : 1+len(id)]) // the record begins with it: one copy serves both
	}
	f.records = f.records.SetIn(edit, string(id), packed)
	switch {
	case f.open == nil:
		f.open = &chunk{edit: edit}
	case edit == 0 || f.open.edit != edit:
		f.open = &chunk{edit: edit, last: f.open.last, ids: slices.Clone(f.open.ids)}
	}
	f.open.ids = append(f.open.ids, id)
	f.open.last = max(f.open.last, ended)
	if len(f.open.ids) == chunkSize {
		f.open.ids = slices.Clip(f.open.ids)
		f.chunks = append(slices.Clip(f.chunks), f.open)
		f.open = nil
	}
}

// first is the oldest chunk; nil when there is none.
func (f *finished) first() *chunk {
	if len(f.chunks) > 0 {
		return f.chunks[0]
	}
	return f.open
}

func (f *finished) dropFirst(edit uint64) (keys []string) {
	for _, id := range f.first().ids {
		packed, _ := f.records.Get(string(id))
		if s, key, err := unpack(packed); err == nil && key != "" {
			keys = append(keys, idemKey(s.Account, key))
		}
		f.records = f.records.DeleteIn(edit, string(id))
	}
	if len(f.chunks) > 0 {
		f.chunks = f.chunks[1:]
	} else {
		f.open = nil
	}
	return keys
}

// purge forgets the chunks that ended before a time and gives their
// idempotency keys.
func (f *finished) purge(edit uint64, before time.Time) (keys []string) {
	for c := f.first(); c != nil && c.last < before.UnixNano(); c = f.first() {
		keys = append(keys, f.dropFirst(edit)...)
	}
	return keys
}
