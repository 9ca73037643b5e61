package stream

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media/link"
)

// forward runs a way of its own from a client to the stream.
func (r *rig) forward() *link.Forwarder {
	r.t.Helper()
	f, err := link.NewForwarder(func() (netip.AddrPort, bool) {
		m, err := r.dir.ReadMedia()
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
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("forwarder: %v", err)
		}
	})
	return f
}

// goBy has a forwarder be a client's only way from the next candidates on.
func (c *client) goBy(f *link.Forwarder) {
	way := func(line string) string {
		w := strings.Fields(line)
		if len(w) < 8 || w[4] != "127.0.0.1" || w[7] != "host" {
			return ""
		}
		w[5] = fmt.Sprint(f.Addr().Port())
		return strings.Join(w, " ")
	}
	c.through.Store(&way)
}

func cut(f *link.Forwarder, on bool) {
	var s link.Shape
	if on {
		s.Loss = 1
	}
	f.Set(s, s)
}

// resumeKey takes part in the meter and gives the key that the page is told.
func (c *client) resumeKey() string {
	c.t.Helper()
	got(c.t, c.open, "control channel")
	if err := c.control.SendText(`{"type":"perigee::meter","data":{}}`); err != nil {
		c.t.Fatal(err)
	}
	data := c.hears(typeResume).(map[string]any)
	return data["key"].(string)
}

// hears waits for a message of the control channel.
func (c *client) hears(typ string) any {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case m := <-c.messages:
			if m["type"] == typ {
				return m["data"]
			}
		case <-deadline:
			c.t.Fatalf("no %s within %s", typ, patience)
		}
	}
}

// again opens another websocket of the same ticket and asks for a restart.
func (c *client) again(id, key string) {
	c.t.Helper()
	r := c.rig
	c.mu.Lock()
	c.link = api.NewLink(api.Signal{Session: sessionID, Generation: 1, Viewer: id, Role: api.RoleControl})
	if err := c.link.Open(); err != nil {
		c.t.Error(err)
	}
	c.ready = false
	c.mu.Unlock()
	r.mu.Lock()
	r.links[id] = c.in
	r.mu.Unlock()
	c.say(map[string]any{"type": "perigee.restart", "key": key})
}

// gone shortens the time after which a viewer counts as not connected. That the
// real one lets five seconds pass and no ten is for the test with a browser.
const gone = 1500 * time.Millisecond

func goneSoon(c *Config, _ *api.Spec) { c.GoneAfter = gone }

// A short gap changes nothing: nobody is told, no connection is made anew.
func TestShortGapIsSurvived(t *testing.T) {
	t.Parallel()
	r := start(t, goneSoon)
	f := r.forward()
	c := r.join("1-abc")
	c.goBy(f)
	c.watch()
	got(t, c.open, "control channel")
	c.closeWebsocket()
	r.wait("state", func() bool { return r.last().Connected })
	cut(f, true)
	for end := time.Now().Add(gone * 6 / 10); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if s := r.last(); !s.Connected {
			t.Fatal("the session counts as not connected in a short gap")
		}
	}
	cut(f, false)
	opened := time.Now()
	c.picture("picture after the gap", func(s shown) bool { return s.at.After(opened) })
	t.Logf("pictures %s after the gap", time.Since(opened))
	if s := r.last(); !s.Connected || s.Viewer != 1 {
		t.Errorf("state after the gap: %+v", s)
	}
	if err := c.control.SendText(`{"type":"stream::disconnect","data":{}}`); err != nil {
		t.Fatal(err)
	}
	r.wait("goodbye by the channel of before", func() bool { return !r.last().Connected })
}

// knownWithin: ICE looks at its connections once a second.
const knownWithin = gone + 2*time.Second

func TestVanishedViewerIsKnown(t *testing.T) {
	t.Parallel()
	r := start(t, goneSoon)
	f := r.forward()
	c := r.join("1-abc")
	c.goBy(f)
	c.watch()
	got(t, c.open, "control channel")
	c.closeWebsocket()
	cut(f, true)
	lost := time.Now()
	r.wait("end of being connected", func() bool { s := r.last(); return !s.Connected && !s.Encoding })
	if took := time.Since(lost); took > knownWithin {
		t.Errorf("known after %s", took)
	}
}

