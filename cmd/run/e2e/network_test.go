package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/cmd/run/site"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media/link"
)

// way runs a forwarder between the browser and the one stream that runs.
func (w *world) way(t *testing.T) *link.Forwarder {
	t.Helper()
	f, err := link.NewForwarder(func() (netip.AddrPort, bool) {
		dirs, err := local.Run(filepath.Join(w.edge.Dir, "run")).Sessions()
		if err != nil || len(dirs) != 1 {
			return netip.AddrPort{}, false
		}
		m, err := dirs[0].ReadMedia()
		if err != nil {
			return netip.AddrPort{}, false
		}
		for _, c := range m.Candidates {
			if a, err := netip.ParseAddrPort(c); err == nil && a.Addr().IsLoopback() && a.Addr().Is4() {
				return a, true
			}
		}
		return netip.AddrPort{}, false
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("forwarder: %v", err)
		}
	})
	return f
}

// A way that breaks: for five seconds, for good while there is another, and for
// good without one.
func TestStreamOutlivesItsWay(t *testing.T) {
	w := newWorld(t)
	v := w.viewer(t)
	defer v.Close()
	first, second := w.way(t), w.way(t)
	js, err := os.ReadFile("../../../bench/link.js")
	if err != nil {
		t.Fatal(err)
	}
	lead := func(f *link.Forwarder) { eval[int](t, v, fmt.Sprintf("globalThis.linkPort = %d", f.Addr().Port())) }
	lead(first)
	eval[bool](t, v, string(js)+"\n;true")
	eval[bool](t, v, "globalThis.mending = [], true")
	// The page's options cannot be functions here.
	eval[bool](t, v, `(() => { const open = site.open; site.open = (o) => open({ ...o, onReconnecting: (on) => mending.push(on) }); return true; })()`)
	opened := connect(t, v, w.options("latency", map[string]any{"joinable": true}))
	moves(t, v)
	connected := func() bool {
		t.Helper()
		s, err := w.client.Session(t.Context(), api.SessionID(opened.ID))
		if err != nil {
			t.Fatal(err)
		}
		return s.Perigee.Connected
	}
	gone := link.Shape{Loss: 1}

	first.Set(gone, gone)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if !connected() {
			t.Fatal("the session counts as not connected in a gap of five seconds")
		}
	}
	first.Set(link.Shape{}, link.Shape{})
	back := time.Now()
	moves(t, v)
	pressChangesThePicture(t, v)
	t.Logf("after a gap of 5 s the picture moved and answered keys within %s", time.Since(back))

	lead(second)
	first.Set(gone, gone)
	lost := time.Now()
	eventually(t, 25*time.Second, func() error {
		if n, err := site.Eval[int](v.Tab, "mending.filter(on => !on).length"); err != nil || n == 0 || second.Bytes() == 0 {
			r, _ := site.Eval[string](v.Tab, "(r => JSON.stringify([r.key, r.on, r.attempts, r.refusals, r.looks, r.received, !!r.ws, r.pc.iceConnectionState, mending]))(site.stream.peer.recovery)")
			return errors.Join(err, errors.New("no other way was found "+r))
		}
		return nil
	})
	moves(t, v)
	pressChangesThePicture(t, v)
	t.Logf("by another way after %s", time.Since(lost))
	if states := eval[[]string](t, v, "site.states"); states[len(states)-1] != "live" {
		t.Errorf("states %v", states)
	}

	second.Set(gone, gone)
	lost = time.Now()
	eventually(t, 12*time.Second, func() error {
		if connected() {
			return errors.New("the session still counts as connected")
		}
		return nil
	})
	took := time.Since(lost)
	t.Logf("known as gone after %s", took)
	if took > 10*time.Second {
		t.Errorf("a vanished client is known after %s, want 10 s", took)
	}
}
