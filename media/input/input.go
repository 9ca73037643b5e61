// Package input puts a viewer's input into an X display through XTest: the
// wire contract's pointer, wheel, key, text and touch messages. It is pure Go.
package input

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
	"github.com/jezek/xgb/xtest"

	"github.com/perigee-cloud/perigee/api"
)

// Types of input message.
const (
	typeMove       = "input::mouse-move"
	typeButton     = "input::mouse-button"
	typeWheel      = "input::mouse-wheel"
	typeKey        = "input::key"
	typeTouchStart = "input::touch-start"
	typeTouchMove  = "input::touch-move"
	typeTouchEnd   = "input::touch-end"
)

// X's event types, as XTest wants them, and its buttons.
const (
	keyPress, keyRelease       = 2, 3
	buttonPress, buttonRelease = 4, 5
	motion                     = 6
	absolute, relative         = 0, 1

	left                   = 1
	wheelUp, wheelDown     = 4, 5
	wheelLeft, wheelRight  = 6, 7
	backButton, nextButton = 8, 9
	maxWheel               = 8 // notches of one message
)

// Config of an Injector.
type Config struct {
	Display, XAuth string // as in media.Configure
	// Width and Height of the picture in pixels: what coordinates refer to.
	Width, Height int
	Log           *slog.Logger
}

// Injector drives one display. Its methods may be called from many goroutines.
type Injector struct {
	x    *xgb.Conn
	conn net.Conn // under x
	root xproto.Window
	log  *slog.Logger
	done chan struct{}

	mu            sync.Mutex
	width, height int
	drivers       map[Driver]*held
	keys          map[byte]int // by how many drivers each X key code is held
	buttons       map[byte]int // the same of X's buttons
	spare         *spare       // keys for text
}

// Driver names one of those who drive a display: what one of them holds is let
// go of when that one leaves, and no other's.
type Driver string

// held is what one driver holds.
type held struct {
	keys     map[byte]bool // X key codes
	buttons  map[byte]bool // X buttons
	touching bool          // a touch drives the pointer
	touch    int           // its id
}

// errNoSpare says that every key of the keyboard has a symbol.
var errNoSpare = errors.New("the keyboard has no key to spare")

// Open connects to the display. The caller ends it with Close.
func Open(ctx context.Context, cfg Config) (*Injector, error) {
	x, c, err := connect(ctx, cfg.Display, cfg.XAuth)
	if err != nil {
		return nil, err
	}
	spare, err := newSpare(x)
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("open X display %s for input: %w", cfg.Display, err)
	}
	i := &Injector{x: x, spare: spare, conn: c, root: xproto.Setup(x).DefaultScreen(x).Root, log: cfg.Log, done: make(chan struct{}), width: cfg.Width, height: cfg.Height,
		drivers: map[Driver]*held{}, keys: map[byte]int{}, buttons: map[byte]int{}}
	go i.drain()
	return i, nil
}

// drain takes the server's answers, which are errors only, until it goes.
func (i *Injector) drain() {
	defer close(i.done)
	for {
		ev, err := i.x.WaitForEvent()
		if ev == nil && err == nil {
			return
		}
		if err != nil {
			i.log.Debug("X refused an input", "error", err)
		}
	}
}

// Done is closed when the connection to the display has ended.
func (i *Injector) Done() <-chan struct{} { return i.done }

// Close ends the connection.
func (i *Injector) Close() {
	_ = i.conn.Close() // x.Close would wait for the server, which may be stopped
	<-i.done
}

// Resize says that the picture has another size.
func (i *Injector) Resize(width, height int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.width, i.height = width, height
}

// message holds the fields of every type; what is absent stays nil.
type message struct {
	X       *float64 `json:"x"`
	Y       *float64 `json:"y"`
	RX      float64  `json:"rx"`
	RY      float64  `json:"ry"`
	ID      int      `json:"id"`
	Button  int      `json:"button"`
	Code    int      `json:"code"`
	Pressed bool     `json:"pressed"`
}

