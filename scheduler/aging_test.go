package scheduler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-cloud/perigee/api"
)

// TestALargeSessionIsNotPassedForEver has small sessions come and go all the
// time beside a large one that waits for the whole of a node: it gets its place
// once those that were there when it had waited long enough have ended.
func TestALargeSessionIsNotPassedForEver(t *testing.T) {
	synctest.Test(t, testALargeSessionIsNotPassedForEver)
}

func testALargeSessionIsNotPassedForEver(t *testing.T) {
	const stay, streams = 10 * time.Second, 4
	w := newWorld(t, func(c *Config) { c.WaitAlive = time.Hour })
	w.app()
	w.edge("one", streams)
	var all []api.SessionID
	begin := func() error {
		a, err := w.create(of("small"))
		if err == nil {
			all = append(all, a.Session.ID)
			w.until(a.Session.ID, api.StatusActive)
		}
		return err
	}
	// One of the four ends every 2.5 s, and another begins at once: there is never
	// room for two.
	for range streams {
		if err := begin(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(stay / streams)
	}
	large := w.mustCreate(waits(600), func(r *api.CreateRequest) { r.Screen = api.Screen{Width: 1280, Height: 720, FPS: 60 * streams} }).Session.ID
	waiting := time.Now()
	small, kept := 0, 0
	for w.position(large) > 0 {
		if time.Since(waiting) > agedAfter+3*stay {
			t.Fatalf("the large session still waits after %s: %d small ones passed it", time.Since(waiting), small)
		}
		if len(all) > 0 {
			if err := w.s.EndSession(w.ctx(), all[0], api.EndRequest{Wait: true}); err != nil {
				t.Fatal(err)
			}
			all = all[1:]
		}
		switch err := begin(); {
		case err == nil:
			small++
		case refusal(err) == api.RefusedKept:
			kept++
		}
		time.Sleep(stay / streams)
	}
	v := w.until(large, api.StatusActive)
	t.Logf("the large session waited %s while %d small ones passed it, and %d were turned away", v.PlacedAt.Sub(v.CreatedAt).Round(time.Second), small, kept)
	if small < 3 || kept == 0 {
		t.Errorf("%d small sessions passed it at first and %d were turned away for it: the test has lost its point", small, kept)
	}
	// Nothing is kept any more.
	if err := w.s.EndSession(w.ctx(), large, api.EndRequest{Wait: true}); err != nil {
		t.Fatal(err)
	}
	if err := begin(); err != nil {
		t.Errorf("after it has ended: %v", err)
	}
}

// TestWhoLeavesTheQueueKeepsNothing lets a large session that a node was kept for
// leave.
func TestWhoLeavesTheQueueKeepsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *Config) { c.WaitAlive = time.Hour })
		w.app()
		w.edge("one", 2)
		w.mustCreate()
		large := w.mustCreate(waits(600), func(r *api.CreateRequest) { r.Screen = api.Screen{Width: 1280, Height: 720, FPS: 120} })
		time.Sleep(agedAfter + time.Second)
		if _, err := w.create(); refusal(err) != api.RefusedKept {
			t.Errorf("a small one while the node is kept: %v", err)
		}
		if err := w.s.EndSession(w.ctx(), large.Session.ID, api.EndRequest{Wait: true}); err != nil {
			t.Fatal(err)
		}
		w.mustCreate()
	})
}
