package scheduler

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
)

// Log is a replica's Raft log on the disk: entries and Raft's own few words.
type Log struct {
	*raft.LogCache   // the entries, the latest also in memory
	raft.StableStore // term and vote
	witness          *witness
	close            []func() error
}

// OpenLog opens the log in a directory that exists, without its witness. The
// caller closes it.
func OpenLog(dir string, logger hclog.Logger) (_ *Log, err error) {
	l := &Log{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	w, err := l.open(dir, logger)
	if err != nil {
		return nil, err
	}
	return l, l.cache(w, w)
}

// openWitnessed opens the log and compares it with its witness; snapshot is the
// index of the newest one. An error that is a *damage says that the log lacks
// what it confirmed.
func openWitnessed(dir, path string, snapshot uint64, logger hclog.Logger) (_ *Log, err error) {
	l := &Log{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	err = surely(func() error {
		w, err := l.open(dir, logger)
		if err != nil {
			return ofLog(err)
		}
		if l.witness, err = openWitness(path, w, w, snapshot); err != nil {
			return err
		}
		l.close = append(l.close, l.witness.Close)
		return l.cache(l.witness, l.witness)
	})
	return l, err
}

func (l *Log) open(dir string, logger hclog.Logger) (*wal.WAL, error) {
	meta := &metadb.BoltMetaDB{} // ours, as the log does not close its own
	l.close = append(l.close, meta.Close)
	w, err := wal.Open(dir, wal.WithSegmentSize(segmentBytes), wal.WithLogger(logger), wal.WithMetaStore(meta))
	if err != nil {
		return nil, fmt.Errorf("open raft log: %w", err)
	}
	l.close = append(l.close, w.Close)
	return w, nil
}

func (l *Log) cache(entries raft.LogStore, words raft.StableStore) error {
	cache, err := raft.NewLogCache(cachedEntries, entries)
	if err != nil {
		return fmt.Errorf("make log cache: %w", err)
	}
	l.LogCache, l.StableStore = cache, words
	return nil
}

// Close ends the log.
func (l *Log) Close() error {
	var errs []error
	for i := len(l.close) - 1; i >= 0; i-- {
		errs = append(errs, l.close[i]())
	}
	l.close = nil
	return errors.Join(errs...)
}

// RaftConfig gives Raft's settings in a profile, for a replica with others.
func RaftConfig(profile string, id string, logger hclog.Logger) *raft.Config {
	return raftConfig(timersOf(profile), raft.ServerID(id), logger)
}

// raftConfig has the timers of the profile.
func raftConfig(t timers, id raft.ServerID, l hclog.Logger) *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID, rc.Logger, rc.NoLegacyTelemetry = id, l, true
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout, rc.CommitTimeout = t.election, t.election, t.lease, t.commit
	rc.TrailingLogs, rc.SnapshotThreshold = trailingLogs, snapshotAfter
	rc.SnapshotInterval = 30 * time.Second
	rc.ShutdownOnRemove = false // Run says why it ends
	return rc
}

// timers of Raft: a leader that is silent for an election's time is replaced;
// one that reaches no majority for a lease steps down.
type timers struct{ election, lease, commit time.Duration }

// timersAlone let the only replica elect itself after one time-out.
func timersAlone() timers {
	return timers{100 * time.Millisecond, 80 * time.Millisecond, 5 * time.Millisecond}
}

func timersOf(profile string) timers {
	if profile == ProfileWAN {
		return timers{5 * time.Second, 2500 * time.Millisecond, 100 * time.Millisecond}
	}
	return timers{200 * time.Millisecond, 150 * time.Millisecond, 5 * time.Millisecond}
}
