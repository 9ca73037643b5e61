package stream

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jezek/xgb/xproto"
	"github.com/pion/webrtc/v4"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
	"github.com/perigee-cloud/perigee/media"
)

// told collects what a page hears of the viewers.
func (c *client) told() *atomic.Pointer[seatTold] {
	var last atomic.Pointer[seatTold]
	c.control.OnMessage(func(m webrtc.DataChannelMessage) {
		var f struct {
			Type string
			Data seatTold
		}
		if json.Unmarshal(m.Data, &f) == nil && f.Type == typeViewers {
			last.Store(&f.Data)
		}
	})
	return &last
}

// fresh waits for a picture that came from now on.
func (c *client) fresh(what string) shown {
	c.t.Helper()
	from := time.Now().Add(20 * time.Millisecond)
	return c.picture(what, func(s shown) bool { return s.at.After(from) })
}

func TestGuestsWatchBesideTheClient(t *testing.T) {
	r, eye, root := watched(t)
	at := func() int16 {
		p, err := xproto.QueryPointer(eye, root).Reply()
		if err != nil {
			t.Fatal(err)
		}
		return p.RootX
	}
	owner := r.join("1-abc")
	ownerTold := owner.told()
	owner.watch()
	got(t, owner.open, "control channel")
	say := func(c *client, text string) {
		t.Helper()
		if err := c.control.SendText(text); err != nil {
			t.Fatal(err)
		}
	}
	say(owner, `{"type":"perigee::meter","data":{}}`)
	watcher := r.joinAs("g1-abc", api.RoleViewer)
	watcherTold := watcher.told()
	watcher.watch()
	got(t, watcher.open, "control channel")
	say(watcher, `{"type":"perigee::meter","data":{}}`)
	helper := r.join("g2-abc")
	helper.watch()
	got(t, helper.open, "control channel")

	one := owner.fresh("picture of the owner").pid
	for name, c := range map[string]*client{"watcher": watcher, "helper": helper} {
		if pid := c.fresh("picture of the " + name).pid; pid != one {
			t.Errorf("the %s watches another encode", name)
		}
	}
	r.wait("count of three", func() bool {
		o, w := ownerTold.Load(), watcherTold.Load()
		return o != nil && w != nil && o.Count == 3 && w.Count == 3 && o.Role == api.RoleControl && len(o.May) > 0 &&
			w.Role == api.RoleViewer && len(w.May) == 0
	})

	r.wait("pointer of the helper", func() bool {
		say(helper, `{"type":"input::mouse-move","data":{"x":77,"y":1}}`)
		return at() == 77
	})
	say(watcher, `{"type":"input::mouse-move","data":{"x":5,"y":1}}`)
	time.Sleep(100 * time.Millisecond) // nothing must happen
	if x := at(); x != 77 {
		t.Errorf("who only watches moved the pointer to %d", x)
	}

	// The owner takes the helper's share back.
	if err := r.daemon.Send(local.Message{Kind: local.KindShares, Shares: &api.ShareList{Edit: 3, Last: 2, Open: []uint32{1}}}); err != nil {
		t.Fatal(err)
	}
	got(t, helper.gone, "end of the revoked guest")
	r.wait("count of two", func() bool { return ownerTold.Load().Count == 2 })
	late := r.join("g2-def")
	r.wait("refusal of a revoked share", func() bool { _, closed := late.closedBy(); return closed })

	// The owner comes again: guests stay, and see on.
	next := r.join("2-abc")
	next.watch()
	got(t, owner.gone, "cut of the first client")
	watcher.fresh("picture after the owner came again")
	next.leave()
	r.wait("a session that only a guest watches", func() bool { s := r.last(); return !s.Connected && s.Viewer == 0 && s.Encoding })
	watcher.fresh("picture after the owner left")
	say(watcher, `{"type":"stream::disconnect","data":{}}`)
	r.wait("end of the last connection", func() bool { s := r.last(); return !s.Connected && !s.Encoding })
}

// A session goes on for guests alone where its application says so.
func TestGuestsKeepASession(t *testing.T) {
	r := start(t, func(_ *Config, s *api.Spec) { s.App.Idle.Guests = true })
	owner := r.join("1-abc")
	owner.watch()
	guest := r.joinAs("g1-abc", api.RoleViewer)
	guest.watch()
	owner.leave()
	r.wait("a session that only a guest watches", func() bool { s := r.last(); return s.Viewer == 0 && s.Connected })
	guest.leave()
	r.wait("a session that nobody watches", func() bool { return !r.last().Connected })
}

