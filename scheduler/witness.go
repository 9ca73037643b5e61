package scheduler

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"
	"syscall"

	"github.com/hashicorp/raft"
)

// The witness file: a head, then a ring of slots, one an entry.
const (
	witnessFile  = "witness"
	witnessSlots = 1 << 16 // the newest entries that are witnessed
	slotBytes    = 16      // index, checksum of the entry, checksum of the slot
	headBytes    = 64
	headMagic    = 0x5047_5701
)

// Keys of Raft's stable store (raft.go).
const (
	keyTerm     = "CurrentTerm"
	keyVoteTerm = "LastVoteTerm"
	keyVoteFor  = "LastVoteCand"
)

// damage says that this replica's log is not what it had promised to keep.
type damage struct{ what error }

// Error says what is damaged.
func (d *damage) Error() string { return "the replica's log is damaged: " + d.what.Error() }

// Unwrap gives the cause.
func (d *damage) Unwrap() error { return d.what }

func damaged(format string, args ...any) error { return &damage{fmt.Errorf(format, args...)} }

// witness stands beside the log and remembers, in a file of its own, what the
// log has promised: a checksum of each entry, the term and the vote. The log
// itself reads its end as far as it is whole, so that it cannot tell entries
// that were never confirmed from confirmed ones that are gone, and it checks
// no entry but the last ones.
//
// What is witnessed is always on the disk in the log before, so that a crash
// never makes it the log that lacks something. Entries are written here before
// anybody hears of them and synced while the log goes on: the next batch waits
// for that sync before it is confirmed. So a power cut, unlike the end of the
// process, may leave the last batch without a witness, and no more.
type witness struct {
	log    raft.LogStore
	stable raft.StableStore
	f      *os.File
	table  *crc32.Table
	flush  func() error // brings what was written to the disk

	mu      sync.Mutex // guards the file and the fields below
	head    witnessHead
	syncing chan error // gives the outcome of the sync beside the log; nil without one
	failed  error      // what ended a sync: what it left unwritten, a later one would not tell
}

// witnessHead is what the stable store has promised.
type witnessHead struct {
	term, voteTerm uint64
	candTerm       uint64 // the term that the candidate below belongs to
	candidate      uint32 // its checksum
}

var _ raft.MonotonicLogStore = (*witness)(nil)

// openWitness checks log and stable store against what was witnessed and goes
// on from there. snapshot is the index of the newest snapshot. An error that is
// a *damage says that they are less than that.
func openWitness(path string, log raft.LogStore, stable raft.StableStore, snapshot uint64) (*witness, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open witness: %w", err)
	}
	w := &witness{log: log, stable: stable, f: f, table: crc32.MakeTable(crc32.Castagnoli)}
	w.flush = func() error { return syscall.Fdatasync(int(f.Fd())) }
	if err := w.check(snapshot); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return w, nil
}

// Close waits until all is on the disk and closes the witness's file.
func (w *witness) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.settle(), w.f.Close())
}

// sum is an entry's checksum.
func (w *witness) sum(l *raft.Log) uint32 {
	var head [17]byte
	binary.LittleEndian.PutUint64(head[:], l.Index)
	binary.LittleEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	c := crc32.Update(0, w.table, head[:])
	c = crc32.Update(c, w.table, l.Data)
	return crc32.Update(c, w.table, l.Extensions)
}

// slot is what is witnessed of an entry.
func (w *witness) slot(b []byte, index uint64, sum uint32) []byte {
	b = binary.LittleEndian.AppendUint64(b, index)
	b = binary.LittleEndian.AppendUint32(b, sum)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[len(b)-12:], w.table))
}

// read gives the file; a new one is laid out at once, so that later syncs have
// no metadata to write.
func (w *witness) read() ([]byte, error) {
	b := make([]byte, headBytes+witnessSlots*slotBytes)
	st, err := w.f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read witness: %w", err)
	}
	if st.Size() < int64(len(b)) {
		if _, err := w.f.WriteAt(b[st.Size():], st.Size()); err != nil {
			return nil, fmt.Errorf("make witness: %w", err)
		}
		if err := w.f.Sync(); err != nil {
			return nil, fmt.Errorf("make witness: %w", err)
		}
	}
	if _, err := w.f.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("read witness: %w", err)
	}
	return b, nil
}

