package state

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

func replica(t *testing.T, id string, entry int) *PutReplica {
	t.Helper()
	doc, err := json.Marshal(api.Replica{ID: id, Raft: "127.0.0.1:1", Entry: entry, Gossip: map[string]string{"eu": "127.0.0.1:2"}})
	if err != nil {
		t.Fatal(err)
	}
	return &PutReplica{Doc: doc}
}

// apply gives the state after commands, and the error of each.
func apply(t *testing.T, s *State, commands ...Command) (*State, []error) {
	t.Helper()
	next, results, err := s.Apply(Encode(epoch, commands...))
	if err != nil {
		t.Fatal(err)
	}
	errs := make([]error, len(results))
	for i, r := range results {
		errs[i] = r.Err
	}
	return next, errs
}

func TestEntryVersionRisesWithTheLastReplica(t *testing.T) {
	s, errs := apply(t, New(), replica(t, "r-a", 2), replica(t, "r-b", 1), &Raise{Version: 2})
	if api.CodeOf(errs[2]) != api.CodeConflict || s.EntryVersion() != 1 {
		t.Errorf("raised over a replica that reads less: version %d, %v", s.EntryVersion(), errs[2])
	}
	s, errs = apply(t, s, replica(t, "r-b", 3), &Raise{Version: 2}, replica(t, "r-c", 1), &Raise{Version: 1})
	if errs[1] != nil || s.EntryVersion() != 2 {
		t.Errorf("version %d: %v", s.EntryVersion(), errs[1])
	}
	if api.CodeOf(errs[2]) != api.CodeConflict {
		t.Errorf("a replica that reads less than is written: %v", errs[2])
	}
	if len(s.Replicas()) != 2 {
		t.Errorf("replicas: %v", s.Replicas())
	}
}

func TestReplicasInSnapshots(t *testing.T) {
	s, errs := apply(t, New(), replica(t, "r-a", 2), replica(t, "r-b", 2), &Raise{Version: 2}, &RemoveReplica{ID: "r-b"}, &RemoveReplica{ID: "r-b"})
	if errs[3] != nil || api.CodeOf(errs[4]) != api.CodeNotFound {
		t.Errorf("removing twice: %v, %v", errs[3], errs[4])
	}
	var b bytes.Buffer
	if _, err := s.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	back, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	r, ok := back.Replica("r-a")
	if !ok || r.Gossip["eu"] != "127.0.0.1:2" || back.EntryVersion() != 2 || len(back.Replicas()) != 1 {
		t.Errorf("came back as %+v of version %d", back.Replicas(), back.EntryVersion())
	}
	if i := back.Info(); i.Entry != 2 || len(i.Replicas) != 1 || !i.At.Equal(epoch) {
		t.Errorf("it says %+v", i)
	}
	if _, known := New().WithReplicasOf(back).Replica("r-a"); !known {
		t.Error("the cluster's own replicas are not kept")
	}
}

func TestBadReplicas(t *testing.T) {
	s := New()
	for _, doc := range []string{``, `{}`, `{"id":"no spaces"}`, `[1]`} {
		if _, errs := apply(t, s, &PutReplica{Doc: []byte(doc)}); api.CodeOf(errs[0]) != api.CodeInvalid {
			t.Errorf("%q: %v", doc, errs[0])
		}
	}
	for i := range maxReplicas + 1 {
		var errs []error
		s, errs = apply(t, s, replica(t, "r-"+string(rune('A'+i%26))+string(rune('a'+i/26)), 1))
		if i == maxReplicas && api.CodeOf(errs[0]) != api.CodeConflict {
			t.Errorf("replica %d: %v", i+1, errs[0])
		}
	}
}
