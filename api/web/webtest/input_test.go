package webtest

import (
	"reflect"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
)

// press sends a real key-down; modifiers are Alt=1, Ctrl=2, Meta=4, Shift=8.
func press(p *tab, code, key string, modifiers int64) {
	p.t.Helper()
	call(p, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: "rawKeyDown", Code: code, Key: key, Modifiers: modifiers})
}

func release(p *tab, code, key string) {
	p.t.Helper()
	call(p, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: "keyUp", Code: code, Key: key})
}

func mouse(p *tab, kind input.DispatchMouseEventType, x, y float64, button input.MouseButton, held int64) {
	p.t.Helper()
	call(p, input.DispatchMouseEvent, input.DispatchMouseEventParams{Type: kind, X: x, Y: y, Button: button, Buttons: held, ClickCount: 1})
}

type data = map[string]any

// expect waits for exactly these messages of a kind, and forgets them.
func expect(t *testing.T, g *gateway, kind string, want ...data) {
	t.Helper()
	var got []message
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if got = g.messages(kind); len(got) >= len(want) {
			break
		}
	}
	list := make([]data, len(got))
	for i, m := range got {
		list[i] = m.Data
	}
	if !reflect.DeepEqual(list, want) {
		t.Errorf("%s: got %v, want %v", kind, list, want)
	}
	g.clear()
}

// TestInput sends every kind of input from a real browser. The picture is 320
// by 180, shown four times as large with bars of 40 pixels above and below.
func TestInput(t *testing.T) {
	browser := newBrowser(t)
	g, p := newGateway(t), newTab(t, browser)
	call(p, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: 1280, Height: 800, DeviceScaleFactor: 1})
	goLive(g, p)

	for _, test := range []struct {
		name string
		run  func(*testing.T, *gateway, *tab)
	}{
		{"keys", inputKeys},
		{"two shifts are one", inputShifts},
		{"a lost focus lets go", inputFocus},
		{"the chord gives the keyboard back", inputChord},
		{"mouse", inputMouse},
		{"buttons", inputButtons},
		{"a button held beside the page is let go", inputHeld},
		{"wheel", inputWheel},
		{"touch", inputTouch},
		{"text", inputText},
		{"pointer lock", inputLock},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, g, p) })
	}
}

func inputKeys(t *testing.T, g *gateway, p *tab) {
	press(p, "KeyW", "w", 0)
	press(p, "KeyW", "w", 0) // a repeat
	release(p, "KeyW", "w")
	press(p, "ArrowUp", "ArrowUp", 0)
	release(p, "ArrowUp", "ArrowUp")
	press(p, "Tab", "Tab", 0)
	release(p, "Tab", "Tab")
	press(p, "Escape", "Escape", 0)
	release(p, "Escape", "Escape")
	press(p, "AltRight", "AltGraph", 0)
	release(p, "AltRight", "AltGraph")
	expect(t, g, "input::key", on(26), off(26), on(82), off(82), on(43), off(43), on(41), off(41), on(87), off(87))
	if id := eval[string](p, "document.activeElement.id"); id != "surface" {
		t.Errorf("Tab moved the page's focus to %q", id)
	}
}

func inputShifts(t *testing.T, g *gateway, p *tab) {
	press(p, "ShiftLeft", "Shift", 8)
	press(p, "ShiftRight", "Shift", 8)
	release(p, "ShiftLeft", "Shift")
	release(p, "ShiftRight", "Shift")
	expect(t, g, "input::key", on(84), off(84))
}

func inputFocus(t *testing.T, g *gateway, p *tab) {
	press(p, "KeyA", "a", 0)
	press(p, "ControlLeft", "Control", 2)
	eval[chromedp.Void](p, "document.activeElement.blur()")
	expect(t, g, "input::key", on(4), on(83), off(4), off(83))
	release(p, "KeyA", "a")
	release(p, "ControlLeft", "Control")
	eval[chromedp.Void](p, "perigee.surface.focus()")
}

