package input

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xfixes"
	"github.com/jezek/xgb/xproto"
)

// clipWait bounds each step of the other side of a transfer.
const clipWait = 5 * time.Second

// errClipClosed says that the connection to the display has ended.
var errClipClosed = errors.New("the display's clipboard is closed")

// ClipboardConfig of a Clipboard.
type ClipboardConfig struct {
	Display, XAuth string // as in Config
	// Copied takes what an application copied, on the clipboard's own goroutine;
	// nil = the applications' clipboard is not read.
	Copied func(Clip)
	Log    *slog.Logger
}

// Clipboard is a display's CLIPBOARD selection: it tells what applications copy
// and owns what a viewer brings. What a viewer brings is PRIMARY too, from
// which terminals paste.
type Clipboard struct {
	cfg  ClipboardConfig
	x    *xgb.Conn
	conn net.Conn // under x
	win  xproto.Window
	atom clipAtoms
	sets chan setting
	done chan struct{}

	// Of the loop alone.
	own     Clip                 // what a viewer brought
	owns    map[xproto.Atom]bool // the selections that are ours
	since   xproto.Timestamp
	last    Clip // that was told or brought: no echo of it
	reading *reading
	sending map[sendKey]*sending
	pending []setting // wait for a time stamp
}

type setting struct {
	clip Clip
	done chan error
}

// OpenClipboard connects to the display. The caller ends it with Close.
func OpenClipboard(ctx context.Context, cfg ClipboardConfig) (*Clipboard, error) {
	x, conn, err := dial(ctx, cfg.Display, cfg.XAuth)
	if err != nil {
		return nil, err
	}
	c := &Clipboard{cfg: cfg, x: x, conn: conn, sets: make(chan setting), done: make(chan struct{}),
		owns: map[xproto.Atom]bool{}, sending: map[sendKey]*sending{}}
	if err = c.begin(); err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open clipboard of X display %s: %w", cfg.Display, err)
	}
	events := make(chan xgb.Event, 64)
	go c.read(events)
	go c.loop(events)
	return c, nil
}

// begin makes the window that owns and asks.
func (c *Clipboard) begin() error {
	if err := c.atom.intern(c.x); err != nil {
		return err
	}
	if err := xfixes.Init(c.x); err != nil {
		return fmt.Errorf("extension XFIXES: %w", err)
	}
	if _, err := xfixes.QueryVersion(c.x, 5, 0).Reply(); err != nil { // it serves nobody before
		return fmt.Errorf("extension XFIXES: %w", err)
	}
	var err error
	if c.win, err = xproto.NewWindowId(c.x); err != nil {
		return fmt.Errorf("make window: %w", err)
	}
	root := xproto.Setup(c.x).DefaultScreen(c.x).Root
	if err := xproto.CreateWindowChecked(c.x, 0, c.win, root, -1, -1, 1, 1, 0, xproto.WindowClassInputOnly, 0,
		xproto.CwEventMask, []uint32{xproto.EventMaskPropertyChange}).Check(); err != nil {
		return fmt.Errorf("make window: %w", err)
	}
	if c.cfg.Copied == nil {
		return nil
	}
	if err := xfixes.SelectSelectionInputChecked(c.x, c.win, c.atom.clipboard, xfixes.SelectionEventMaskSetSelectionOwner).Check(); err != nil {
		return fmt.Errorf("watch clipboard: %w", err)
	}
	return nil
}

// Done is closed when the connection to the display has ended.
func (c *Clipboard) Done() <-chan struct{} { return c.done }

// Close ends the connection; what a viewer brought is gone with it.
func (c *Clipboard) Close() {
	_ = c.conn.Close() // x.Close would wait for the server, which may be stopped
	<-c.done
}

