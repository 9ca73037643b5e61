package state

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

func launch(id, node, name string, streaming bool) *Launch {
	m := &Launch{Create: *creation(id, node), Name: name, Tags: []string{"lab"}, Streaming: streaming}
	m.Create.IdleMinutes = 0
	if !streaming {
		m.Create.Pool, m.Create.Reserved, m.Create.Codec, m.Create.Codecs = api.PoolNone, 0, "", nil
	}
	return m
}

func TestInstancesFirst(t *testing.T) {
	r := newRig(t)
	r.do(&Raise{Version: 2}, launch("a", "n1", "one", true), launch("b", "n1", "two", false), launch("c", "n1", "", false), creation("s", "n1"))
	if used, n := r.reserved("n1", api.PoolCPU); used != 2*oneHD() || n != 2 {
		t.Errorf("reserved %d in %d sessions: an instance without a stream takes of an encoder", used, n)
	}
	checkLedger(t, r.s)
	for id, want := range map[api.SessionID]string{
		"a": "one [lab session=a] true prepared", "b": "two [lab] false prepared", "c": "ams-c [lab] false prepared", "s": "ams-s [session=s] true prepared",
	} {
		v, _ := r.s.Session(id)
		i := r.s.Instance(v)
		if got := fmt.Sprintf("%s %v %v %s", i.Name, i.AllTags(), i.Streaming, i.State()); got != want {
			t.Errorf("%s is %q, want %q", id, got, want)
		}
	}
	r.refused(api.CodeConflict, launch("d", "n1", "one", true))
	bad := launch("d", "n1", "d", true)
	bad.Streaming = false
	r.refused(api.CodeInvalid, bad)
	r.report("a", api.ObservedRunning, 1)
	r.report("b", api.ObservedRunning, 2)
	r.do(&Join{ID: "a"})
	if e := r.refused(api.CodeConflict, &Join{ID: "b"}); !strings.Contains(e.Message, "enable_streaming") {
		t.Errorf("a join without a stream says %q", e.Message)
	}
	v, _ := r.s.Live("a")
	if why, over := v.Overdue(r.now.Add(1000 * time.Hour)); over {
		t.Errorf("an instance that waits for clients is ended: %s", why)
	}
	back, err := Read(bytes.NewReader(dump(t, r.s)))
	if err != nil || !bytes.Equal(dump(t, back), dump(t, r.s)) {
		t.Fatalf("the snapshot came back different (%v)", err)
	}
	checkLedger(t, back)
	r.do(&End{ID: "b", Reason: api.ReasonDeleted})
	r.report("b", api.ObservedStopped, 3)
	ended, _ := r.s.Session("b")
	if i := r.s.Instance(ended); i.Name != "two" || i.Streaming || i.State() != api.InstanceDeleted {
		t.Errorf("after its end it is %+v", i)
	}
	checkLedger(t, r.s)
	r.do(launch("e", "n2", "two", false)) // the name is free again
	r.now = r.now.Add(Keep + time.Hour)
	r.do(&Tick{})
	if n := r.s.instances.Len(); n != 3 {
		t.Errorf("%d instances are remembered, want those of a, c and e", n)
	}
}