// A way that is cut for good: guests are told, and the client comes back by
// another way with the connection that it had.
func TestVanishedViewerComesBack(t *testing.T) {
	t.Parallel()
	r := start(t, goneSoon)
	f := r.forward()
	c, guest := r.join("1-abc"), r.joinAs("g1-abc", api.RoleViewer)
	c.goBy(f)
	c.watch()
	guest.watch()
	key := c.resumeKey()
	got(t, guest.open, "control channel of the guest")
	if err := guest.control.SendText(`{"type":"perigee::meter","data":{}}`); err != nil {
		t.Fatal(err)
	}
	c.closeWebsocket()
	viewers := func(want float64) {
		t.Helper()
		for guest.hears(typeViewers).(map[string]any)["count"] != want {
		}
	}
	viewers(2)
	old, err := c.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil {
		t.Fatal(err)
	}
	cut(f, true)
	lost := time.Now()
	viewers(1)
	if took := time.Since(lost); took > knownWithin {
		t.Errorf("the guest was told after %s", took)
	}
	c.goBy(r.forward())
	asked := time.Now()
	c.again("1-def", key)
	c.picture("picture by the other way", func(s shown) bool { return s.at.After(asked) })
	viewers(2)
	t.Logf("pictures again %s after the restart was asked for", time.Since(asked))
	now, err := c.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil || now.Remote.Port == old.Remote.Port {
		t.Errorf("the way is %v, %v, before it was %v", now, err, old)
	}
	if err := c.control.SendText(`{"type":"stream::disconnect","data":{}}`); err != nil {
		t.Fatal(err)
	}
	viewers(1)
}

func TestRestartByAWrongKeyIsRefused(t *testing.T) {
	t.Parallel()
	r := start(t)
	c := r.join("1-abc")
	c.watch()
	key := c.resumeKey()
	thief := r.join("1-xyz")
	thief.say(map[string]any{"type": "perigee.restart", "key": key[1:]})
	r.wait("refusal", func() bool { return len(thief.said("error")) == 1 })
	was := time.Now()
	c.picture("picture of the first", func(s shown) bool { return s.at.After(was) })
	if s := r.last(); !s.Connected || s.Viewer != 1 {
		t.Errorf("state %+v", s)
	}
}

// When the node's public address changes, pages are told to restart, and are
// offered the new address then; their websockets have long closed.
func TestNewAddressReachesRunningStreams(t *testing.T) {
	t.Parallel()
	const before, after = "203.0.113.7", "203.0.113.8"
	r := start(t, func(c *Config, _ *api.Spec) { c.Advertise = []string{before} })
	c := r.join("1-abc")
	c.watch()
	key := c.resumeKey()
	c.closeWebsocket()
	if err := r.dir.Run().SetAddresses([]string{after}); err != nil {
		t.Fatal(err)
	}
	c.hears(typeRestart)
	m, err := r.dir.ReadMedia()
	if err != nil || !strings.Contains(fmt.Sprint(m.Candidates), after) || strings.Contains(fmt.Sprint(m.Candidates), before) {
		t.Errorf("media.json says %v, %v", m.Candidates, err)
	}
	c.mu.Lock()
	c.frames = nil
	c.mu.Unlock()
	c.again("1-def", key)
	r.wait("candidate of the new address", func() bool {
		for _, f := range c.said("candidate") {
			line := unb64(t, f["candidate"].(string))
			if strings.Contains(line, before) {
				t.Fatal("the old address is still offered")
			}
			if strings.Contains(line, after) {
				return true
			}
		}
		return false
	})
	r.wait("connection", func() bool { return c.pc.ConnectionState() == webrtc.PeerConnectionStateConnected })
	c.fresh("picture by the new way")
}

func unb64(t *testing.T, s string) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