// Set makes a clip what applications paste. It returns when they can.
func (c *Clipboard) Set(ctx context.Context, clip Clip) error {
	if err := clip.Check(); err != nil {
		return err
	}
	s := setting{clip, make(chan error, 1)}
	select {
	case c.sets <- s:
	case <-c.done:
		return errClipClosed
	case <-ctx.Done():
		return fmt.Errorf("set clipboard: %w", ctx.Err())
	}
	select {
	case err := <-s.done:
		return err
	case <-c.done:
		return errClipClosed
	case <-ctx.Done():
		return fmt.Errorf("set clipboard: %w", ctx.Err())
	}
}

func (c *Clipboard) read(events chan<- xgb.Event) {
	defer close(events)
	for {
		ev, err := c.x.WaitForEvent()
		switch {
		case ev == nil && err == nil:
			return
		case err != nil:
			c.cfg.Log.Debug("X refused a request of the clipboard", "error", err) // the other window may be gone
		default:
			events <- ev
		}
	}
}

func (c *Clipboard) loop(events <-chan xgb.Event) {
	defer close(c.done)
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		var due <-chan time.Time
		if c.reading != nil || len(c.sending) > 0 { // nothing ticks while nothing is copied
			tick.Reset(clipWait / 4)
			due = tick.C
		}
		select {
		case ev, ok := <-events:
			if !ok {
				return
			}
			c.handle(ev)
		case s := <-c.sets:
			// A selection is taken with the server's time (ICCCM 2.1), which a
			// change of a property tells.
			c.pending = append(c.pending, s)
			xproto.ChangeProperty(c.x, xproto.PropModeAppend, c.win, c.atom.time, xproto.AtomInteger, 32, 0, nil)
		case now := <-due:
			c.expire(now)
		}
	}
}

func (c *Clipboard) handle(ev xgb.Event) {
	switch e := ev.(type) {
	case xfixes.SelectionNotifyEvent:
		if e.Selection == c.atom.clipboard && e.Owner != c.win {
			c.reading = nil
			if e.Owner != xproto.WindowNone {
				c.ask(e.SelectionTimestamp)
			}
		}
	case xproto.SelectionNotifyEvent:
		c.answered(e)
	case xproto.SelectionClearEvent:
		delete(c.owns, e.Selection)
	case xproto.SelectionRequestEvent:
		c.requested(e)
	case xproto.PropertyNotifyEvent:
		switch {
		case e.Window == c.win && e.Atom == c.atom.time && e.State == xproto.PropertyNewValue:
			c.take(e.Time)
		case e.Window == c.win && e.Atom == c.atom.data && e.State == xproto.PropertyNewValue:
			c.more()
		case e.State == xproto.PropertyDelete:
			c.next(sendKey{e.Window, e.Atom})
		}
	}
}

// take makes what was brought last ours to give.
func (c *Clipboard) take(at xproto.Timestamp) {
	if len(c.pending) == 0 {
		return
	}
	s := c.pending[0]
	c.pending = c.pending[1:]
	c.own, c.last, c.since, c.reading = s.clip, s.clip, at, nil
	for _, sel := range []xproto.Atom{c.atom.clipboard, xproto.AtomPrimary} {
		xproto.SetSelectionOwner(c.x, c.win, sel, at)
		c.owns[sel] = true
	}
	owner, err := xproto.GetSelectionOwner(c.x, c.atom.clipboard).Reply()
	switch {
	case err != nil:
		s.done <- fmt.Errorf("own clipboard: %w", err)
	case owner.Owner != c.win:
		s.done <- errors.New("an application took the clipboard at once")
	default:
		s.done <- nil
	}
}

// expire gives up transfers whose other side stands still.
func (c *Clipboard) expire(now time.Time) {
	if c.reading != nil && now.Sub(c.reading.at) > clipWait {
		c.cfg.Log.Debug("the application does not give what it copied")
		c.reading = nil
	}
	for k, s := range c.sending {
		if now.Sub(s.at) > clipWait {
			delete(c.sending, k)
		}
	}
}
