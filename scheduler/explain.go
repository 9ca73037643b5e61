package scheduler

import (
	"bytes"
	"cmp"
	"compress/flate"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// Bounds of the explanations that are kept.
const (
	// explainPerSecond bounds how many are kept of one second, at half a
	// millisecond each with finding the reasons: in a herd the placements matter
	// more than why.
	explainPerSecond = 100
	explainWaiting   = 256 // that wait for the disk; more are not kept
	explainSegment   = 4 << 20
	explainSegments  = 64
	// maxExplanation bounds one, compressed and not.
	maxExplanation = 1 << 20
)

// explanations keeps why sessions run where they do, in files of records that
// are only appended to. The oldest file goes when there are too many, or when no
// session in it is known any more: a day after its end.
type explanations struct {
	most int // segments; 0 = explainSegments
	perS int // records of one second; 0 = explainPerSecond

	mu       sync.Mutex
	opened   bool
	segments []explainFile
	number   int // of the newest segment
	at       map[api.SessionID]explainPlace
	zip      *flate.Writer
	buf      bytes.Buffer

	rate    sync.Mutex
	second  int64
	count   int
	waiting []*api.Explanation // for the disk
	writing bool
	idle    chan struct{} // closed when nothing waits any more; nil while nobody asks
}

// explainFile is one segment.
type explainFile struct {
	number int
	size   int64
	ids    []api.SessionID
}

type explainPlace struct {
	number int
	offset int64
}

// mayKeep counts one explanation of this second and says whether it is within
// the bound.
func (e *explanations) mayKeep(now time.Time) bool {
	e.rate.Lock()
	defer e.rate.Unlock()
	if second := now.Unix(); second != e.second {
		e.second, e.count = second, 0
	}
	e.count++
	return e.count <= cmp.Or(e.perS, explainPerSecond)
}

func segmentPath(dir string, number int) string {
	return filepath.Join(dir, fmt.Sprintf("%08d.explain", number))
}

// open reads which explanations there are. The caller holds mu.
func (e *explanations) open(dir string) error {
	if e.opened {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder of explanations: %w", err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.explain"))
	if err != nil {
		return fmt.Errorf("list explanations: %w", err)
	}
	slices.Sort(names)
	e.at = map[api.SessionID]explainPlace{}
	for _, name := range names {
		var f explainFile
		if _, err := fmt.Sscanf(filepath.Base(name), "%d.explain", &f.number); err != nil || segmentPath(dir, f.number) != name {
			continue // not ours
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read explanations: %w", err)
		}
		for len(b) > int(f.size) {
			id, _, size, err := splitExplained(b[f.size:])
			if err != nil {
				break // a write that a crash cut short: what follows is lost
			}
			e.at[id] = explainPlace{f.number, f.size}
			f.ids = append(f.ids, id)
			f.size += size
		}
		e.segments, e.number = append(e.segments, f), f.number
	}
	e.opened = true
	e.number++ // never append behind what a crash cut short
	e.segments = append(e.segments, explainFile{number: e.number})
	return nil
}

// put keeps one explanation. Known says of a session whether it or its end is
// still remembered.
func (e *explanations) put(dir string, x *api.Explanation, known func(api.SessionID) bool) error {
	doc, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("write explanation: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.open(dir); err != nil {
		return err
	}
	record, err := e.record(x.Session, doc)
	if err != nil {
		return err
	}
	if e.segments[len(e.segments)-1].size+int64(len(record)) > explainSegment {
		e.number++
		e.segments = append(e.segments, explainFile{number: e.number})
		if err := e.prune(dir, known); err != nil {
			return err
		}
	}
	s := &e.segments[len(e.segments)-1]
	f, err := os.OpenFile(segmentPath(dir, s.number), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open explanations: %w", err)
	}
	_, err = f.WriteAt(record, s.size)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write explanation: %w", err)
	}
	e.at[x.Session] = explainPlace{s.number, s.size}
	s.ids = append(s.ids, x.Session)
	s.size += int64(len(record))
	return nil
}

// prune removes the oldest files that are too many or speak of nobody known.
func (e *explanations) prune(dir string, known func(api.SessionID) bool) error {
	for len(e.segments) > 1 {
		old := e.segments[0]
		if len(e.segments) <= cmp.Or(e.most, explainSegments) && slices.ContainsFunc(old.ids, known) {
			return nil
		}
		if err := os.Remove(segmentPath(dir, old.number)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove old explanations: %w", err)
		}
		for _, id := range old.ids {
			if e.at[id].number == old.number {
				delete(e.at, id)
			}
		}
		e.segments = slices.Delete(e.segments, 0, 1)
	}
	return nil
}

