package instance

import (
	"time"

	"github.com/jezek/xgb/xproto"
)

// pinged is a window that is asked whether it still answers (EWMH
// _NET_WM_PING): a client sends the message back from its event loop.
type pinged struct {
	window xproto.Window
	serial uint32
	since  time.Time // asked first; zero = it has answered
}

// ping asks the uppermost window, unless it has yet to answer or takes no pings.
func (w *windows) ping(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.shown) == 0 {
		w.asked = pinged{}
		return
	}
	top := w.shown[len(w.shown)-1].id
	if w.asked.window == top && !w.asked.since.IsZero() {
		return
	}
	if !w.takes(top, w.netPing) {
		w.asked = pinged{}
		return
	}
	w.asked = pinged{window: top, serial: w.asked.serial + 1, since: now}
	told := xproto.ClientMessageEvent{Format: 32, Window: top, Type: w.protocols,
		Data: xproto.ClientMessageDataUnionData32New([]uint32{uint32(w.netPing), w.asked.serial, uint32(top), 0, 0})}
	xproto.SendEvent(w.x, false, top, 0, string(told.Bytes()))
}

// answered takes a message that a client sent to the root window.
func (w *windows) answered(e xproto.ClientMessageEvent) {
	d := e.Data.Data32
	if e.Type == w.protocols && len(d) > 1 && d[0] == uint32(w.netPing) && d[1] == w.asked.serial {
		w.asked.since = time.Time{}
	}
}

// silent is how long the uppermost window has not answered.
func (w *windows) silent(now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asked.since.IsZero() {
		return 0
	}
	return now.Sub(w.asked.since)
}