// parse gives the head and the slots that are whole, by entry, and the newest entry.
func (w *witness) parse(b []byte) (head witnessHead, slots map[uint64]uint32, top uint64) {
	if h := b[:headBytes]; binary.LittleEndian.Uint32(h) == headMagic && crc32.Checksum(h[:headBytes-4], w.table) == binary.LittleEndian.Uint32(h[headBytes-4:]) {
		head = witnessHead{
			term: binary.LittleEndian.Uint64(h[8:]), voteTerm: binary.LittleEndian.Uint64(h[16:]),
			candTerm: binary.LittleEndian.Uint64(h[24:]), candidate: binary.LittleEndian.Uint32(h[32:]),
		}
	}
	slots = map[uint64]uint32{}
	for s := b[headBytes:]; len(s) > 0; s = s[slotBytes:] {
		index := binary.LittleEndian.Uint64(s)
		if index != 0 && crc32.Checksum(s[:12], w.table) == binary.LittleEndian.Uint32(s[12:]) {
			slots[index] = binary.LittleEndian.Uint32(s[8:])
			top = max(top, index)
		}
	}
	return head, slots, top
}

// check compares the log with the witness. What the log has beyond it was
// written and not confirmed: it is witnessed now.
func (w *witness) check(snapshot uint64) error {
	b, err := w.read()
	if err != nil {
		return err
	}
	var slots map[uint64]uint32
	var top uint64
	w.head, slots, top = w.parse(b)
	if err := w.checkVote(); err != nil {
		return err
	}
	first, err := w.log.FirstIndex()
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	last, err := w.log.LastIndex()
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	switch {
	case top > max(last, snapshot):
		return damaged("it ends at entry %d, and %d was confirmed", max(last, snapshot), top)
	case last > 0 && first > snapshot+1:
		return damaged("it begins at entry %d, and the newest snapshot ends at %d", first, snapshot)
	}
	var missing []*raft.Log
	for i := max(first, 1); i <= last; i++ {
		l := new(raft.Log)
		if err := w.log.GetLog(i, l); err != nil {
			return damaged("entry %d cannot be read: %w", i, err)
		}
		sum, known := slots[i]
		if known && sum != w.sum(l) || l.Index != i {
			return damaged("entry %d was changed", i)
		}
		if !known && i+witnessSlots > last {
			missing = append(missing, l)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := w.note(missing); err != nil {
		return err
	}
	return w.sync()
}

// checkVote compares the term and the vote.
func (w *witness) checkVote() error {
	var now [2]uint64
	for i, key := range []string{keyTerm, keyVoteTerm} {
		v, err := w.stable.GetUint64([]byte(key))
		if err != nil && err.Error() != "not found" { // as raft itself tells it
			return fmt.Errorf("read %s: %w", key, err)
		}
		now[i] = v
	}
	if now[0] < w.head.term || now[1] < w.head.voteTerm {
		return damaged("it is of term %d and voted in %d, and %d and %d were confirmed", now[0], now[1], w.head.term, w.head.voteTerm)
	}
	if now[1] == 0 || now[1] != w.head.candTerm {
		return nil
	}
	c, err := w.stable.Get([]byte(keyVoteFor))
	if err != nil || crc32.Checksum(c, w.table) != w.head.candidate {
		return damaged("its vote of term %d was changed", now[1])
	}
	return nil
}

// note witnesses entries that are on the disk; it does not sync. w.mu is held.
func (w *witness) note(logs []*raft.Log) error {
	for from := 0; from < len(logs); {
		var b []byte
		begin := logs[from].Index % witnessSlots
		to := from // a run of entries, up to the ring's turn
		for ; to < len(logs) && logs[to].Index%witnessSlots == begin+uint64(to-from); to++ {
			b = w.slot(b, logs[to].Index, w.sum(logs[to]))
		}
		if _, err := w.f.WriteAt(b, headBytes+int64(begin)*slotBytes); err != nil {
			return fmt.Errorf("write witness: %w", err)
		}
		from = to
	}
	return nil
}

// forget clears what is witnessed of the entries from one on.
func (w *witness) forget(least uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := w.read()
	if err != nil {
		return err
	}
	for s := b[headBytes:]; len(s) > 0; s = s[slotBytes:] {
		if binary.LittleEndian.Uint64(s) >= least {
			clear(s[:slotBytes])
		}
	}
	if _, err := w.f.WriteAt(b[headBytes:], headBytes); err != nil {
		return fmt.Errorf("write witness: %w", err)
	}
	return w.sync()
}

// sync brings what was written to the disk. w.mu is held.
func (w *witness) sync() error {
	if err := w.syncSoon(); err != nil {
		return err
	}
	return w.settle()
}

// syncSoon begins a sync, once the one before has ended. w.mu is held.
func (w *witness) syncSoon() error {
	if err := w.settle(); err != nil {
		return err
	}
	done := make(chan error, 1)
	w.syncing = done
	go func() { done <- w.flush() }()
	return nil
}

// settle waits for the sync that was begun. w.mu is held.
func (w *witness) settle() error {
	if w.syncing == nil {
		return w.failed
	}
	if err := <-w.syncing; err != nil {
		w.failed = fmt.Errorf("sync witness: %w", err)
	}
	w.syncing = nil
	return w.failed
}

// StoreLogs keeps entries; they are confirmed when it returns, and by then the
// witness of those before is on the disk.
func (w *witness) StoreLogs(logs []*raft.Log) error {
	if err := w.log.StoreLogs(logs); err != nil {
		return err //nolint:wrapcheck // raft compares it
	}
	if len(logs) == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.note(logs); err != nil {
		return err
	}
	return w.syncSoon()
}

// StoreLog keeps one entry.
func (w *witness) StoreLog(l *raft.Log) error { return w.StoreLogs([]*raft.Log{l}) }

// DeleteRange deletes entries; a crash in between leaves ones that nobody misses.
func (w *witness) DeleteRange(least, most uint64) error {
	last, err := w.log.LastIndex()
	if err != nil {
		return err //nolint:wrapcheck // raft compares it
	}
	if most >= last && least <= most { // else what is left is what counts
		if err := w.forget(least); err != nil {
			return err
		}
	}
	return w.log.DeleteRange(least, most) //nolint:wrapcheck // raft compares it
}

// FirstIndex is the log's.
func (w *witness) FirstIndex() (uint64, error) { return w.log.FirstIndex() } //nolint:wrapcheck // as it is

// LastIndex is the log's.
func (w *witness) LastIndex() (uint64, error) { return w.log.LastIndex() } //nolint:wrapcheck // as it is

// GetLog is the log's.
func (w *witness) GetLog(index uint64, l *raft.Log) error { return w.log.GetLog(index, l) } //nolint:wrapcheck // raft compares it

// IsMonotonic says what the log says: raft clears one that has no gaps before
// it takes a snapshot in.
func (w *witness) IsMonotonic() bool {
	m, ok := w.log.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// Get is the stable store's.
func (w *witness) Get(key []byte) ([]byte, error) { return w.stable.Get(key) } //nolint:wrapcheck // raft compares it

// GetUint64 is the stable store's.
func (w *witness) GetUint64(key []byte) (uint64, error) { return w.stable.GetUint64(key) } //nolint:wrapcheck // raft compares it

// Set keeps a value.
func (w *witness) Set(key, value []byte) error {
	if err := w.stable.Set(key, value); err != nil {
		return err //nolint:wrapcheck // raft compares it
	}
	if string(key) != keyVoteFor {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.head.candTerm, w.head.candidate = w.head.voteTerm, crc32.Checksum(value, w.table)
	return w.writeHead()
}

// SetUint64 keeps a number.
func (w *witness) SetUint64(key []byte, value uint64) error {
	if err := w.stable.SetUint64(key, value); err != nil {
		return err //nolint:wrapcheck // raft compares it
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch string(key) {
	case keyTerm:
		w.head.term = value
	case keyVoteTerm:
		w.head.voteTerm = value
	default:
		return nil
	}
	return w.writeHead()
}

// writeHead keeps the head. w.mu is held.
func (w *witness) writeHead() error {
	b := make([]byte, headBytes)
	binary.LittleEndian.PutUint32(b, headMagic)
	binary.LittleEndian.PutUint64(b[8:], w.head.term)
	binary.LittleEndian.PutUint64(b[16:], w.head.voteTerm)
	binary.LittleEndian.PutUint64(b[24:], w.head.candTerm)
	binary.LittleEndian.PutUint32(b[32:], w.head.candidate)
	binary.LittleEndian.PutUint32(b[headBytes-4:], crc32.Checksum(b[:headBytes-4], w.table))
	if _, err := w.f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("write witness: %w", err)
	}
	return w.sync()
}
