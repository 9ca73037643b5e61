package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	boltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/perigee-cloud/perigee/scheduler"
)

// Store is a log store to compare.
type Store string

// The stores.
const (
	WAL  Store = "raft-wal"    // as the scheduler opens it
	Bolt Store = "raft-boltdb" // with its defaults
)

const (
	rawEntry     = 300 // bytes: a create's command
	rawTimeout   = 5 * time.Second
	rawTransport = 3 // connections to each member, as the scheduler has
)

// Raw is bare Raft: three members on loopback with the scheduler's settings,
// whose state machine does nothing and whose log has no witness.
type Raw struct {
	members []*raft.Raft
	close   []func() error // in reverse order
}

// StartRaw founds the three. The caller closes them.
func StartRaw(ctx context.Context, dir string, store Store) (_ *Raw, err error) {
	w := &Raw{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	var servers []raft.Server
	for i := range Replicas {
		id := strconv.Itoa(i)
		m, t, err := w.member(filepath.Join(dir, id), id, store)
		if err != nil {
			return nil, err
		}
		w.members = append(w.members, m)
		servers = append(servers, raft.Server{ID: raft.ServerID(id), Address: t})
	}
	for _, m := range w.members {
		if err := m.BootstrapCluster(raft.Configuration{Servers: servers}).Error(); err != nil {
			return nil, fmt.Errorf("found bare raft: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for w.leader() == nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("wait for bare raft's leader: %w", ctx.Err())
		}
		time.Sleep(5 * time.Millisecond)
	}
	return w, nil
}

func (w *Raw) member(dir, id string, store Store) (*raft.Raft, raft.ServerAddress, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", fmt.Errorf("make directory of bare raft: %w", err)
	}
	logger := hclog.NewNullLogger()
	logs, stable, closer, err := openStore(dir, store, logger)
	if err != nil {
		return nil, "", err
	}
	w.close = append(w.close, closer)
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, 1, logger)
	if err != nil {
		return nil, "", fmt.Errorf("open snapshots of bare raft: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", fmt.Errorf("listen for bare raft: %w", err)
	}
	t := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: stream{l}, MaxPool: rawTransport, MaxRPCsInFlight: 1, Timeout: rawTimeout, Logger: logger})
	w.close = append(w.close, t.Close)
	r, err := raft.NewRaft(scheduler.RaftConfig(scheduler.ProfileSite, id, logger), idle{}, logs, stable, snaps, t)
	if err != nil {
		return nil, "", fmt.Errorf("start bare raft: %w", err)
	}
	w.close = append(w.close, func() error { return r.Shutdown().Error() })
	return r, t.LocalAddr(), nil
}

func openStore(dir string, store Store, logger hclog.Logger) (raft.LogStore, raft.StableStore, func() error, error) {
	if store == WAL {
		l, err := scheduler.OpenLog(dir, logger)
		if err != nil {
			return nil, nil, nil, err
		}
		return l, l, l.Close, nil
	}
	b, err := boltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("open boltdb: %w", err)
	}
	return b, b, b.Close, nil
}

func (w *Raw) leader() *raft.Raft {
	for _, m := range w.members {
		if m.State() == raft.Leader && m.VerifyLeader().Error() == nil {
			return m
		}
	}
	return nil
}

// Apply has callers apply entries of a create's size for a time.
func (w *Raw) Apply(ctx context.Context, callers int, d time.Duration) (Rate, error) {
	r := w.leader()
	if r == nil {
		return Rate{}, errors.New("bare raft has no leader")
	}
	return Callers(ctx, callers, d, func(int) func(context.Context) error {
		entry := make([]byte, rawEntry)
		return func(context.Context) error { return r.Apply(entry, rawTimeout).Error() }
	})
}

// Close ends the members.
func (w *Raw) Close() error {
	var errs []error
	for i := len(w.close) - 1; i >= 0; i-- {
		errs = append(errs, w.close[i]())
	}
	w.close = nil
	return errors.Join(errs...)
}

// idle is a state machine without a state.
type idle struct{}

// Apply does nothing.
func (idle) Apply(*raft.Log) any { return nil }

// Snapshot has nothing.
func (idle) Snapshot() (raft.FSMSnapshot, error) { return idle{}, nil }

// Restore restores nothing.
func (idle) Restore(r io.ReadCloser) error { return r.Close() }

// Persist writes nothing.
func (idle) Persist(s raft.SnapshotSink) error { return s.Close() }

// Release does nothing.
func (idle) Release() {}

// stream is plain TCP.
type stream struct{ net.Listener }

// Dial connects to another member.
func (stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(address), timeout)
}
