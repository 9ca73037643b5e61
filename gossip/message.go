package gossip

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

const (
	messageVersion = 1
	maxHeadroom    = 4096 // encoded: far above what 16 pools take
	maxEntries     = 16384
	// staleAfter is when an entry is no news any more and is passed on to nobody.
	staleAfter = time.Minute
)

// entry is the latest headroom of one node. Era orders the node's starts: the
// wall clock of the node at its start, in ms, compared with no other machine's.
type entry struct {
	id       api.NodeID
	era      uint64
	headroom api.Headroom
}

// newer says whether e replaces old: a later start, or the same with a higher
// sequence.
func (e entry) newer(old entry) bool {
	return e.era > old.era || e.era == old.era && e.headroom.Boot == old.headroom.Boot && e.headroom.Seq > old.headroom.Seq
}

// A broadcast is: version, entry. A state is: version, count, and for each
// entry its age in ms and the entry. An entry is: length and id, era, length
// and headroom.

func appendEntry(b []byte, e entry) []byte {
	b = append(append(b, byte(len(e.id))), e.id...)
	b = binary.AppendUvarint(b, e.era)
	h := e.headroom.AppendBinary(nil)
	return append(binary.AppendUvarint(b, uint64(len(h))), h...)
}

func encodeBroadcast(e entry) []byte { return appendEntry([]byte{messageVersion}, e) }

func decodeBroadcast(b []byte) (entry, error) {
	if len(b) == 0 || b[0] != messageVersion {
		return entry{}, fmt.Errorf("read headroom broadcast: %w", ErrMessage)
	}
	e, rest, err := cutEntry(b[1:])
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("read headroom broadcast: %d bytes too many: %w", len(rest), ErrMessage)
	}
	return e, err
}

// aged is an entry as a member knows it: heard so long ago.
type aged struct {
	entry
	age time.Duration
}

func encodeState(list []aged) []byte {
	b := binary.AppendUvarint([]byte{messageVersion}, uint64(len(list)))
	for _, a := range list {
		b = binary.AppendUvarint(b, uint64(max(a.age, 0)/time.Millisecond))
		b = appendEntry(b, a.entry)
	}
	return b
}

// decodeState reads what another member knows. It gives all or nothing.
func decodeState(b []byte) ([]aged, error) {
	if len(b) == 0 || b[0] != messageVersion {
		return nil, fmt.Errorf("read gossip state: %w", ErrMessage)
	}
	count, b, err := cutUvarint(b[1:])
	if err != nil || count > maxEntries {
		return nil, fmt.Errorf("read gossip state of %d entries: %w", count, ErrMessage)
	}
	var list []aged
	for range count {
		var a aged
		var age uint64
		if age, b, err = cutUvarint(b); err != nil {
			return nil, err
		}
		if a.entry, b, err = cutEntry(b); err != nil {
			return nil, err
		}
		a.age = time.Duration(min(age, uint64(staleAfter/time.Millisecond))) * time.Millisecond
		list = append(list, a)
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("read gossip state: %d bytes too many: %w", len(b), ErrMessage)
	}
	return list, nil
}

func cutEntry(b []byte) (e entry, rest []byte, err error) {
	if len(b) == 0 || len(b)-1 < int(b[0]) {
		return e, nil, fmt.Errorf("read gossip entry: %w", ErrMessage)
	}
	n := int(b[0])
	e.id = api.NodeID(b[1 : 1+n])
	if !api.ValidID(string(e.id)) {
		return e, nil, fmt.Errorf("read gossip entry's id: %w", ErrMessage)
	}
	if e.era, b, err = cutUvarint(b[1+n:]); err != nil {
		return e, nil, err
	}
	size, b, err := cutUvarint(b)
	if err != nil || size > maxHeadroom || size > uint64(len(b)) {
		return e, nil, fmt.Errorf("read gossip entry's headroom: %w", ErrMessage)
	}
	if e.headroom, err = api.ParseHeadroom(b[:size]); err != nil {
		return e, nil, fmt.Errorf("read gossip entry: %w", err)
	}
	return e, b[size:], nil
}

func cutUvarint(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, fmt.Errorf("read gossip number: %w", ErrMessage)
	}
	return v, b[n:], nil
}