func inputChord(t *testing.T, g *gateway, p *tab) {
	press(p, "ControlLeft", "Control", 2)
	press(p, "AltLeft", "Alt", 3)
	press(p, "ShiftLeft", "Shift", 11)
	expect(t, g, "input::key", on(83), on(85), off(83), off(85))
	if id := eval[string](p, "document.activeElement.id"); id != "full" {
		t.Errorf("the focus is on %q", id)
	}
	eval[chromedp.Void](p, "perigee.surface.focus()")
}

func inputMouse(t *testing.T, g *gateway, p *tab) {
	mouse(p, "mouseMoved", 640, 400, "none", 0)
	expect(t, g, "input::mouse-move", data{"x": 160.0, "y": 90.0, "rx": 0.0, "ry": 0.0})
	mouse(p, "mouseMoved", 840, 440, "none", 0)
	expect(t, g, "input::mouse-move", data{"x": 210.0, "y": 100.0, "rx": 50.0, "ry": 10.0})
	mouse(p, "mouseMoved", 840, 790, "none", 0) // in the bar below: the lowest line
	expect(t, g, "input::mouse-move", data{"x": 210.0, "y": 179.0, "rx": 0.0, "ry": 79.0})
}

func inputButtons(t *testing.T, g *gateway, p *tab) {
	mouse(p, "mouseMoved", 400, 400, "none", 0)
	mouse(p, "mousePressed", 400, 400, "left", 1)
	mouse(p, "mousePressed", 400, 400, "right", 3)
	mouse(p, "mouseReleased", 400, 400, "right", 1)
	mouse(p, "mouseReleased", 400, 400, "left", 0)
	mouse(p, "mousePressed", 400, 400, "middle", 4)
	mouse(p, "mouseReleased", 400, 400, "middle", 0)
	expect(t, g, "input::mouse-button", button(1, true), button(3, true), button(3, false), button(1, false), button(2, true), button(2, false))
}

func inputHeld(t *testing.T, g *gateway, p *tab) {
	mouse(p, "mousePressed", 400, 400, "left", 1)
	expect(t, g, "input::mouse-button", button(1, true))
	eval[chromedp.Void](p, "window.dispatchEvent(new Event('blur'))")
	expect(t, g, "input::mouse-button", button(1, false))
	mouse(p, "mouseReleased", 400, 400, "left", 0)
}

func inputWheel(t *testing.T, g *gateway, p *tab) {
	wheel := func(dx, dy float64) {
		// The library leaves a zero delta out, and Chromium wants both.
		call(p, cdp.Command[data, cdp.Empty]{Method: "Input.dispatchMouseEvent"},
			data{"type": "mouseWheel", "x": 400, "y": 400, "deltaX": dx, "deltaY": dy})
	}
	wheel(0, 120)
	expect(t, g, "input::mouse-wheel", data{"x": 0.0, "y": -1.0})
	wheel(0, -240)
	expect(t, g, "input::mouse-wheel", data{"x": 0.0, "y": 1.0}, data{"x": 0.0, "y": 1.0})
	wheel(-100, 0)
	expect(t, g, "input::mouse-wheel", data{"x": 1.0, "y": 0.0})
	for range 3 { // a touchpad's trickle: one notch together
		wheel(0, 20)
	}
	expect(t, g, "input::mouse-wheel", data{"x": 0.0, "y": -1.0})
}

func inputTouch(t *testing.T, g *gateway, p *tab) {
	call(p, emulation.SetTouchEmulationEnabled, emulation.SetTouchEmulationEnabledParams{Enabled: true})
	one, two := 7.0, 9.0
	touch := func(kind input.DispatchTouchEventType, points ...*input.TouchPoint) {
		call(p, input.DispatchTouchEvent, input.DispatchTouchEventParams{Type: kind, TouchPoints: points})
	}
	first := &input.TouchPoint{X: 200, Y: 240, ID: &one}
	second := &input.TouchPoint{X: 400, Y: 440, ID: &two}
	touch("touchStart", first)
	expect(t, g, "input::touch-start", data{"id": 0.0, "x": 50.0, "y": 50.0})
	touch("touchStart", first, second)
	expect(t, g, "input::touch-start", data{"id": 1.0, "x": 100.0, "y": 100.0})
	touch("touchMove", first, &input.TouchPoint{X: 600, Y: 440, ID: &two})
	eventually(t, "the second finger moves", func() bool {
		m := g.messages("input::touch-move")
		return len(m) > 0 && reflect.DeepEqual(m[len(m)-1].Data, data{"id": 1.0, "x": 150.0, "y": 100.0})
	})
	g.clear()
	touch("touchEnd")
	eventually(t, "both fingers lift", func() bool { return len(g.messages("input::touch-end")) == 2 })
	ends := g.messages("input::touch-end")
	if ends[0].Data["last"] != false || ends[1].Data["last"] != true {
		t.Errorf("the fingers lift as %v", ends)
	}
	if n := len(g.messages("input::mouse-button")); n != 0 {
		t.Errorf("a touch was also told as %d mouse messages", n)
	}
	g.clear()
	call(p, emulation.SetTouchEmulationEnabled, emulation.SetTouchEmulationEnabledParams{Enabled: false})
}

