package scheduler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/hashicorp/raft"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/scheduler/state"
)

const (
	restoreTimeout = 2 * time.Minute
	maxSnapshot    = 1 << 30 // bytes of a snapshot that is restored
)

// SaveSnapshot writes the state with all that was acknowledged before. It
// holds the cluster's keys: keep it as such.
func (s *Server) SaveSnapshot(ctx context.Context, w io.Writer) error {
	if err := s.Consistent(ctx); err != nil {
		return err
	}
	_, err := s.root().WriteTo(w)
	return err
}

// Compact writes this replica's state to its disk now and lets go of the log
// before it, as Raft does by itself from time to time.
func (s *Server) Compact() error {
	if err := s.serving(); err != nil {
		return err
	}
	if err := s.replica.Load().raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("compact the log: %w", err)
	}
	return nil
}

// RestoreSnapshot replaces the whole state by a saved one, on every replica.
// What was made since is lost; nodes report what they still run.
func (s *Server) RestoreSnapshot(ctx context.Context, from io.Reader) error {
	b, err := io.ReadAll(io.LimitReader(from, maxSnapshot+1))
	if err != nil {
		return &api.Error{Code: api.CodeInvalid, Message: "the snapshot could not be read", Err: err}
	}
	if len(b) > maxSnapshot {
		return api.Errorf(api.CodeTooLarge, "a snapshot has at most %d bytes", maxSnapshot)
	}
	if _, err := state.Read(bytes.NewReader(b)); err != nil {
		return &api.Error{Code: api.CodeInvalid, Message: "this is no snapshot that this program reads", Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	if err := s.serving(); err != nil {
		return err
	}
	if s.leads() {
		return s.restore(b)
	}
	to, ok := s.leader()
	if !ok {
		return api.Errorf(api.CodeUnavailable, "the schedulers have no leader: try again")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+to.address+restorePath, bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("make restore: %w", err)
	}
	res, err := s.peers.client.Do(req)
	if err != nil {
		return &api.Error{Code: api.CodeUnavailable, Message: "the leader is not reached", Err: err}
	}
	defer func() { _ = res.Body.Close() }() // read below
	var answer callAnswer
	if err := json.NewDecoder(io.LimitReader(res.Body, maxCall)).Decode(&answer); err != nil {
		return fmt.Errorf("read answer of restore: %w", err)
	}
	switch {
	case answer.Again != never:
		return api.Errorf(api.CodeUnavailable, "the leader was replaced: look at the state and try again")
	case answer.Error != nil:
		return answer.Error
	}
	return nil
}

// restore replaces the state. The members stay those of this cluster.
func (s *Server) restore(b []byte) error {
	r := s.replica.Load()
	saved, err := state.Read(bytes.NewReader(b))
	if err != nil {
		return &api.Error{Code: api.CodeInvalid, Message: "this is no snapshot that this program reads", Err: err}
	}
	var whole bytes.Buffer
	if _, err := saved.WithReplicasOf(s.root()).WriteTo(&whole); err != nil {
		return err
	}
	b = whole.Bytes()
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Size: int64(len(b)), Index: r.raft.LastIndex(), Term: r.raft.CurrentTerm()}
	if err := r.raft.Restore(meta, bytes.NewReader(b), restoreTimeout); err != nil {
		return &api.Error{Code: api.CodeUnavailable, Message: "the snapshot could not be restored", Err: err}
	}
	// The next placement sees it, and what it wants of the edges is sent.
	s.view.set(r.fsm.root.Load())
	s.leases.begin(s.cfg.Clock(), s.cfg.Lease)
	for v := range s.root().Sessions() {
		s.dispatch.kick(v.ID)
	}
	s.cfg.Log.Warn("the state was replaced by a snapshot", "sessions", s.root().LiveCount(), "at", s.root().Now())
	return nil
}

func (s *Server) serveRestore(w http.ResponseWriter, req *http.Request) {
	var out callAnswer
	b, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxSnapshot))
	switch {
	case err != nil:
		out = s.answerOf(nil, errors.Join(errors.New("read snapshot"), err))
	case !s.leads():
		out.Again = safely
	default:
		out = s.answerOf(nothing{}, s.restore(b))
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // it is gone if this fails
}
