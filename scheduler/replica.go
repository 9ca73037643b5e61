package scheduler

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

const (
	keptSnapshots = 2
	segmentBytes  = 16 << 20
	cachedEntries = 512
	trailingLogs  = 4096
	snapshotAfter = 16384
	logDir        = "log"
	removedFile   = "removed" // marks the directory of a replica that was removed
)

// Profiles of Raft's timers.
const (
	ProfileSite = "site" // replicas of one site
	ProfileWAN  = "wan"  // replicas of several regions
)

// errRemoved ends a replica that the cluster has let go.
var errRemoved = errors.New("this replica was removed from its cluster: to join again, start it on an empty data directory with --join")

// replica is one member of the Raft group with its state machine.
type replica struct {
	fsm     *fsm
	raft    *raft.Raft
	id      raft.ServerID
	address string // where other replicas reach it
	member  bool   // it was a member when it was opened
	port    *port  // nil when it is alone
	dir     string
	close   []func() error // in reverse order
}

// configuration lists the members as Raft has them.
func (r *replica) configuration() []raft.Server {
	f := r.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

// leads says whether Raft takes this replica for the leader.
func (r *replica) leads() bool { return r.raft.State() == raft.Leader }

// openReplica opens the log and starts Raft, which is idle until it is founded,
// joined or finds what it was a member of. The caller shuts it.
func openReplica(c Config) (_ *replica, err error) {
	dir := filepath.Join(c.Data, "raft")
	if err := os.MkdirAll(filepath.Join(dir, logDir), 0o700); err != nil {
		return nil, fmt.Errorf("make raft directory: %w", err)
	}
	r := &replica{fsm: newFSM(), dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.shut())
		}
	}()
	if err := r.lock(filepath.Join(dir, "lock")); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, removedFile)); err == nil {
		return nil, errRemoved
	}
	if r.id, err = replicaID(filepath.Join(dir, "replica")); err != nil {
		return nil, err
	}
	rejoins, err := marked(dir)
	if err != nil {
		return nil, err
	}
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: lineWriter{c.Log, c.RaftListen == ""}, DisableTime: true})
	log, snaps, err := r.openLog(logger)
	if err != nil {
		return nil, err
	}
	transport, err := r.openTransport(c, logger)
	if err != nil {
		return nil, err
	}
	if r.member, err = raft.HasExistingState(log, log, snaps); err != nil {
		return nil, fmt.Errorf("look for an existing cluster: %w", err)
	}
	r.member = r.member || rejoins
	t := timersOf(c.Profile)
	if c.RaftListen == "" {
		t = timersAlone()
	}
	err = surely(func() (err error) {
		r.raft, err = raft.NewRaft(raftConfig(t, r.id, logger), r.fsm, log, log, snaps, transport)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	r.close = append(r.close, func() error { return r.raft.Shutdown().Error() })
	return r, nil
}

// openLog opens the log and the snapshots. An error that is a *damage says that
// they are not what they were.
func (r *replica) openLog(logger hclog.Logger) (*Log, raft.SnapshotStore, error) {
	files, err := raft.NewFileSnapshotStoreWithLogger(r.dir, keptSnapshots, logger)
	if err != nil {
		return nil, nil, fmt.Errorf("open snapshots: %w", err)
	}
	list, err := files.List()
	if err != nil {
		return nil, nil, fmt.Errorf("list snapshots: %w", err)
	}
	newest := uint64(0)
	if len(list) > 0 {
		newest = list[0].Index
	}
	log, err := openWitnessed(filepath.Join(r.dir, logDir), filepath.Join(r.dir, witnessFile), newest, logger)
	if err != nil {
		return nil, nil, err
	}
	r.close = append(r.close, log.Close)
	return log, indexedStore{files}, nil
}

// openTransport listens for the other replicas, or makes a transport that has none.
func (r *replica) openTransport(c Config, l hclog.Logger) (raft.Transport, error) {
	if c.RaftListen == "" {
		address, t := raft.NewInmemTransport(raft.ServerAddress(r.id))
		r.address = string(address)
		r.close = append(r.close, t.Close)
		return t, nil
	}
	p, err := openPort(c)
	if err != nil {
		return nil, err
	}
	r.port, r.address = p, p.advertise
	r.close = append(r.close, p.close)
	// Without pipelining: raft's may wait for ever when a follower refuses an
	// entry (hashicorp/raft#612); that one is sent nothing any more, and the
	// leader cannot shut down.
	t := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: p.raft, MaxPool: 3, MaxRPCsInFlight: 1, Timeout: 5 * time.Second, Logger: l})
	r.close = append(r.close, t.Close)
	return t, nil
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
type lineWriter struct {
	log   *slog.Logger
	alone bool // there are no others whose heartbeats could be missing
}

// Write logs one line.
func (w lineWriter) Write(b []byte) (int, error) {
	level := slog.LevelWarn
	if w.alone && bytes.Contains(b, []byte("heartbeat timeout reached, starting election")) {
		level = slog.LevelDebug // that is how the only replica starts
	}
	w.log.Log(context.Background(), level, "raft says", "line", strings.TrimSpace(string(b)))
	return len(b), nil
}
