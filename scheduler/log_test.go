package scheduler

import (
	"testing"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// TestLogIsReadAfterItsTailWasCut holds what a leader needs that was deposed in
// a minority: it takes entries back, and reads those before them at its next start.
func TestLogIsReadAfterItsTailWasCut(t *testing.T) {
	dir := dataDir(t)
	open := func() *wal.WAL {
		t.Helper()
		w, err := wal.Open(dir, wal.WithSegmentSize(segmentBytes))
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := open()
	for i := range uint64(10) {
		if err := w.StoreLog(&raft.Log{Index: i + 1, Term: 1, Data: []byte{byte(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.DeleteRange(8, 10); err != nil {
		t.Fatal(err)
	}
	if err := w.StoreLog(&raft.Log{Index: 8, Term: 2, Data: []byte("new")}); err != nil {
		t.Fatal(err)
	}
	// Its Close leaves the file that holds its meta data open and locked: what
	// is on the disk is looked at from a copy.
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	copied := dataDir(t)
	copyDir(t, dir, copied)
	dir = copied
	w = open()
	defer func() { _ = w.Close() }()
	for i := uint64(1); i <= 8; i++ {
		var l raft.Log
		if err := w.GetLog(i, &l); err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
	}
}
