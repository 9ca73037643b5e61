package stream

import (
	"crypto/rand"
	"os"
	"slices"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/local"
)

// Messages of the control channel by which a page that takes part in the meter
// finds a new way to its stream, by a websocket of the same ticket. Canonical's SDK is sent none of them.
const (
	// typeResume tells a page the key of its connection: resumeTold. With it a
	// websocket of the same session asks for an ICE restart (rtc.TypeRestart).
	typeResume = "perigee::resume"
	// typeRestart has a page ask for a restart: the node's address has changed. The
	// offer itself cannot come this way, as a restart ends the way of before.
	typeRestart = "perigee::restart"
)

type resumeTold struct {
	Key string `json:"key"`
}

const (
	// awayMost is how long a viewer of whom nothing comes may still come back.
	awayMost = 20 * time.Second
	// seekLeast is how long a restart may take at least before its viewer counts as gone.
	seekLeast = 3 * time.Second
	// addressEvery is how often the node's addresses are looked at.
	addressEvery = 2 * time.Second
)

// tellKey gives a page what it needs to come back.
func (s *session) tellKey(v *viewer) {
	if v.peer == nil || v.over {
		return
	}
	if v.key == "" {
		v.key = rand.Text()
	}
	if err := v.peer.Tell(typeResume, resumeTold{v.key}); err != nil {
		s.log.Debug("page was not told its key", "viewer", v.id, "error", err)
	}
}

// resume gives the connection with a key the websocket of v, and restarts ICE on it.
func (s *session) resume(v *viewer, key string) error {
	if v.peer != nil {
		return api.Invalidf("restart", "is for a websocket that has no connection of its own")
	}
	var old *viewer
	for _, o := range s.viewers {
		if o != v && !o.over && o.key != "" && o.key == key && o.share == v.share {
			old = o
		}
	}
	if old == nil {
		return api.Errorf(api.CodeNotFound, "the connection has ended; connect again")
	}
	s.log.Info("viewer looks for a new way", "viewer", old.id, "websocket", v.id)
	s.adopt(old, v)
	if old.seeking.IsZero() {
		old.seeking = time.Now().Add(seekLeast)
		if last := old.peer.Heard().Add(s.cfg.GoneAfter); last.After(old.seeking) {
			old.seeking = last
		}
	}
	return old.peer.Restart()
}

// adopt moves a websocket's link to the connection that it belongs to.
func (s *session) adopt(old, fresh *viewer) {
	husk := &viewer{id: old.id, number: old.number, share: old.share, link: old.link, begun: old.begun, over: true}
	husk.gone.Store(true)
	husk.link.Close("the viewer goes on by another websocket")
	s.viewers[husk.id] = husk
	fresh.over = true // not in the books any more: its frames are old's
	fresh.gone.Store(true)
	old.id, old.number, old.link = fresh.id, max(old.number, fresh.number), fresh.link
	old.parted, old.deaf = time.Time{}, false
	s.viewers[old.id] = old
	if !old.guest() {
		s.admitted = max(s.admitted, old.number)
	}
}

// lost notes that nothing comes of a viewer any more. Its connection is kept for
// a while: it may come back by itself, or by a restart.
func (s *session) lost(v *viewer) {
	if !v.connected {
		return
	}
	s.log.Info("nothing comes of a viewer", "viewer", v.id)
	v.connected, v.away = false, time.Now()
	if v.active.Load() { // what it held it cannot let go
		s.gamepads.leave(v.first)
		if i := s.live.input.Load(); i != nil {
			i.Release(v.driver())
		}
	}
	if s.count() == 0 {
		s.enc.pause(true)
	}
	s.tellViewers()
}

// followAddresses has running streams use the node's new public addresses.
func (s *session) followAddresses(now time.Time) {
	if now.Sub(s.addressAt) < addressEvery {
		return
	}
	s.addressAt = now
	list := s.dir.Run().Addresses()
	if len(list) == 0 || slices.Equal(list, s.addresses) {
		return
	}
	s.addresses = list
	parsed, err := addresses(list)
	if err != nil {
		s.log.Warn("the node's new addresses are not used", "error", err)
		return
	}
	if !s.transport.SetAdvertise(parsed) {
		return
	}
	s.log.Info("the node's addresses changed", "addresses", list)
	if err := s.dir.WriteMedia(local.MediaState{PID: os.Getpid(), Candidates: s.transport.Candidates()}); err != nil {
		s.log.Warn("the relay does not learn the new addresses", "error", err)
	}
	for _, v := range s.viewers {
		if v.over || !v.listens || !v.connected {
			continue // others cannot negotiate again
		}
		if err := v.peer.Tell(typeRestart, struct{}{}); err != nil {
			s.log.Warn("viewer keeps its old way", "viewer", v.id, "error", err)
		}
	}
}
