package gateway

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// queued makes a session that waits at a position.
func (r *rig) queued(position int) api.CreateAnswer {
	a := r.create("xterm")
	r.set(a.ID, func(s *api.Session) {
		s.Node, s.Queue = "", &api.QueuePlace{Position: position, Length: 9, EtaS: 40, Until: epoch.Add(time.Hour)}
	})
	return a
}

func TestWaitingClientsAreTold(t *testing.T) {
	r := newRig(t)
	r.srv.timing.watch = 5 * time.Millisecond
	a := r.queued(2)
	c := dial(t, a.URL)
	put(t, c, `{"type":"discover"}`)
	frames := map[string]string{}
	for range 2 { // the answer to discover and the place, in either order
		var f struct{ Type string }
		text := read(t, c)
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			t.Fatal(err)
		}
		frames[f.Type] = text
	}
	if got := frames["perigee.queue"]; !strings.Contains(got, `"position":2,"length":9,"eta_s":40`) {
		t.Errorf("it was told %v", frames)
	}
	r.set(a.ID, func(s *api.Session) {
		s.Queue = &api.QueuePlace{Position: 1, Length: 8, EtaS: 20, Until: epoch.Add(time.Hour)}
	})
	if got := read(t, c); !strings.Contains(got, `"position":1,"length":8`) {
		t.Errorf("then it was told %s", got)
	}
	r.set(a.ID, func(s *api.Session) { s.Queue, s.Node = nil, "node2" })
	if got := read(t, c); !strings.Contains(got, `"type":"perigee.placed"`) || !strings.Contains(got, `turn:node2`) || !strings.Contains(got, `"node":"node2"`) {
		t.Errorf("at last it was told %s", got)
	}
	link := <-r.links
	if link.session.Node != "node2" {
		t.Errorf("the way was opened to %q", link.session.Node)
	}
}

func TestWaitThatEndsIsTold(t *testing.T) {
	r := newRig(t)
	r.srv.timing.watch = 5 * time.Millisecond
	a := r.queued(1)
	c := dial(t, a.URL)
	read(t, c)
	r.set(a.ID, func(s *api.Session) {
		s.Queue, s.Reason, s.Observed, s.Desired = nil, api.ReasonNoCapacity, api.ObservedFailed, api.DesiredStop
	})
	wantFault(t, c, "no room came")
}

func TestClientThatGoesLeavesTheQueue(t *testing.T) {
	r := newRig(t)
	r.srv.timing.watch = 5 * time.Millisecond
	a := r.queued(1)
	c := dial(t, a.URL)
	read(t, c)
	if err := c.CloseNow(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		n := len(r.ends)
		r.mu.Unlock()
		if n == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the session still waits")
		}
	}
	if why := r.ends[0].Reason; why != api.ReasonClientLeft {
		t.Errorf("it left for %q", why)
	}
}

func TestWaitInAnswers(t *testing.T) {
	r := newRig(t)
	a := r.queued(3)
	got := r.call("GET", "/1.0/sessions/"+string(a.ID), "")
	var v api.SessionView
	if err := json.Unmarshal(got.env.Metadata, &v); err != nil || v.Perigee.Queue == nil || v.Perigee.Queue.Position != 3 || v.Perigee.Queue.EtaS != 40 {
		t.Errorf("the session shows %s", got.body)
	}
	if got := r.call("POST", "/1.0/sessions", `{"app":"xterm","perigee":{"wait_s":30}}`); got.status != http.StatusCreated {
		t.Fatal(got.body)
	}
	if w := r.creates[len(r.creates)-1].WaitS; w != 30 {
		t.Errorf("the scheduler was asked to wait %d s", w)
	}
	for _, bad := range []string{"-1", "3601", `"long"`} {
		got := r.call("POST", "/1.0/sessions", `{"app":"xterm","perigee":{"wait_s":`+bad+`}}`)
		if got.status != http.StatusBadRequest || got.env.Perigee.Field != "perigee.wait_s" {
			t.Errorf("wait_s %s: %d %s", bad, got.status, got.body)
		}
	}
}
