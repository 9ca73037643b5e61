package stream

import (
	"context"
	"slices"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/media"
	"github.com/perigee-cloud/perigee/media/input"
)

// typeViewers tells a page who watches and what it may do itself: seatTold. It
// is sent to pages that take part in the meter, and on every change.
const typeViewers = "perigee::viewers"

type seatTold struct {
	Count int               `json:"count"` // that are connected
	Role  api.Role          `json:"role"`
	May   []api.ViewerRight `json:"may"` // what its seat holds
}

// guest says whether the viewer came by a share.
func (v *viewer) guest() bool { return v.share > 0 }

// driver names the viewer to the display: keys are held by each for itself.
func (v *viewer) driver() input.Driver { return input.Driver(v.first) }

// watched says whether anybody has a connection whose codec is agreed.
func (s *session) watched() bool {
	for _, v := range s.viewers {
		if v.peer != nil && !v.over && v.codec != "" {
			return true
		}
	}
	return false
}

// client says whether somebody is there for whom the session goes on: its own
// client, and guests where the application says that they count.
func (s *session) client() bool {
	if s.spec.App.Idle.Guests && s.count() > 0 {
		return true
	}
	return s.current != nil && s.current.connected && !s.current.over
}

// count is how many viewers are connected.
func (s *session) count() int {
	n := 0
	for _, v := range s.viewers {
		if v.connected && !v.over {
			n++
		}
	}
	return n
}

// setShares cuts off the guests whose share is there no more.
func (s *session) setShares(l api.ShareList) {
	if l.Edit < s.shares.Edit {
		return // an older daemon's
	}
	s.shares = l
	for _, v := range s.viewers {
		if v.guest() && !l.Admits(v.share) {
			s.log.Info("share was revoked", "viewer", v.id)
			s.dismiss(v, "the share was revoked")
		}
	}
}

// codecs gives what a viewer is offered. All share one encode: while others
// watch, the codec stays where the client takes it, and a guest has no other.
func (s *session) codecs(v *viewer, preferred []api.Codec) []api.Codec {
	if s.codec == "" || !s.watched() {
		return preferred
	}
	if v.guest() {
		return []api.Codec{s.codec}
	}
	return append([]api.Codec{s.codec}, slices.DeleteFunc(slices.Clone(preferred), func(c api.Codec) bool { return c == s.codec })...)
}

// agreed has the encode process work in the agreed codec while the connection
// still comes up. Guests that were given another are cut: nothing can be
// agreed anew once a websocket has closed.
func (s *session) agreed(v *viewer, c api.Codec) {
	if v.guest() && s.codec != c && s.watched() {
		s.refuse(v, "the session streams in "+string(s.codec)+", which this browser does not take")
		return
	}
	v.codec = c
	for _, other := range s.viewers {
		if other != v && !other.over && other.codec != "" && other.codec != c {
			s.dismiss(other, "the session now streams in "+string(c))
		}
	}
	s.codec = c
	s.see()
	s.configure()
	s.enc.pause(false)
}

// see notes whether anybody wants a picture.
func (s *session) see() {
	blind, any := true, false
	for _, v := range s.viewers {
		if v.peer != nil && !v.over {
			any = true
			blind = blind && v.blind
		}
	}
	if any {
		s.blind = blind
	}
}

// carries follows the bitrate that the way to the session's own client carries;
// without one, that of the best guest.
func (s *session) carries(v *viewer, kbps int) {
	v.kbps = kbps
	if v.feed != nil {
		v.feed.rate.Store(int64(kbps))
	}
	if c := s.current; c != nil && c.kbps > 0 {
		kbps = c.kbps
	} else {
		for _, o := range s.viewers {
			if !o.over {
				kbps = max(kbps, o.kbps)
			}
		}
	}
	if kbps != s.kbps {
		s.kbps = kbps
		s.encodeAt(kbps)
	}
}

// admitGuest starts the frames to a guest.
func (s *session) admitGuest(v *viewer) {
	v.feed = newFeed(v.peer, s.keys.soon)
	ctx, cancel := context.WithCancel(s.ctx)
	v.stopFeed = cancel
	f := v.feed
	s.wg.Go(func() { f.run(ctx) })
	s.live.add(f)
}

// tellViewers tells every page who watches.
func (s *session) tellViewers() {
	for _, v := range s.viewers {
		s.tellSeat(v)
	}
}

func (s *session) tellSeat(v *viewer) {
	if v.peer == nil || v.over || !v.listens {
		return
	}
	told := seatTold{Count: s.count(), Role: api.RoleControl, May: []api.ViewerRight{}}
	if v.seat.Role == api.RoleViewer {
		told.Role = api.RoleViewer
	}
	for _, r := range api.ViewerRights() {
		if v.seat.May(r) {
			told.May = append(told.May, r)
		}
	}
	if err := v.peer.Tell(typeViewers, told); err != nil {
		s.log.Debug("page was not told of the viewers", "viewer", v.id, "error", err)
	}
}

// add takes in a guest's feed.
func (l *live) add(f *feed) {
	for {
		old := l.feeds.Load()
		var list []*feed
		if old != nil {
			list = slices.Clone(*old)
		}
		list = append(list, f)
		if l.feeds.CompareAndSwap(old, &list) {
			return
		}
	}
}

// remove lets a guest's feed go.
func (l *live) remove(f *feed) {
	for {
		old := l.feeds.Load()
		if old == nil {
			return
		}
		list := slices.DeleteFunc(slices.Clone(*old), func(x *feed) bool { return x == f })
		if l.feeds.CompareAndSwap(old, &list) {
			return
		}
	}
}

// fan gives a frame to the guests; its data is copied once for all of them.
func (l *live) fan(f media.Frame) {
	feeds := l.feeds.Load()
	if feeds == nil || len(*feeds) == 0 {
		return
	}
	f.Data = slices.Clone(f.Data)
	for _, g := range *feeds {
		g.push(f)
	}
}
