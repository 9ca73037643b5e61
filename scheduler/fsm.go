package scheduler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/perigee-cloud/perigee/scheduler/state"
)

// fsm applies committed entries. Readers take its root at any time.
type fsm struct {
	root   atomic.Pointer[state.State]
	index  atomic.Uint64 // of the last entry or snapshot that the root shows
	broken chan error    // has room for the one entry that could not be read
	halted error         // the same, for Apply

	mu    sync.Mutex
	moved chan struct{} // closed when the index moves; nil while nobody waits
}

func newFSM() *fsm {
	f := &fsm{broken: make(chan error, 1)}
	f.root.Store(state.New())
	return f
}

// applied is what the leader gets back for one entry.
type applied struct {
	results []state.Result
	err     error
}

// Apply takes in one committed entry. After one that it cannot read the state
// stands still: applying later ones would make it differ from the others'.
func (f *fsm) Apply(l *raft.Log) any {
	if f.halted != nil {
		return applied{err: f.halted}
	}
	next, results, err := f.root.Load().Apply(l.Data)
	if err != nil {
		f.halted = fmt.Errorf("apply entry %d: %w", l.Index, err)
		f.broken <- f.halted
		return applied{err: f.halted}
	}
	f.set(next, l.Index)
	return applied{results: results}
}

func (f *fsm) set(root *state.State, index uint64) {
	f.root.Store(root)
	f.index.Store(index)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.moved != nil {
		close(f.moved)
		f.moved = nil
	}
}

// await waits until the root shows an entry.
func (f *fsm) await(ctx context.Context, index uint64) error {
	for {
		f.mu.Lock()
		if f.index.Load() >= index {
			f.mu.Unlock()
			return nil
		}
		if f.moved == nil {
			f.moved = make(chan struct{})
		}
		moved := f.moved
		f.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for entry %d: %w", index, ctx.Err())
		}
	}
}

// Snapshot takes the present root: O(1).
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) { return snapshot{f.root.Load()}, nil }

// Restore replaces the state by a snapshot's.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer func() { _ = r.Close() }() // it was only read
	s, err := state.Read(r)
	if err != nil {
		return err
	}
	f.set(s, indexOf(r))
	return nil
}

type snapshot struct{ root *state.State }

// Persist writes the root it holds while later entries are applied.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := s.root.WriteTo(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release does nothing: the garbage collector has the root.
func (snapshot) Release() {}

// indexedStore hands the index of a snapshot on with its bytes: Raft restores
// without telling it.
type indexedStore struct{ raft.SnapshotStore }

type indexedReader struct {
	io.ReadCloser
	index uint64
}

// Open opens a snapshot.
func (s indexedStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, r, err := s.SnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, indexedReader{r, meta.Index}, nil
}

func indexOf(r io.ReadCloser) uint64 {
	for {
		switch v := r.(type) {
		case indexedReader:
			return v.index
		case raft.ReadCloserWrapper:
			r = v.WrappedReadCloser()
		default:
			return 0
		}
	}
}
