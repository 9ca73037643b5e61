package state

import (
	"iter"
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

const (
	chunkSize   = 256     // finished sessions that are forgotten together
	maxFinished = 200_000 // beyond it the oldest chunk goes before its time
	maxEnd      = 48      // bytes of a finished session's message
)

// finished keeps ended sessions as packed records, findable by id and forgotten
// a chunk at a time, oldest first.
type finished struct {
	records Map[string]
	chunks  []*chunk
}

type chunk struct {
	ids  []api.SessionID
	last int64 // ns
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
		for _, c := range f.chunks {
			for _, id := range c.ids {
				if s, ok := f.get(id); ok && !yield(s) {
					return
				}
			}
		}
	}
}

// add packs a session. It gives the idempotency keys of those it forgot to keep
// the bound.
func (f *finished) add(s *Session) (keys []string) {
	keep := s.Session
	keep.Message = keep.Message[:min(len(keep.Message), maxEnd)]
	key := s.Key
	var c coder
	record(&c, &keep, &key)
	f.append(s.ID, string(c.b), s.EndedAt.UnixNano())
	if f.records.Len() > maxFinished {
		keys = f.dropFirst()
	}
	return keys
}

func (f *finished) append(id api.SessionID, packed string, ended int64) {
	f.records = f.records.Set(string(id), packed)
	var open chunk
	f.chunks = slices.Clone(f.chunks)
	if n := len(f.chunks); n > 0 && len(f.chunks[n-1].ids) < chunkSize {
		open = *f.chunks[n-1]
		f.chunks = f.chunks[:n-1]
	}
	open.ids = append(slices.Clone(open.ids), id)
	open.last = max(open.last, ended)
	f.chunks = append(f.chunks, &open)
}

func (f *finished) dropFirst() (keys []string) {
	for _, id := range f.chunks[0].ids {
		packed, _ := f.records.Get(string(id))
		if s, key, err := unpack(packed); err == nil && key != "" {
			keys = append(keys, idemKey(s.Account, key))
		}
		f.records = f.records.Delete(string(id))
	}
	f.chunks = f.chunks[1:]
	return keys
}

// purge forgets the chunks that ended before a time and gives their
// idempotency keys.
func (f *finished) purge(before time.Time) (keys []string) {
	for len(f.chunks) > 0 && f.chunks[0].last < before.UnixNano() {
		keys = append(keys, f.dropFirst()...)
	}
	return keys
}
