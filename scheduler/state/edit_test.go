package state

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func TestInstancesAreChanged(t *testing.T) {
	r := newRig(t)
	r.do(&Raise{Version: EditSince}, launch("a", "n1", "one", true), creation("s", "n1"))
	r.report("a", api.ObservedRunning, 1)
	r.refused(api.CodeConflict, &EditInstance{ID: "a", HasJoinable: true})
	r.do(&Report{ID: "a", Generation: 1, Node: "n1", Boot: "b1", Seq: 5, Observed: api.ObservedRunning, Connected: true})
	r.do(&EditInstance{ID: "a", HasTags: true, Tags: []string{"x", "k=v"}, HasJoinable: true, HasProtect: true, Protected: true, HasIdle: true, IdleMinutes: 7})
	r.do(&EditInstance{ID: "s", HasProtect: true, Protected: true}, &EditInstance{ID: "a"})
	look := func(s *State, id api.SessionID) api.Instance {
		v, ok := s.Session(id)
		if !ok {
			t.Fatalf("no %s", id)
		}
		return s.Instance(v)
	}
	for _, s := range []*State{r.s, restored(t, r.s)} {
		i := look(s, "a")
		if !slices.Equal(i.Tags, []string{"x", "k=v"}) || i.Session.Joinable || !i.Protected || i.Session.IdleMinutes != 7 || i.Name != "one" {
			t.Errorf("a is %+v", i)
		}
		if i := look(s, "s"); !i.Protected || i.Name != "ams-s" || !i.Session.Joinable {
			t.Errorf("s is %+v", i)
		}
	}
	for _, force := range []bool{false, true} {
		if e := r.refused(api.CodeConflict, &End{ID: "a", Reason: api.ReasonDeleted, Force: force}); e.Field != "delete_protected" {
			t.Errorf("a protected one is kept by %+v", e)
		}
	}
	r.do(&End{ID: "s", Reason: api.ReasonIdle}) // protection is from deleting alone
	if v := look(r.s, "s"); v.Session.Desired != api.DesiredStop {
		t.Errorf("an idle one goes on: %+v", v.Session)
	}
	r.do(&EditInstance{ID: "a", HasProtect: true}, &End{ID: "a", Reason: api.ReasonDeleted})
	r.report("a", api.ObservedStopped, 6)
	r.refused(api.CodeConflict, &EditInstance{ID: "a", HasTags: true})
	r.refused(api.CodeNotFound, &EditInstance{ID: "nosuch"})
}

func restored(t *testing.T, s *State) *State {
	t.Helper()
	back, err := Read(bytes.NewReader(dump(t, s)))
	if err != nil || !bytes.Equal(dump(t, back), dump(t, s)) {
		t.Fatalf("the snapshot came back different (%v)", err)
	}
	return back
}

// A new idle time begins when it is set, not when the last client left.
func TestIdleTimeBeginsAnew(t *testing.T) {
	r := newRig(t)
	r.do(&Raise{Version: EditSince}, launch("a", "n1", "one", true))
	r.report("a", api.ObservedRunning, 1)
	r.now = r.now.Add(time.Hour)
	r.do(&EditInstance{ID: "a", HasIdle: true, IdleMinutes: 5})
	v, _ := r.s.Live("a")
	if why, over := v.Overdue(r.now.Add(4 * time.Minute)); over {
		t.Errorf("ended after 4 of 5 minutes: %s", why)
	}
	if _, over := v.Overdue(r.now.Add(6 * time.Minute)); !over {
		t.Error("it goes on after 6 of 5 minutes")
	}
}
