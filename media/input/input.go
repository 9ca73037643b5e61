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
	keys          map[byte]bool // held, by X key code
	buttons       map[byte]bool // held, by X button
	touching      bool          // a touch drives the pointer
	touch         int           // its id
	spare         *spare        // keys for text
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
		keys: map[byte]bool{}, buttons: map[byte]bool{}}
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

// Handle injects one message of the control channel and says whether it did
// anything; messages that are no input, or none we know, do nothing. An error
// says that the message's data is malformed.
func (i *Injector) Handle(typ string, data []byte) (bool, error) {
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
	switch typ {
	case typeMove:
		return i.move(m), nil
	case typeButton:
		return i.button(m), nil
	case typeWheel:
		return i.wheel(m), nil
	case typeKey:
		return i.key(m), nil
	default:
		return i.touched(typ, m), nil
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

func (i *Injector) button(m message) bool {
	b, ok := wireButton(m.Button)
	return ok && i.hold(b, m.Pressed)
}

// hold presses or releases a button, once.
func (i *Injector) hold(b byte, pressed bool) bool {
	if i.buttons[b] == pressed {
		return false
	}
	if pressed {
		i.buttons[b] = true
		i.fake(buttonPress, b, 0, 0)
	} else {
		delete(i.buttons, b)
		i.fake(buttonRelease, b, 0, 0)
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
func (i *Injector) key(m message) bool {
	k, ok := keycode(m.Code)
	if !ok || i.keys[k] == m.Pressed {
		return false
	}
	if m.Pressed {
		i.keys[k] = true
		i.fake(keyPress, k, 0, 0)
	} else {
		delete(i.keys, k)
		i.fake(keyRelease, k, 0, 0)
	}
	return true
}

// touched lets the first finger drive the pointer with its left button.
func (i *Injector) touched(typ string, m message) bool {
	switch typ {
	case typeTouchStart:
		if i.touching || m.X == nil || m.Y == nil {
			return false
		}
		i.touching, i.touch = true, m.ID
		i.moveTo(*m.X, *m.Y)
		i.hold(left, true)
	case typeTouchMove:
		if !i.touching || m.ID != i.touch || m.X == nil || m.Y == nil {
			return false
		}
		i.moveTo(*m.X, *m.Y)
	case typeTouchEnd:
		if !i.touching || m.ID != i.touch {
			return false
		}
		i.touching = false
		i.hold(left, false)
	}
	return true
}

// ReleaseAll lets go of every key and button: their viewer has left.
func (i *Injector) ReleaseAll() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for k := range i.keys {
		i.fake(keyRelease, k, 0, 0)
	}
	for b := range i.buttons {
		i.fake(buttonRelease, b, 0, 0)
	}
	clear(i.keys)
	clear(i.buttons)
	i.touching = false
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
