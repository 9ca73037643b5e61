package scheduler

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media/turn"
)

func TestRelaysBeside(t *testing.T) { synctest.Test(t, testRelaysBeside) }

// Viewers and stream are told the same two relays of the region, each with a
// credential of its own side.
func testRelaysBeside(t *testing.T) {
	w := newWorld(t)
	w.app()
	edges := map[string]*fakeEdge{}
	for address, region := range map[string]string{
		"192.0.2.1": "eu", "192.0.2.2": "eu", "192.0.2.3": "eu", "192.0.2.4": "eu", "10.0.0.1": "eu", "198.51.100.1": "us",
	} {
		edges[address] = w.edge(address, 8, func(n *api.Node) { n.Region, n.Addresses = region, []string{address} })
	}
	time.Sleep(time.Second) // of the bubble: every node is heard
	secret := []byte("0123456789abcdef0123456789abcdef")
	load := map[string]int{}
	for i := range 40 {
		region := "eu"
		if i == 0 {
			region = "us"
		}
		a := w.mustCreate(func(r *api.CreateRequest) { r.Region = region })
		w.until(a.Session.ID, api.StatusActive)
		own, _ := w.s.root().Node(a.Session.Node)
		viewer := a.ICEServers[2:]
		edges[own.Name].mu.Lock()
		stream := edges[own.Name].specs[a.Session.ID].ICEServers
		edges[own.Name].mu.Unlock()
		want := otherRelays
		if own.Region == "us" {
			want = 0 // the only one there
		}
		if len(viewer) != want || !slices.EqualFunc(viewer, stream, sameURLs) {
			t.Fatalf("on %s viewers are told %v, the stream %v", own.Name, viewer, stream)
		}
		for i := range viewer {
			host := strings.TrimSuffix(strings.TrimPrefix(viewer[i].URLs[0], "turn:"), ":3478?transport=udp")
			load[host]++
			if host == own.Name || host == "198.51.100.1" || host == "10.0.0.1" {
				t.Errorf("a session on %s is offered the relay of %s", own.Name, host)
			}
			for _, side := range []api.ICEServer{viewer[i], stream[i]} {
				u, err := turn.Check(side.Username, w.s.now())
				if err != nil || u.Session != a.Session.ID || u.Generation != 1 || u.Stream != (side.Username == stream[i].Username) {
					t.Errorf("%q is checked as %+v, %v", side.Username, u, err)
				}
				if turn.Password(secret, side.Username) != side.Password {
					t.Errorf("the password of %q is not of that relay", side.Username)
				}
			}
		}
		j, err := w.s.JoinSession(w.ctx(), a.Session.ID, api.JoinRequest{})
		if err != nil || !slices.EqualFunc(j.ICEServers[2:], viewer, sameURLs) {
			t.Errorf("who joins is told %v, %v; who came first %v", j.ICEServers, err, viewer)
		}
		if err := w.s.EndSession(w.ctx(), a.Session.ID, api.EndRequest{Force: true, Wait: true}); err != nil {
			t.Fatal(err)
		}
	}
	if len(load) < 3 { // of the three or four that are not the session's own
		t.Errorf("the load is on %v only", load)
	}
}

func sameURLs(a, b api.ICEServer) bool { return slices.Equal(a.URLs, b.URLs) }

// In a private network the relays of that network serve.
func TestPrivateRelays(t *testing.T) { synctest.Test(t, testPrivateRelays) }

func testPrivateRelays(t *testing.T) {
	w := newWorld(t)
	w.app()
	for _, address := range []string{"10.0.0.1", "10.0.0.2"} {
		w.edge(address, 8, func(n *api.Node) { n.Addresses = []string{address} })
	}
	time.Sleep(time.Second)
	if a := w.mustCreate(); len(a.ICEServers) != 3 {
		t.Errorf("clients are told %+v", a.ICEServers)
	}
}