// A guest with the right has data channels of its own, beside the client's of
// the same name; one without has none.
func TestGuestsDataChannels(t *testing.T) {
	r := start(t)
	open := func(c *client) (opened, closed chan struct{}) {
		t.Helper()
		dc, err := c.pc.CreateDataChannel("game", nil)
		if err != nil {
			t.Fatal(err)
		}
		opened, closed = make(chan struct{}), make(chan struct{})
		dc.OnOpen(func() { _ = dc.SendText("from " + c.id); close(opened) })
		dc.OnClose(func() { close(closed) })
		c.settings(map[string]any{"data_channels": []string{"game"}})
		return opened, closed
	}
	says := func(name string) string {
		t.Helper()
		var app net.Conn
		r.wait("socket "+name, func() bool {
			var err error
			app, err = dialLong(filepath.Join(r.dir.Shared(), "data", "webrtc_data_"+name))
			return err == nil
		})
		defer func() { _ = app.Close() }()
		_ = app.SetDeadline(time.Now().Add(patience))
		buf := make([]byte, 64)
		n, err := app.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	owner := r.join("1-abc")
	opened, _ := open(owner)
	got(t, opened, "the owner's channel")
	guest := r.join("g1-abc")
	opened, _ = open(guest)
	got(t, opened, "the guest's channel")
	for name, want := range map[string]string{"game": "from 1-abc", "game@g1-abc": "from g1-abc"} {
		if got := says(name); got != want {
			t.Errorf("%s says %q", name, got)
		}
	}
	watcher := r.joinAs("g2-abc", api.RoleViewer)
	_, closed := open(watcher)
	got(t, closed, "end of the channel of who only watches")
}

func TestGuestHasTheSessionsCodec(t *testing.T) {
	r := start(t, func(_ *Config, s *api.Spec) { s.Codecs = []api.Codec{api.VP8, api.H264} })
	owner := r.join("1-abc")
	owner.watch()
	guest := r.join("g1-abc")
	guest.settings(map[string]any{"video": map[string]any{"preferred_decoder_codecs": []string{"H264"}}})
	guest.fresh("picture of a guest who prefers another codec")
	owner.fresh("picture of the owner")
	if c := r.last().Codec; c != api.VP8 {
		t.Errorf("the session streams in %s", c)
	}
}

// A guest whose way carries a fraction of the stream gets keyframes and what
// follows them as far as it fits; what waits for it is bounded.
func TestSlowGuestIsThinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keys, sent, bytes int
		var want atomic.Bool
		want.Store(true)
		f := newFeed(nil, func() { keys++; want.Store(true) })
		lastKey, broken := -1, false
		f.send = func(x media.Frame) {
			sent++
			bytes += len(x.Data)
			n := int(x.PTS)
			if x.Key {
				lastKey = n
			} else if n != lastKey+1 {
				broken = true
			} else {
				lastKey = n
			}
		}
		f.rate.Store(1000)
		done := make(chan struct{})
		ctx, stop := context.WithCancel(t.Context())
		go func() { f.run(ctx); close(done) }()
		const seconds, perSecond = 20, 60
		most := 0
		for i := range seconds * perSecond { // 4.8 Mb/s
			size := 10_000
			key := want.Swap(false)
			if key {
				size = 40_000
			}
			f.push(media.Frame{Kind: media.Video, Key: key, PTS: time.Duration(i), Data: make([]byte, size)})
			f.mu.Lock()
			most = max(most, f.bytes)
			f.mu.Unlock()
			time.Sleep(time.Second / perSecond)
		}
		stop()
		<-done
		kbps := bytes * 8 / 1000 / seconds
		if broken {
			t.Error("a picture was sent without the one before")
		}
		if kbps > 1400 || kbps < 300 {
			t.Errorf("%d kb/s were sent over a way of 1000", kbps)
		}
		if keys < 4 || keys > seconds/2+1 {
			t.Errorf("%d keyframes were asked for in %d s", keys, seconds)
		}
		if most > feedBytes+40_000 {
			t.Errorf("%d bytes waited", most)
		}
		if sent < 20 {
			t.Errorf("%d pictures were sent", sent)
		}
	})
}

// One whose way carries the stream gets all of it, without a wait.
func TestFastGuestGetsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFeed(nil, func() { t.Error("a keyframe was asked for") })
		var sent int
		var late time.Duration
		begun := time.Now()
		f.send = func(x media.Frame) { sent++; late = max(late, time.Since(begun)-x.PTS) }
		f.rate.Store(6000)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { f.run(ctx); close(done) }()
		for i := range 300 {
			size := 9_000
			if i == 0 {
				size = 60_000
			}
			f.push(media.Frame{Kind: media.Video, Key: i == 0, PTS: time.Since(begun), Data: make([]byte, size)})
			time.Sleep(time.Second / 60)
		}
		stop()
		<-done
		if sent != 300 || late > 20*time.Millisecond {
			t.Errorf("%d of 300 pictures were sent, up to %s late", sent, late)
		}
	})
}

func TestKeyframesForGuestsAreThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		k := keys{ask: func() { n.Add(1) }}
		for range 100 {
			k.soon()
			time.Sleep(25 * time.Millisecond)
		}
		if n.Load() != 3 {
			t.Errorf("%d keyframes in 2.5 s", n.Load())
		}
		k.now()
		if n.Load() != 4 {
			t.Error("the client's own was held back")
		}
		time.Sleep(2 * time.Second)
	})
}
