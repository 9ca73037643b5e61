package stream

import (
	"context"
	"encoding/json"
	"net"
	"sync"
	"time"

	"github.com/perigee-cloud/perigee/api"
	"github.com/perigee-cloud/perigee/edge/gamepad"
)

// Types of message of gamepads: the wire contract's two, and ours that says
// whether one is there. Without it one appears with its first event.
const (
	typePadButton = "input::gamepad-button"
	typePadAxes   = "input::gamepad-axes"
	typePad       = "perigee::gamepad"
)

const (
	padRetry = time.Second
	padMost  = time.Second // for the shim to take an event
	maxPadID = 63          // of a browser's gamepad
)

// gamepads joins the pages' gamepads to the instance's slots, in the order in
// which they appear.
type gamepads struct {
	mu    sync.Mutex // guards the fields below
	conn  net.Conn   // to the shim; nil = none
	why   string     // there is none
	slots [gamepad.Slots]padOwner
}

// padOwner is whose gamepad a slot holds; none = "".
type padOwner struct {
	viewer string
	id     int
}

// padMessage holds the fields of every type. Perigee's own page tells how far a
// button is pressed.
type padMessage struct {
	ID      int     `json:"id"`
	Index   int     `json:"index"`
	Pressed bool    `json:"pressed"`
	Value   float64 `json:"value"`
	Plugged bool    `json:"plugged"`
	Perigee *struct {
		Value float64 `json:"value"`
	} `json:"perigee"`
}

// keepGamepads keeps a connection to the instance's gamepads.
func (s *session) keepGamepads(ctx context.Context) {
	for ctx.Err() == nil {
		c, err := s.dir.DialPads(ctx)
		if err == nil {
			s.gamepads.use(c, "")
			s.post(s.tellAllExchange)
			gone := make(chan struct{})
			go func() { // the shim says nothing: this is its end
				defer close(gone)
				_, _ = c.Read(make([]byte, 1))
			}()
			select {
			case <-gone:
			case <-ctx.Done():
			}
			s.gamepads.use(nil, "the instance ends")
			_ = c.Close()
			<-gone
		} else if s.gamepads.use(nil, err.Error()) {
			s.log.Info("no gamepads", "reason", err)
			s.post(s.tellAllExchange)
		}
		select {
		case <-ctx.Done():
		case <-time.After(padRetry):
		}
	}
}

// use takes another connection and says whether the reason for none is new.
func (g *gamepads) use(c net.Conn, why string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	fresh := g.why != why
	g.conn, g.why, g.slots = c, why, [gamepad.Slots]padOwner{}
	return fresh
}

// there says how many slots there are, and why there are none.
func (g *gamepads) there() (slots int, why string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn == nil {
		return 0, g.why
	}
	return gamepad.Slots, ""
}

// handle takes one message of the control channel; false = it is none of a
// gamepad, or does nothing.
func (g *gamepads) handle(viewer, typ string, data []byte) (bool, error) {
	if typ != typePadButton && typ != typePadAxes && typ != typePad {
		return false, nil
	}
	var m padMessage
	if err := json.Unmarshal(data, &m); err != nil || m.ID < 0 || m.ID > maxPadID || m.Index < 0 || m.Index > 255 {
		return false, api.Invalidf(typ, "not understood: %s", data)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn == nil {
		return false, nil
	}
	slot, ok := g.slot(padOwner{viewer, m.ID}, typ != typePad || m.Plugged)
	if !ok {
		return false, nil // all are taken, or it was none
	}
	e := gamepad.Event{Slot: slot, Index: m.Index}
	switch typ {
	case typePad:
		if e.Kind = gamepad.Plug; !m.Plugged {
			e.Kind = gamepad.Unplug
			g.slots[slot] = padOwner{}
		}
	case typePadAxes:
		e.Kind, e.Value = gamepad.Axis, gamepad.Tilt(m.Value)
	default:
		e.Kind = gamepad.Button
		if m.Pressed {
			e.Value = gamepad.Pressure(1)
		}
		if m.Perigee != nil {
			e.Value = gamepad.Pressure(m.Perigee.Value)
		}
	}
	g.send(e)
	return true, nil
}

// slot finds a gamepad's slot, or gives it the first free one; mu is held.
func (g *gamepads) slot(of padOwner, take bool) (int, bool) {
	free := -1
	for i, o := range g.slots {
		if o == of {
			return i, true
		}
		if o.viewer == "" && free < 0 {
			free = i
		}
	}
	if !take || free < 0 {
		return 0, false
	}
	g.slots[free] = of
	return free, true
}

// send has the shim do it. One that takes nothing loses the connection, and the
// gamepads with it; mu is held.
func (g *gamepads) send(e gamepad.Event) {
	_ = g.conn.SetWriteDeadline(time.Now().Add(padMost))
	if _, err := g.conn.Write(e.Append(nil)); err != nil {
		_ = g.conn.Close() // its reader ends it
	}
}

// leave unplugs what a viewer had.
func (g *gamepads) leave(viewer string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, o := range g.slots {
		if o.viewer == viewer && g.conn != nil {
			g.slots[i] = padOwner{}
			g.send(gamepad.Event{Slot: i, Kind: gamepad.Unplug})
		}
	}
}

// tellAllExchange tells every page what it may exchange now.
func (s *session) tellAllExchange() {
	for _, v := range s.viewers {
		s.tellExchange(v)
	}
}
