package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/perigee-cloud/perigee/api"
)

const (
	rejoinFile  = "rejoin"  // marks the directory of a replica whose log is to be thrown away
	peersFile   = "peers"   // where the other members are reached, without the log
	damagedDir  = "damaged" // what the last recovery moved aside
	healEvery   = time.Second
	healSayFrom = 10 * time.Second // between two lines about a recovery that waits
)

// surely runs something on files that may hold anything: a panic, or a read
// beyond a mapped file's end, is damage.
func surely(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damaged("%v", p)
		}
	}()
	return f()
}

// ofLog says what an error of opening the log is: the machine's, which a later
// start may not meet, or the log's own.
func ofLog(err error) error {
	var no syscall.Errno
	if errors.As(err, &no) && no != syscall.ENOENT {
		return err
	}
	return damaged("%w", err)
}

// marked says whether a recovery was begun here. Before the log is thrown away
// that is an error, as the log must not be used any more.
func marked(dir string) (rejoins bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, rejoinFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look for a recovery: %w", err)
	case string(b) == wiped:
		return true, nil
	default:
		return false, damaged("an earlier start found: %s", b)
	}
}

// wiped is what the marker holds once the log is gone.
const wiped = "wiped\n"

// notePeers keeps the members' addresses where they are found without the log.
func (s *Server) notePeers(r *replica) {
	var at []string
	for _, m := range r.configuration() {
		if m.ID != r.id {
			at = append(at, string(m.Address))
		}
	}
	slices.Sort(at)
	b, err := json.Marshal(at)
	if err != nil || slices.Equal(s.noted, at) || r.configuration() == nil {
		return
	}
	if err := writeSynced(filepath.Join(r.dir, peersFile), b); err != nil {
		s.cfg.Log.Warn("the other replicas' addresses could not be noted", "error", err)
		return
	}
	s.noted = at
}

