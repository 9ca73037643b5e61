package main

import (
	"strings"
	"testing"
)

func TestCreateWaitsForRoom(t *testing.T) {
	queued := `"metadata":{"id":"s1","status":"created","url":"ws://h/1","stun_servers":[],"perigee":{"node":"","rank":0,"extra_ms":0,"queue":{"position":2,"length":3,"eta_s":40,"until":"2026-11-21T12:00:00Z"}}}`
	placed := `"metadata":{"id":"s1","status":"created","perigee":{"node":"n7","region":"eu","rank":2,"extra_ms":6.25,"step":"software","codec":"H264"}}`
	s := newStub(t, map[string]canned{"POST /1.0/sessions": {201, queued}, "GET /1.0/sessions/s1": {200, placed}})
	status, out, errs := s.perigee(t, "", "session", "create", "--app", "xterm", "--wait", "90s")
	if status != 0 || !strings.Contains(errs, "session s1 waits: place 2 of 3, about 40s") {
		t.Errorf("status %d, told %q", status, errs)
	}
	for _, want := range []string{"n7", "2, 6.2 ms more than the best", "software"} {
		if !strings.Contains(out, want) {
			t.Errorf("it printed %s without %q", out, want)
		}
	}
	if !strings.Contains(s.bodies[0], `"wait_s":90`) {
		t.Errorf("it asked by %s", s.bodies[0])
	}
	s = newStub(t, map[string]canned{"POST /1.0/sessions": {201, queued},
		"GET /1.0/sessions/s1": {200, `"metadata":{"id":"s1","status":"error","status_message":"no room came while the session could wait","perigee":{}}`}})
	if status, _, errs := s.perigee(t, "", "session", "create", "--app", "xterm", "--wait", "90s"); status != 1 || !strings.Contains(errs, "no room came") {
		t.Errorf("in vain: status %d, told %q", status, errs)
	}
	if status, _, errs := s.perigee(t, "", "session", "create", "--app", "xterm", "--wait", "3h"); status != 2 || !strings.Contains(errs, "--wait") {
		t.Errorf("for too long: status %d, told %q", status, errs)
	}
}
