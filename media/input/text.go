package input

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"github.com/perigee-cloud/perigee/api"
)

// typeText is text that an input method, a dead key or an on-screen keyboard
// made: the wire contract's ime-event.
const typeText = "input::ime-event"

// Kinds of ime-event. What is still being composed is shown by the page alone.
const (
	imeText    = 1 // data: text
	imeKeycode = 2 // data: code, times
)

const (
	// MaxText bounds the text of one message in characters.
	MaxText  = 1024
	maxTimes = 64
	// A key that was given another symbol is not given the next one before this:
	// applications look a key's symbol up when they come to its press.
	settle = 60 * time.Millisecond
)

// androidKeys are the key codes of Android (android.view.KeyEvent) that its
// on-screen keyboards send, as X key codes.
var androidKeys = [...]struct {
	android int
	key     byte
}{{19, 111}, {20, 116}, {21, 113}, {22, 114}, {61, 23}, {62, 65}, {66, 36}, {67, 22}, {112, 119}} // up, down, left, right, Tab, Space, Enter, Backspace, Delete

type imeEvent struct {
	Type int `json:"type"`
	Data struct {
		Text  string `json:"text"`
		Code  int    `json:"code"`
		Times int    `json:"times"`
	} `json:"data"`
}

// ime types what an ime-event says. It waits where a text has more characters
// that the keyboard lacks than it has free keys. mu is held.
func (i *Injector) ime(data []byte) (bool, error) {
	var m imeEvent
	if err := json.Unmarshal(data, &m); err != nil {
		return false, api.Invalidf(typeText, "%v", err)
	}
	switch m.Type {
	case imeText:
		if n := utf8.RuneCountInString(m.Data.Text); n > MaxText {
			return false, api.Invalidf(typeText, "at most %d characters at once, got %d", MaxText, n)
		}
		return i.typeOut(m.Data.Text)
	case imeKeycode:
		for _, k := range androidKeys {
			if k.android == m.Data.Code {
				for range min(max(m.Data.Times, 1), maxTimes) {
					i.tap(k.key)
				}
				return true, nil
			}
		}
	}
	return false, nil
}

func (i *Injector) tap(key byte) {
	i.fake(keyPress, key, 0, 0)
	i.fake(keyRelease, key, 0, 0)
}

// typeOut presses a key for each character, one that has no symbol of its own:
// so neither the layout nor a held Shift changes what is typed.
func (i *Injector) typeOut(text string) (done bool, err error) {
	if len(i.spare.keys) == 0 {
		return false, fmt.Errorf("type text: %w", errNoSpare)
	}
	for _, r := range text {
		sym, ok := keysym(r)
		if !ok {
			continue
		}
		key, wait := i.spare.key(sym)
		for wait > 0 {
			i.mu.Unlock() // others may release or resize meanwhile
			time.Sleep(wait)
			i.mu.Lock()
			key, wait = i.spare.key(sym)
		}
		i.tap(key)
		done = true
	}
	return done, nil
}

// keysym gives X's symbol of a character (X11 protocol, appendix A): Latin-1 by
// its number, others by Unicode. Control characters have none, but for those
// that are keys.
func keysym(r rune) (xproto.Keysym, bool) {
	switch {
	case r == '\n', r == '\r':
		return 0xff0d, true // Return
	case r == '\t':
		return 0xff09, true // Tab
	case r == utf8.RuneError, unicode.IsControl(r):
		return 0, false
	case r >= 0x20 && r <= 0xff:
		return xproto.Keysym(r), true
	default:
		return xproto.Keysym(0x01000000 + r), true
	}
}

// spare are the keys of the keyboard that have no symbol, and what they were
// given. The one that was used longest ago is given the next symbol.
type spare struct {
	x      *xgb.Conn
	levels byte // symbols of a key
	keys   []spareKey
}

type spareKey struct {
	code byte
	sym  xproto.Keysym
	used time.Time
}

// newSpare finds the keys without a symbol.
func newSpare(x *xgb.Conn) (*spare, error) {
	info := xproto.Setup(x)
	first, n := info.MinKeycode, byte(info.MaxKeycode-info.MinKeycode)+1
	m, err := xproto.GetKeyboardMapping(x, first, n).Reply()
	if err != nil {
		return nil, fmt.Errorf("read keyboard mapping: %w", err)
	}
	s := &spare{x: x, levels: m.KeysymsPerKeycode}
	for k := range int(n) {
		syms := m.Keysyms[k*int(s.levels):][:s.levels]
		if !slices.ContainsFunc(syms, func(v xproto.Keysym) bool { return v != 0 }) {
			s.keys = append(s.keys, spareKey{code: byte(int(first) + k)})
		}
	}
	return s, nil
}

// key gives the key that has the symbol, or gives the symbol to one; where that
// must not be done yet, it says how long to wait first. There are keys.
func (s *spare) key(sym xproto.Keysym) (byte, time.Duration) {
	oldest := &s.keys[0]
	for i := range s.keys {
		k := &s.keys[i]
		if k.sym == sym {
			k.used = time.Now()
			return k.code, 0
		}
		if k.used.Before(oldest.used) {
			oldest = k
		}
	}
	if wait := settle - time.Since(oldest.used); wait > 0 && oldest.sym != 0 {
		return 0, wait
	}
	syms := make([]xproto.Keysym, s.levels)
	for i := range syms {
		syms[i] = sym
	}
	xproto.ChangeKeyboardMapping(s.x, 1, xproto.Keycode(oldest.code), s.levels, syms)
	oldest.sym, oldest.used = sym, time.Now()
	return oldest.code, 0
}