// forgetRejoin takes the marker away once the cluster has told this replica of itself.
func (s *Server) forgetRejoin(r *replica) {
	if len(r.configuration()) == 0 {
		return
	}
	err := os.Remove(filepath.Join(r.dir, rejoinFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.cfg.Log.Warn("the end of the recovery could not be noted", "error", err)
	}
}

// openOrHeal opens the replica. One whose log is not what it promised to keep gives
// its vote back, throws the log away and is filled anew by the others.
func (s *Server) openOrHeal(ctx context.Context) (*replica, error) {
	r, err := openReplica(s.cfg)
	var d *damage
	if !errors.As(err, &d) {
		return r, err
	}
	s.cfg.Log.Error("the replica's log is damaged: it gives its vote back and copies the state from the others", "error", d)
	if err := s.heal(ctx, d); err != nil {
		return nil, err
	}
	return openReplica(s.cfg)
}

// heal makes a damaged replica an empty one without a vote. Its log cannot be
// trusted, and neither can its vote: an entry that a majority confirmed may be
// missing here. So nothing of Raft runs before the others have taken the vote
// away; after that an empty log harms nobody.
func (s *Server) heal(ctx context.Context, d *damage) (err error) {
	dir := filepath.Join(s.cfg.Data, "raft")
	r := &replica{dir: dir}
	defer func() { err = errors.Join(err, r.shut()) }()
	if err := r.lock(filepath.Join(dir, "lock")); err != nil {
		return err
	}
	id, err := replicaID(filepath.Join(dir, "replica"))
	if err != nil {
		return err
	}
	peers := s.knownPeers(dir)
	if len(peers) == 0 {
		return fmt.Errorf("%w: no other replica is known to copy it from: start on an empty data directory and restore a snapshot (perigee snapshot restore)", d)
	}
	if err := writeSynced(filepath.Join(dir, rejoinFile), []byte(d.Error()+"\n")); err != nil {
		return err
	}
	if err := s.giveVoteBack(ctx, id, peers); err != nil {
		return err
	}
	if err := wipe(dir); err != nil {
		return err
	}
	return writeSynced(filepath.Join(dir, rejoinFile), []byte(wiped))
}

// knownPeers lists where other members may be reached.
func (s *Server) knownPeers(dir string) []string {
	var out []string
	if b, err := os.ReadFile(filepath.Join(dir, peersFile)); err == nil {
		_ = json.Unmarshal(b, &out) // what cannot be read is none
	}
	for _, p := range s.cfg.Peers {
		if p != s.cfg.RaftListen && p != s.cfg.RaftAdvertise && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// giveVoteBack asks until the leader has taken the vote away, or ctx ends.
func (s *Server) giveVoteBack(ctx context.Context, id raft.ServerID, peers []string) error {
	s.peers.setSpare(&port{network: s.cfg.Network, certs: s.cfg.Certificates})
	defer s.peers.setSpare(nil)
	defer s.peers.client.CloseIdleConnections()
	said := time.Time{}
	for {
		var last error
		for _, address := range peers {
			err := s.askDemotion(ctx, address, id)
			switch {
			case err == nil:
				s.cfg.Log.Warn("the vote is given back; the log is thrown away", "replica", id)
				return nil
			case api.CodeOf(err) == api.CodeNotFound:
				return errRemoved
			}
			last = err
		}
		if time.Since(said) > healSayFrom {
			said = time.Now()
			s.cfg.Log.Warn("the vote cannot be given back yet: the other replicas must have a leader", "replica", id, "error", last)
		}
		if !pause(ctx, healEvery) {
			return fmt.Errorf("give the vote back: %w", ctx.Err())
		}
	}
}

func (s *Server) askDemotion(ctx context.Context, address string, id raft.ServerID) error {
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	h, err := s.greetPeer(ctx, address)
	if err != nil {
		return err
	}
	if h.Leader == "" {
		return errNotLeader
	}
	var done nothing
	_, err = s.call(ctx, target{address: h.Leader}, "replica.demote", string(id), &done)
	return err
}

// demoteReplica takes a member's vote away. It answers once that is committed.
func (s *Server) demoteReplica(_ context.Context, id string) (nothing, error) {
	r := s.replica.Load()
	settled := func(f raft.Future) error {
		if err := f.Error(); err != nil {
			return &api.Error{Code: api.CodeUnavailable, Message: "the vote could not be taken away", Err: ofRaft(err)}
		}
		return nil
	}
	if err := settled(r.raft.Barrier(memberTimeout)); err != nil { // so that the members are those that a majority has
		return nothing{}, err
	}
	members := r.configuration()
	at := slices.IndexFunc(members, func(m raft.Server) bool { return string(m.ID) == id })
	switch {
	case at < 0:
		return nothing{}, api.Errorf(api.CodeNotFound, "no replica %q", id)
	case id == string(r.id):
		return nothing{}, api.Errorf(api.CodeConflict, "replica %q leads: another one uses its name", id)
	case members[at].Suffrage != raft.Voter:
		return nothing{}, nil
	}
	if err := settled(r.raft.DemoteVoter(members[at].ID, 0, memberTimeout)); err != nil {
		return nothing{}, err
	}
	s.cfg.Log.Warn("a replica whose log is damaged has no vote until it has settled again", "replica", id)
	return nothing{}, nil
}

// wipe moves the log, its witness and the snapshots aside, in place of what an
// earlier recovery left.
func wipe(dir string) error {
	aside := filepath.Join(dir, damagedDir)
	if err := os.RemoveAll(aside); err != nil {
		return fmt.Errorf("remove what was damaged before: %w", err)
	}
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return fmt.Errorf("move the log aside: %w", err)
	}
	for _, name := range []string{logDir, witnessFile, "snapshots"} {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(aside, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("move the log aside: %w", err)
		}
	}
	return syncDir(dir)
}

// writeSynced writes a file that a crash leaves whole, as it was or as it is.
func writeSynced(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), errors.Join(err, os.Remove(f.Name())))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
