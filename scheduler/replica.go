package scheduler

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"

	"github.com/perigee-cloud/perigee/scheduler/state"
)

// Raft's timers: a single replica elects itself after one election time-out.
const (
	raftHeartbeat = 100 * time.Millisecond
	raftLease     = 80 * time.Millisecond
	raftCommit    = 5 * time.Millisecond
	keptSnapshots = 2
	segmentBytes  = 16 << 20
	cachedEntries = 512
	trailingLogs  = 4096
	snapshotAfter = 16384
)

// replica is one member of the Raft group with its state machine.
type replica struct {
	fsm   *fsm
	raft  *raft.Raft
	id    raft.ServerID
	close []func() error // in reverse order
}

// fsm applies committed entries. Readers take its root at any time.
type fsm struct {
	root   atomic.Pointer[state.State]
	broken chan error // the first entry that could not be read
}

// applied is what the leader gets back for one entry.
type applied struct {
	results []state.Result
	err     error
}

// Apply takes in one committed entry. After one that it cannot read the state
// stands still: applying later ones would make it differ from the others'.
func (f *fsm) Apply(l *raft.Log) any {
	next, results, err := f.root.Load().Apply(l.Data)
	if err != nil {
		err = fmt.Errorf("apply entry %d: %w", l.Index, err)
		select {
		case f.broken <- err:
		default:
		}
		return applied{err: err}
	}
	f.root.Store(next)
	return applied{results: results}
}

// Snapshot takes the present root: O(1).
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) { return snapshot{f.root.Load()}, nil }

// Restore replaces the state by a snapshot's.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	s, err := state.Read(r)
	if err != nil {
		return err
	}
	f.root.Store(s)
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

// openReplica opens the log and starts Raft. The caller closes it.
func openReplica(c Config) (_ *replica, err error) {
	dir := filepath.Join(c.Data, "raft")
	logs := filepath.Join(dir, "log")
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return nil, fmt.Errorf("make raft directory: %w", err)
	}
	r := &replica{fsm: &fsm{broken: make(chan error, 1)}}
	r.fsm.root.Store(state.New())
	defer func() {
		if err != nil {
			err = errors.Join(err, r.shut())
		}
	}()
	if err := r.lock(filepath.Join(dir, "lock")); err != nil {
		return nil, err
	}
	if r.id, err = replicaID(filepath.Join(dir, "replica")); err != nil {
		return nil, err
	}
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: lineWriter{c.Log}, DisableTime: true})
	meta := &metadb.BoltMetaDB{} // ours, as the log does not close its own
	r.close = append(r.close, meta.Close)
	w, err := wal.Open(logs, wal.WithSegmentSize(segmentBytes), wal.WithLogger(logger), wal.WithMetaStore(meta))
	if err != nil {
		return nil, fmt.Errorf("open raft log: %w", err)
	}
	r.close = append(r.close, w.Close)
	cache, err := raft.NewLogCache(cachedEntries, w)
	if err != nil {
		return nil, fmt.Errorf("make log cache: %w", err)
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, keptSnapshots, logger)
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	transport, address, err := newTransport(c.RaftListen, r.id, logger)
	if err != nil {
		return nil, err
	}
	r.close = append(r.close, transport.Close)
	rc := raft.DefaultConfig()
	rc.LocalID, rc.Logger, rc.NoLegacyTelemetry = r.id, logger, true
	rc.HeartbeatTimeout, rc.ElectionTimeout = raftHeartbeat, raftHeartbeat
	rc.LeaderLeaseTimeout, rc.CommitTimeout = raftLease, raftCommit
	rc.TrailingLogs, rc.SnapshotThreshold = trailingLogs, snapshotAfter
	rc.SnapshotInterval = 30 * time.Second
	known, err := raft.HasExistingState(cache, w, snaps)
	if err != nil {
		return nil, fmt.Errorf("look for an existing cluster: %w", err)
	}
	if !known {
		first := raft.Configuration{Servers: []raft.Server{{ID: r.id, Address: address}}}
		if err := raft.BootstrapCluster(rc, cache, w, snaps, transport, first); err != nil {
			return nil, fmt.Errorf("found the cluster: %w", err)
		}
	}
	if r.raft, err = raft.NewRaft(rc, r.fsm, cache, w, snaps, transport); err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	r.close = append(r.close, func() error { return r.raft.Shutdown().Error() })
	return r, nil
}

type closingTransport interface {
	raft.Transport
	raft.WithClose
}

func newTransport(listen string, id raft.ServerID, l hclog.Logger) (closingTransport, raft.ServerAddress, error) {
	if listen == "" {
		address, t := raft.NewInmemTransport(raft.ServerAddress(id))
		return t, address, nil
	}
	bind, err := net.ResolveTCPAddr("tcp", listen)
	if err != nil {
		return nil, "", fmt.Errorf("read raft address %q: %w", listen, err)
	}
	var advertise net.Addr
	if bind.IP == nil || bind.IP.IsUnspecified() {
		advertise = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: bind.Port} // the only replica: nobody else dials it
	}
	t, err := raft.NewTCPTransportWithLogger(listen, advertise, 3, 5*time.Second, l)
	if err != nil {
		return nil, "", fmt.Errorf("listen for raft on %s: %w", listen, err)
	}
	return t, t.LocalAddr(), nil
}

// lock keeps a second scheduler off the same directory: the log's own lock
// would let it wait for ever.
func (r *replica) lock(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		return fmt.Errorf("another scheduler runs on this data directory (%s): %w", filepath.Dir(path), err)
	}
	r.close = append(r.close, f.Close)
	return nil
}

// shut ends everything that openReplica began, last first.
func (r *replica) shut() error {
	var errs []error
	for i := len(r.close) - 1; i >= 0; i-- {
		errs = append(errs, r.close[i]())
	}
	r.close = nil
	return errors.Join(errs...)
}

// replicaID reads this replica's name, drawn once and kept.
func replicaID(path string) (raft.ServerID, error) {
	b, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return raft.ServerID(strings.TrimSpace(string(b))), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read replica id: %w", err)
	}
	var random [6]byte
	_, _ = rand.Read(random[:]) // never fails
	id := "r-" + hex.EncodeToString(random[:])
	if err := os.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep replica id: %w", err)
	}
	return raft.ServerID(id), nil
}

// lineWriter hands Raft's own lines to the log.
type lineWriter struct{ log *slog.Logger }

// Write logs one line.
func (w lineWriter) Write(b []byte) (int, error) {
	w.log.Warn("raft says", "line", strings.TrimSpace(string(b)))
	return len(b), nil
}
