package state

import (
	"encoding/json"
	"fmt"

	"github.com/perigee-cloud/perigee/api"
)

// maxReplicas bounds the schedulers of one cluster, leavers included.
const maxReplicas = 64

// PutReplica records how a scheduler describes itself.
type PutReplica struct{ Doc []byte } // api.Replica as JSON

func (*PutReplica) kind() kind { return kindPutReplica }

func (m *PutReplica) fields(c *coder) { c.bytes(&m.Doc) }

func (m *PutReplica) apply(t *tx) Result {
	r, err := parseReplica(m.Doc)
	if err != nil {
		return Result{Err: err}
	}
	if r.Entry < t.EntryVersion() {
		return Result{Err: api.Errorf(api.CodeConflict, "replica %q reads entries up to version %d, the cluster writes version %d: install the version that the other schedulers run",
			r.ID, r.Entry, t.EntryVersion())}
	}
	if _, known := t.replicas.Get(r.ID); !known && t.replicas.Len() >= maxReplicas {
		return Result{Err: api.Errorf(api.CodeConflict, "the cluster has %d replicas: remove some", maxReplicas)}
	}
	t.replicas = t.replicas.Set(r.ID, r)
	return Result{}
}

// RemoveReplica forgets a scheduler.
type RemoveReplica struct{ ID string }

func (*RemoveReplica) kind() kind { return kindRemoveReplica }

func (m *RemoveReplica) fields(c *coder) { str(c, &m.ID) }

func (m *RemoveReplica) apply(t *tx) Result {
	if _, ok := t.replicas.Get(m.ID); !ok {
		return Result{Err: api.Errorf(api.CodeNotFound, "no replica %q", m.ID)}
	}
	t.replicas = t.replicas.Delete(m.ID)
	return Result{}
}

// Raise lets entries be written in a later version from the next one on: every
// replica has said that it reads it.
type Raise struct{ Version int }

func (*Raise) kind() kind { return kindRaise }

func (m *Raise) fields(c *coder) { num(c, &m.Version) }

func (m *Raise) apply(t *tx) Result {
	for _, r := range t.replicas.All() {
		if r.Entry < m.Version {
			return Result{Err: api.Errorf(api.CodeConflict, "replica %q reads entries up to version %d only", r.ID, r.Entry)}
		}
	}
	t.version = max(t.version, m.Version)
	return Result{}
}

type replicaDoc struct {
	api.Replica
	doc []byte
}

func parseReplica(doc []byte) (*replicaDoc, error) {
	r := &replicaDoc{doc: doc}
	if err := json.Unmarshal(doc, &r.Replica); err != nil {
		return nil, api.Invalidf("replica", "is no replica: %v", err)
	}
	if !api.ValidID(r.ID) {
		return nil, api.Invalidf("replica.id", "%q is not an id", r.ID)
	}
	return r, nil
}

// EntryVersion is the version that entries are written in: the highest that
// all replicas had said they read when it was last raised.
func (s *State) EntryVersion() int { return max(s.version, 1) }

// Replicas gives every scheduler that has described itself, by id.
func (s *State) Replicas() []api.Replica {
	out := []api.Replica{}
	for _, r := range s.replicas.Sorted() {
		out = append(out, r.Replica)
	}
	return out
}

// Replica finds a scheduler.
func (s *State) Replica(id string) (api.Replica, bool) {
	r, ok := s.replicas.Get(id)
	if !ok {
		return api.Replica{}, false
	}
	return r.Replica, true
}

// Info counts what the state holds.
func (s *State) Info() api.SnapshotInfo {
	i := api.SnapshotInfo{
		At: s.Now(), Entry: s.EntryVersion(), Applications: len(s.Apps()), Accounts: s.accounts.Len(),
		Nodes: s.nodes.Len(), Sessions: s.LiveCount(), Replicas: s.Replicas(),
	}
	for range s.Finished() {
		i.Finished++
	}
	return i
}

func (s *State) loadReplica(c *coder) error {
	var doc []byte
	c.bytes(&doc)
	if c.err != nil {
		return c.err
	}
	r, err := parseReplica(doc)
	if err != nil {
		return fmt.Errorf("read replica: %w", err)
	}
	s.replicas = s.replicas.Set(r.ID, r)
	return nil
}

// WithReplicasOf gives the state with the schedulers of another one, and the
// entry version that they agreed on: a saved state does not know them.
func (s *State) WithReplicasOf(o *State) *State {
	c := *s
	c.replicas, c.version = o.replicas, o.version
	return &c
}