// Handle injects one message of a driver's control channel and says whether it
// did anything; messages that are no input, or none we know, do nothing. An error
// says that the message's data is malformed.
func (i *Injector) Handle(by Driver, typ string, data []byte) (bool, error) {
	switch typ {
	case typeMove, typeButton, typeWheel, typeKey, typeTouchStart, typeTouchMove, typeTouchEnd, typeText:
	default:
		return false, nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if typ == typeText {
		return i.ime(data)
	}
	var m message
	if err := json.Unmarshal(data, &m); err != nil {
		return false, api.Invalidf(typ, "%v", err)
	}
	d := i.drivers[by]
	if d == nil {
		d = &held{keys: map[byte]bool{}, buttons: map[byte]bool{}}
		i.drivers[by] = d
	}
	switch typ {
	case typeMove:
		return i.move(m), nil
	case typeButton:
		return i.button(d, m), nil
	case typeWheel:
		return i.wheel(m), nil
	case typeKey:
		return i.key(d, m), nil
	default:
		return i.touched(d, typ, m), nil
	}
}

// move is absolute when the message has a position, else relative (the pointer
// is locked).
func (i *Injector) move(m message) bool {
	if m.X != nil && m.Y != nil {
		i.moveTo(*m.X, *m.Y)
		return true
	}
	dx, dy := clampInt(m.RX, i.width), clampInt(m.RY, i.height)
	if dx == 0 && dy == 0 {
		return false
	}
	i.fake(motion, relative, dx, dy)
	return true
}

func (i *Injector) moveTo(x, y float64) {
	i.fake(motion, absolute, within(x, i.width), within(y, i.height))
}

// within puts a coordinate on the screen.
func within(v float64, size int) int16 {
	return int16(min(max(math.Floor(v), 0), float64(max(size, 1)-1)))
}

// clampInt bounds a movement to the size of the screen.
func clampInt(v float64, size int) int16 {
	return int16(min(max(math.Trunc(v), -float64(size)), float64(size)))
}

// wireButton gives X's button of the wire's: 4 and 5 are a mouse's side
// buttons, while X counts the wheel between.
func wireButton(n int) (byte, bool) {
	switch n {
	case 1, 2, 3:
		return byte(n), true
	case 4:
		return backButton, true
	case 5:
		return nextButton, true
	}
	return 0, false
}

func (i *Injector) button(d *held, m message) bool {
	b, ok := wireButton(m.Button)
	return ok && i.hold(d, b, m.Pressed)
}

// hold presses or releases a button for a driver.
func (i *Injector) hold(d *held, b byte, pressed bool) bool {
	return i.change(d.buttons, i.buttons, b, pressed, buttonPress, buttonRelease)
}

// change is the first press or last release of a key or button: while others
// hold it, it stays down.
func (i *Injector) change(own map[byte]bool, all map[byte]int, b byte, pressed bool, press, release byte) bool {
	if own[b] == pressed {
		return false
	}
	if pressed {
		own[b] = true
		if all[b]++; all[b] == 1 {
			i.fake(press, b, 0, 0)
		}
		return true
	}
	delete(own, b)
	if all[b]--; all[b] == 0 {
		delete(all, b)
		i.fake(release, b, 0, 0)
	}
	return true
}

// wheel turns notches into presses of X's wheel buttons. The wire's sign is the
// reverse of the browser's: y of 1 scrolls up.
func (i *Injector) wheel(m message) bool {
	turn := func(v *float64, plus, minus byte) bool {
		if v == nil || *v == 0 {
			return false
		}
		b := plus
		if *v < 0 {
			b = minus
		}
		for range int(min(max(math.Abs(*v), 1), maxWheel)) {
			i.fake(buttonPress, b, 0, 0)
			i.fake(buttonRelease, b, 0, 0)
		}
		return true
	}
	vertical := turn(m.Y, wheelUp, wheelDown)
	return turn(m.X, wheelLeft, wheelRight) || vertical
}

// key presses or releases a key; the browser's repeats of a held key are left
// to X, which repeats by itself.
func (i *Injector) key(d *held, m message) bool {
	k, ok := keycode(m.Code)
	return ok && i.change(d.keys, i.keys, k, m.Pressed, keyPress, keyRelease)
}

// touched lets a driver's first finger drive the pointer with its left button.
func (i *Injector) touched(d *held, typ string, m message) bool {
	switch typ {
	case typeTouchStart:
		if d.touching || m.X == nil || m.Y == nil {
			return false
		}
		d.touching, d.touch = true, m.ID
		i.moveTo(*m.X, *m.Y)
		i.hold(d, left, true)
	case typeTouchMove:
		if !d.touching || m.ID != d.touch || m.X == nil || m.Y == nil {
			return false
		}
		i.moveTo(*m.X, *m.Y)
	case typeTouchEnd:
		if !d.touching || m.ID != d.touch {
			return false
		}
		d.touching = false
		i.hold(d, left, false)
	}
	return true
}

// Release lets go of every key and button that a driver holds: it has left.
func (i *Injector) Release(by Driver) {
	i.mu.Lock()
	defer i.mu.Unlock()
	d := i.drivers[by]
	if d == nil {
		return
	}
	delete(i.drivers, by)
	for k := range d.keys {
		i.change(d.keys, i.keys, k, false, keyPress, keyRelease)
	}
	for b := range d.buttons {
		i.hold(d, b, false)
	}
}

func (i *Injector) fake(event, detail byte, x, y int16) {
	xtest.FakeInput(i.x, event, detail, xproto.TimeCurrentTime, i.root, x, y, 0)
}

// Sync waits until the server has taken everything injected before.
func (i *Injector) Sync() error {
	if _, err := xproto.GetInputFocus(i.x).Reply(); err != nil {
		return fmt.Errorf("wait for X server: %w", err)
	}
	return nil
}