func inputLock(t *testing.T, g *gateway, p *tab) {
	p.do(chromedp.Click("#lock"))
	p.until("perigee.pointerLocked")
	p.until("document.getElementById('lock').getAttribute('aria-pressed') === 'true'")
	g.clear()
	eval[chromedp.Void](p, `perigee.surface.dispatchEvent(new PointerEvent("pointermove", {movementX: 40, movementY: -20, clientX: 5, clientY: 5, button: -1, pointerType: "mouse"}))`)
	expect(t, g, "input::mouse-move", data{"rx": 10.0, "ry": -5.0})
	eval[chromedp.Void](p, "perigee.exitPointerLock()")
	p.until("!perigee.pointerLocked")
}

func on(code float64) data  { return data{"code": code, "pressed": true} }
func off(code float64) data { return data{"code": code, "pressed": false} }

func button(n float64, pressed bool) data { return data{"button": n, "pressed": pressed} }

// inputText writes as an input method, a foreign keyboard and an on-screen
// keyboard do: what is being composed is not sent, what comes of it is, once.
func inputText(t *testing.T, g *gateway, p *tab) {
	eval[chromedp.Void](p, "document.getElementById('type').click()")
	p.until("perigee.typing && document.activeElement.tagName === 'TEXTAREA'")
	g.clear()
	for _, part := range []string{"n", "に", "にほ"} {
		call(p, input.ImeSetComposition, input.ImeSetCompositionParams{Text: part, SelectionStart: 1, SelectionEnd: 1})
	}
	call(p, input.InsertText, input.InsertTextParams{Text: "日本"})
	call(p, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: "keyDown", Code: "Semicolon", Key: "ö", Text: "ö"})
	release(p, "Semicolon", "ö")
	call(p, input.InsertText, input.InsertTextParams{Text: "ok 😀"})
	text := func(s string) data { return data{"type": 1.0, "data": data{"text": s}} }
	expect(t, g, "input::ime-event", text("日本"), text("ö"), text("ok 😀"))

	// Keys that make no text go as ever; a click does not end the writing.
	call(p, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: "rawKeyDown", Code: "Backspace", Key: "Backspace", WindowsVirtualKeyCode: 8})
	release(p, "Backspace", "Backspace")
	press(p, "ArrowLeft", "ArrowLeft", 0)
	release(p, "ArrowLeft", "ArrowLeft")
	mouse(p, "mousePressed", 400, 400, "left", 1)
	mouse(p, "mouseReleased", 400, 400, "left", 0)
	expect(t, g, "input::key", on(42), off(42), on(80), off(80))
	p.until("document.activeElement.tagName === 'TEXTAREA'")
	// An on-screen keyboard tells a deletion, not a key.
	eval[chromedp.Void](p, `document.activeElement.dispatchEvent(new InputEvent("beforeinput", {inputType: "deleteContentBackward", cancelable: true, bubbles: true}))`)
	expect(t, g, "input::key", on(42), off(42))

	eval[chromedp.Void](p, "document.getElementById('type').click()")
	p.until("!perigee.typing && document.activeElement.id === 'surface'")
	press(p, "KeyW", "w", 0)
	release(p, "KeyW", "w")
	expect(t, g, "input::key", on(26), off(26))
	if m := g.messages("input::ime-event"); len(m) > 0 {
		t.Errorf("text is still sent: %v", m)
	}
	g.clear()
}