// get finds a session's explanation; false when it is not here.
func (e *explanations) get(dir string, id api.SessionID) (api.Explanation, bool, error) {
	var x api.Explanation
	e.mu.Lock()
	err := e.open(dir)
	at, ok := e.at[id]
	e.mu.Unlock()
	if err != nil || !ok {
		return x, false, err
	}
	f, err := os.Open(segmentPath(dir, at.number))
	if errors.Is(err, os.ErrNotExist) {
		return x, false, nil // pruned since
	}
	if err != nil {
		return x, false, fmt.Errorf("open explanations: %w", err)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, at.offset, explainHead+maxExplanation))
	if err = errors.Join(err, f.Close()); err != nil {
		return x, false, fmt.Errorf("read explanation: %w", err)
	}
	found, doc, err := readExplained(b)
	if damaged := err != nil || found != id; damaged {
		return x, false, nil // it counts as lost
	}
	if err := json.Unmarshal(doc, &x); err != nil {
		return x, false, fmt.Errorf("read explanation: %w", err)
	}
	return x, true, nil
}

// A record is: version, length of the id, length of the body and its CRC-32C in
// 4 bytes each, little endian; then the id and the body, JSON under DEFLATE.
const (
	explainVersion = 1
	explainHead    = 10
)

var errExplained = errors.New("not an explanation")

func (e *explanations) record(id api.SessionID, doc []byte) ([]byte, error) {
	e.buf.Reset()
	if e.zip == nil {
		e.zip, _ = flate.NewWriter(&e.buf, flate.BestSpeed) // the level is valid
	} else {
		e.zip.Reset(&e.buf)
	}
	_, err := e.zip.Write(doc)
	if err = errors.Join(err, e.zip.Close()); err != nil {
		return nil, fmt.Errorf("compress explanation: %w", err)
	}
	body := e.buf.Bytes()
	if len(doc) > maxExplanation || len(id) > 255 {
		return nil, fmt.Errorf("write explanation of %d bytes: %w", len(doc), errExplained)
	}
	b := make([]byte, 0, explainHead+len(id)+len(body))
	b = append(b, explainVersion, byte(len(id)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	return append(append(b, id...), body...), nil
}

// splitExplained reads the record at the start of b: whose it is, its body and
// how long it is.
func splitExplained(b []byte) (id api.SessionID, body []byte, size int64, err error) {
	if len(b) < explainHead || b[0] != explainVersion {
		return "", nil, 0, errExplained
	}
	n, length := int(b[1]), int(binary.LittleEndian.Uint32(b[2:]))
	if length > maxExplanation || len(b) < explainHead+n+length {
		return "", nil, 0, errExplained
	}
	body = b[explainHead+n : explainHead+n+length]
	if crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(b[6:]) {
		return "", nil, 0, errExplained
	}
	return api.SessionID(b[explainHead : explainHead+n]), body, int64(explainHead + n + length), nil
}

// readExplained reads the record at the start of b.
func readExplained(b []byte) (id api.SessionID, doc []byte, err error) {
	id, body, _, err := splitExplained(b)
	if err != nil {
		return "", nil, err
	}
	doc, err = io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(body)), maxExplanation+1))
	if err != nil || len(doc) > maxExplanation {
		return "", nil, errExplained
	}
	return id, doc, nil
}

func (s *Server) explainDir() string { return filepath.Join(s.cfg.Data, "explain") }

// keepExplanation keeps why a session that was committed runs where it does,
// without making anybody wait for the disk.
func (s *Server) keepExplanation(id api.SessionID, x *api.Explanation) {
	if x == nil {
		return
	}
	x.Session = id
	e := &s.view.kept
	e.rate.Lock()
	defer e.rate.Unlock()
	if len(e.waiting) >= explainWaiting {
		return
	}
	e.waiting = append(e.waiting, x)
	if !e.writing {
		e.writing = true
		go s.writeExplanations() // ends when nothing waits; Run waits for that
	}
}

// writeExplanations writes what waits.
func (s *Server) writeExplanations() {
	e := &s.view.kept
	for x := e.next(); x != nil; x = e.next() {
		root := s.root()
		if err := e.put(s.explainDir(), x, func(id api.SessionID) bool { _, ok := root.Session(id); return ok }); err != nil {
			s.cfg.Log.Warn("explanation was not kept", "session", x.Session, "error", err)
		}
	}
}

// next gives what was asked to be kept first; nil, and the writer must end, when
// nothing waits.
func (e *explanations) next() *api.Explanation {
	e.rate.Lock()
	defer e.rate.Unlock()
	if len(e.waiting) > 0 {
		x := e.waiting[0]
		e.waiting = e.waiting[1:]
		return x
	}
	e.waiting, e.writing = nil, false
	if e.idle != nil {
		close(e.idle)
		e.idle = nil
	}
	return nil
}

// settle waits until what was asked to be kept before is on the disk.
func (e *explanations) settle(ctx context.Context) error {
	e.rate.Lock()
	if !e.writing {
		e.rate.Unlock()
		return nil
	}
	if e.idle == nil {
		e.idle = make(chan struct{})
	}
	idle := e.idle
	e.rate.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the explanations: %w", ctx.Err())
	}
}
