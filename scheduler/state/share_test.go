package state

import (
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func sharing(t *testing.T) *rig {
	r := newRig(t)
	r.do(&Raise{Version: 3})
	r.do(creation("s1", "n1"))
	r.report("s1", api.ObservedRunning, 1)
	return r
}

func share(r *rig) *PutShare {
	return &PutShare{ID: "s1", Seat: api.Seat{Role: api.RoleViewer}, Description: "Ann", Expires: r.now.Add(time.Hour)}
}

func TestShares(t *testing.T) {
	r := sharing(t)
	first, second := r.do(share(r)).Share, r.do(share(r)).Share
	if first.Number != 1 || second.Number != 2 || first.ID() != "s1-1" || !first.CreatedAt.Equal(r.now.Add(-time.Second)) {
		t.Fatalf("shares %+v and %+v", first, second)
	}
	changed := share(r)
	changed.Number, changed.Description, changed.Expires, changed.Seat = 1, "Bob", r.now.Add(2*time.Hour), api.Seat{}
	if got := r.do(changed).Share; got.Description != "Bob" || !got.ExpiresAt.Equal(changed.Expires) || got.Seat.Role != api.RoleViewer {
		t.Errorf("changed to %+v", got)
	}
	r.do(&DropShare{ID: "s1", Number: 1})
	r.refused(api.CodeNotFound, &DropShare{ID: "s1", Number: 1})
	r.refused(api.CodeNotFound, changed)
	if _, told := r.s.Shares("s1"); told.Edit != 4 || told.Last != 2 || len(told.Open) != 1 || told.Open[0] != 2 || told.Admits(1) || !told.Admits(2) || !told.Admits(3) {
		t.Errorf("the edge is told %+v", told)
	}
	for range api.MaxShares - 1 {
		r.do(share(r))
	}
	r.refused(api.CodeForbidden, share(r))
	r.now = r.now.Add(2 * time.Hour) // those have expired and make room
	r.do(share(r))
	if list := r.s.AllShares(); len(list) != 1 || list[0].Number != 7 {
		t.Errorf("after their time there are %+v", list)
	}
	if _, ok := r.s.Share("s1", 7); !ok {
		t.Error("the last share is not found")
	}
	r.report("s1", api.ObservedStopped, 2)
	if list := r.s.AllShares(); len(list) != 0 {
		t.Errorf("an ended session has shares: %+v", list)
	}
	r.refused(api.CodeNotFound, share(r))
}

func TestOnlyAnActiveSessionIsShared(t *testing.T) {
	r := newRig(t)
	r.do(&Raise{Version: 3})
	r.do(creation("s1", "n1"))
	r.refused(api.CodeConflict, share(r))
	outside := creation("s2", "")
	r.do(outside)
	m := share(r)
	m.ID = "s2"
	r.refused(api.CodeConflict, m)
}

// TestSnapshotV3 holds the bytes of a snapshot with shares.
func TestSnapshotV3(t *testing.T) {
	r := sharing(t)
	r.do(share(r), &PutShare{ID: "s1", Seat: api.Seat{Role: api.RoleControl, Rights: []api.ViewerRight{"gamepad"}}, Expires: r.now.Add(time.Hour)})
	r.do(&DropShare{ID: "s1", Number: 1})
	s := keptSnapshot(t, "testdata/snapshot_v3.txt", r.s)
	if x, ok := s.Share("s1", 2); !ok || !x.Seat.May("gamepad") || x.Seat.May(api.MayInput) {
		t.Errorf("the share came back as %+v", x)
	}
}
